// Named steps between a row's reading and its use: filters that leave rows out, maps that change them.
import Diagnostics
import Formats
import Tokenizers

/// One step, written as `name` or `name:argument=value,argument=value`; a comma or backslash in a value is escaped by `\`.
public struct RowTransform: Sendable, Equatable {
    /// As it was written: two equal texts do the same.
    public let text: String
    private let step: Step

    /// What a step does with a row.
    enum Step: Sendable {
        case map(@Sendable (RowContent) -> RowContent)
        /// Why the row is left out; nil keeps it.
        case filter(@Sendable (RowContent) -> String?)
    }

    /// What may be written, for help texts.
    public struct Description: Sendable {
        public let usage: String
        public let summary: String
    }

    public static var all: [Description] {
        definitions.map { definition in
            let arguments = definition.arguments.map { "\($0)=..." }.joined(separator: ",")
            return Description(
                usage: definition.name + (arguments.isEmpty ? "" : ":" + arguments), summary: definition.summary)
        }
    }

    public static func == (a: RowTransform, b: RowTransform) -> Bool { a.text == b.text }

    /// - Throws: `UserError` for a name, an argument or a value that cannot be meant.
    public init(_ text: String, source: String = "") throws {
        self.text = text
        func refusal(_ message: String) -> UserError { UserError(prefixed(source, message), .usage) }
        let colon = text.firstIndex(of: ":"), name = String(text[..<(colon ?? text.endIndex)])
        guard let definition = Self.definitions.first(where: { $0.name == name }) else {
            let names = Self.definitions.map(\.name)
            let near =
                name == "language"
                ? "script:name=... goes by the letters that a text is written in"
                : nearestName(to: name, among: names).map { "did you mean \($0)?" }
            throw refusal(
                "no transform is named \(quoted(name)); \(near ?? "those are \(names.joined(separator: ", "))")")
        }
        var arguments = Arguments(name: name, source: source)
        for pair in colon.map({ Self.pairs(text[text.index(after: $0)...]) }) ?? [] {
            guard let equals = pair.firstIndex(of: "=") else {
                throw refusal("\(name): \(quoted(pair)) is not of the form argument=value")
            }
            let key = String(pair[..<equals])
            guard definition.arguments.contains(key) else {
                let known =
                    definition.arguments.isEmpty
                    ? "it has none" : "it has \(definition.arguments.joined(separator: ", "))"
                throw refusal("\(name): no argument is named \(quoted(key)); \(known)")
            }
            guard arguments.values.updateValue(String(pair[pair.index(after: equals)...]), forKey: key) == nil else {
                throw refusal("\(name): \(key) is given twice")
            }
        }
        step = try definition.make(arguments)
    }

    /// Parts between commas that no backslash stands before, without the backslashes.
    private static func pairs(_ text: Substring) -> [String] {
        var parts: [String] = [], part = "", isEscaped = false
        for character in text {
            switch character {
            case _ where isEscaped:
                part.append(character)
                isEscaped = false
            case "\\": isEscaped = true
            case ",":
                parts.append(part)
                part = ""
            default: part.append(character)
            }
        }
        return parts + [part]
    }

    /// - Throws: `RowFault` of reason `filtered` for a row that is left out.
    func apply(_ content: RowContent) throws(RowFault) -> RowContent {
        switch step {
        case .map(let map): return map(content)
        case .filter(let filter):
            guard let reason = filter(content) else { return content }
            throw RowFault(.filtered, "\(text): \(reason)", stage: text)
        }
    }
}

/// What was written behind a transform's name.
private struct Arguments {
    let name: String
    let source: String
    var values: [String: String] = [:]

    func refusal(_ message: String) -> UserError { UserError(prefixed(source, "\(name): \(message)"), .usage) }

    func number<Number: LosslessStringConvertible & Comparable>(
        _ key: String, atLeast minimum: Number, default value: Number? = nil
    ) throws -> Number? {
        guard let text = values[key] else { return value }
        guard let number = Number(text), number >= minimum else {
            throw refusal("\(key)=\(text) is not a number of at least \(minimum)")
        }
        return number
    }

    /// Alternatives with bars between them; a bar inside of `<|...|>` is part of that token.
    func texts(_ key: String) throws -> [String]? {
        guard let text = values[key] else { return nil }
        let characters = Array(text)
        var parts = [""]
        for (i, character) in characters.enumerated() {
            let isOwn = i > 0 && characters[i - 1] == "<" || i + 1 < characters.count && characters[i + 1] == ">"
            if character == "|", !isOwn { parts.append("") } else { parts[parts.count - 1].append(character) }
        }
        parts.removeAll(where: \.isEmpty)
        if parts.isEmpty { throw refusal("\(key) is empty") }
        return parts
    }

    func flag(_ key: String) throws -> Bool {
        switch values[key] {
        case nil, "false": return false
        case "true": return true
        case let text?: throw refusal("\(key)=\(text) is neither true nor false")
        }
    }
}

private struct Definition: Sendable {
    let name: String
    let arguments: [String]
    let summary: String
    let make: @Sendable (Arguments) throws -> RowTransform.Step
}

extension RowTransform {
    private static let definitions: [Definition] = [
        Definition(name: "characters", arguments: ["min", "max"], summary: "keeps rows of so many characters") {
            try between($0, "character") { $0.texts.reduce(0) { $0 + $1.unicodeScalars.count } }
        },
        Definition(name: "words", arguments: ["min", "max"], summary: "keeps rows of so many words between blanks") {
            try between($0, "word") { $0.texts.reduce(0) { $0 + words($1).count } }
        },
        Definition(
            name: "turns", arguments: ["min", "max"], summary: "keeps chats of so many turns; other rows have one"
        ) {
            try between($0, "turn") { $0.turnCount }
        },
        Definition(
            name: "keyword", arguments: ["drop", "keep", "case"],
            summary:
                "drops rows that hold one of the texts a|b, or keeps only those; case=true minds upper and lower case",
            make: keyword),
        Definition(
            name: "ngram_repetition", arguments: ["n", "max"],
            summary: "drops rows in whose answers more than this share (0.2) of the n-grams of words (n=3) came before",
            make: repetition),
        Definition(
            name: "date_cutoff", arguments: ["latest"],
            summary: "drops rows that name a month or day after this one: 2024-03-07, 2024-03, March 2024, in 2024",
            make: dateCutoff),
        Definition(
            name: "special_tokens", arguments: ["tokens"],
            summary:
                "drops rows whose text looks like a template's tokens (<|...|>, <s>, [INST], ...), or holds one of a|b",
            make: specialTokens),
        Definition(
            name: "script", arguments: ["name", "min"],
            summary:
                "keeps rows of whose letters at least this share (0.8) is of the script Latin, or of one of Han|Hiragana|...;"
                + " rows without letters stay",
            make: script),
        Definition(name: "has_system", arguments: [], summary: "keeps rows with a system turn") { _ in
            .filter { $0.hasSystem ? nil : "has no system turn" }
        },
        Definition(name: "strip", arguments: [], summary: "takes blanks off the ends of every text") { _ in
            .map { $0.mapTexts { _, text in stripped(text) } }
        },
        Definition(name: "drop_system", arguments: [], summary: "takes system turns away") { _ in
            .map { $0.withSystem(nil, replacing: true) }
        },
        Definition(
            name: "add_system", arguments: ["text"], summary: "gives rows that have no system turn this one"
        ) { arguments in
            guard let text = arguments.values["text"], !isBlank(text) else { throw arguments.refusal("give text=...") }
            return .map { $0.withSystem(text, replacing: false) }
        },
        Definition(
            name: "last_turn_only", arguments: [], summary: "trains only the last turn of the assistant in a chat"
        ) { _ in .map { $0.trainingLastTurnOnly() } },
    ]

    // MARK: filters

    private static func between(
        _ arguments: Arguments, _ unit: String, _ count: @escaping @Sendable (RowContent) -> Int
    ) throws -> Step {
        let low = try arguments.number("min", atLeast: 0), high = try arguments.number("max", atLeast: 0)
        if low == nil, high == nil { throw arguments.refusal("give min=..., max=... or both") }
        if let low, let high, low > high { throw arguments.refusal("min=\(low) is more than max=\(high)") }
        return .filter { content in
            let n = count(content)
            return n < low ?? 0 || n > high ?? .max ? "has \(counted(n, unit))" : nil
        }
    }

    @Sendable private static func keyword(_ arguments: Arguments) throws -> Step {
        let drop = try arguments.texts("drop"), keep = try arguments.texts("keep"), minds = try arguments.flag("case")
        guard let words = drop ?? keep, drop == nil || keep == nil else {
            throw arguments.refusal("give either drop=... or keep=...")
        }
        let wanted = words.map { (word: $0, bytes: Array((minds ? $0 : $0.lowercased()).utf8)) }
        return .filter { content in
            let texts = content.texts.map { Array((minds ? $0 : $0.lowercased()).utf8) }
            let found = wanted.first { entry in texts.contains { $0.holds(entry.bytes) } }
            if let found { return drop != nil ? "holds \(quoted(found.word))" : nil }
            return drop != nil ? nil : "holds none of the keywords"
        }
    }

    @Sendable private static func repetition(_ arguments: Arguments) throws -> Step {
        let n = try arguments.number("n", atLeast: 1, default: 3)!
        let most = try arguments.number("max", atLeast: 0.0, default: 0.2)!
        return .filter { content in
            var seen: Set<[Substring]> = [], count = 0
            for answer in content.answers {
                let words = words(answer)
                if words.count < n { continue }
                for start in 0...words.count - n {
                    count += 1
                    seen.insert(Array(words[start..<start + n]))
                }
            }
            let share = count == 0 ? 0 : Double(count - seen.count) / Double(count)
            return share > most ? "\((share * 1000).rounded() / 10) % of its \(n)-grams are repeated" : nil
        }
    }

    @Sendable private static func dateCutoff(_ arguments: Arguments) throws -> Step {
        guard let text = arguments.values["latest"], let latest = CalendarDate(text) else {
            throw arguments.refusal("give latest=YYYY-MM-DD, YYYY-MM or YYYY")
        }
        return .filter { content in
            for text in content.texts {
                if let date = CalendarDate.all(in: text).first(where: { $0.begins(after: latest) }) {
                    return "names \(date)"
                }
            }
            return nil
        }
    }

    /// What letters a row is written in, which is not its language: Latin letters are those of hundreds.
    @Sendable private static func script(_ arguments: Arguments) throws -> Step {
        guard let wanted = try arguments.texts("name") else {
            throw arguments.refusal("give name=Latin or another script")
        }
        let places = try wanted.map { name in
            if let place = Script.names.firstIndex(of: name) { return place }
            let near = nearestName(to: name, among: Script.names).map { "did you mean \($0)?" }
            throw arguments.refusal(
                "no script is named \(quoted(name)); \(near ?? "those are \(Script.names.joined(separator: ", "))")")
        }
        let least = try arguments.number("min", atLeast: 0.0, default: 0.8)!
        if least > 1 { throw arguments.refusal("min=\(least) is more than 1, which is all letters") }
        return .filter { content in
            var letters = 0, own = 0
            for counts in content.texts.lazy.map(Script.letterCounts) {
                letters += counts.reduce(0, +)
                own += Set(places).reduce(0) { $0 + counts[$1] }
            }
            if letters == 0 || Double(own) >= least * Double(letters) { return nil }
            let share = (Double(own) / Double(letters) * 1000).rounded() / 10
            return "\(share) % of its letters are \(wanted.joined(separator: " or "))"
        }
    }

    /// Texts that models' templates use; whoever trains on them teaches a model to forge turns.
    private static let templateTokens = [
        "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
        "<start_of_turn>",
        "<end_of_turn>", "[BOS]", "[EOS]", "<|endoftext|>",
    ]

    @Sendable private static func specialTokens(_ arguments: Arguments) throws -> Step {
        let given = try arguments.texts("tokens")
        let tokens = (given ?? templateTokens).map { (text: $0, bytes: Array($0.utf8)) }
        return .filter { content in
            for text in content.texts {
                let bytes = Array(text.utf8)
                if let found = tokens.first(where: { bytes.holds($0.bytes) }) { return "holds \(quoted(found.text))" }
                if given == nil, let found = barToken(bytes) { return "holds \(quoted(found))" }
            }
            return nil
        }
    }

    /// `<|...|>` with a name of letters, digits and underscores in it.
    private static func barToken(_ bytes: [UInt8]) -> String? {
        var at = 0
        while at + 1 < bytes.count {
            guard bytes[at] == UInt8(ascii: "<"), bytes[at + 1] == UInt8(ascii: "|") else {
                at += 1
                continue
            }
            let name = bytes[(at + 2)...].prefix { isNameByte($0) }, end = at + 2 + name.count
            if !name.isEmpty, end + 1 < bytes.count, bytes[end] == UInt8(ascii: "|"),
                bytes[end + 1] == UInt8(ascii: ">")
            {
                return String(decoding: bytes[at...end + 1], as: UTF8.self)
            }
            at += 2
        }
        return nil
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        byte == UInt8(ascii: "_") || UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte
            || UInt8(ascii: "a")...UInt8(ascii: "z") ~= byte | 0x20
    }
}

// MARK: texts of rows

private func words(_ text: String) -> [Substring] { text.split { $0.unicodeScalars.allSatisfy(isWhiteSpace) } }

private func stripped(_ text: String) -> String {
    var scalars = text.unicodeScalars[...]
    while let first = scalars.first, isWhiteSpace(first) { scalars.removeFirst() }
    while let last = scalars.last, isWhiteSpace(last) { scalars.removeLast() }
    return String(scalars)
}

extension [UInt8] {
    /// Whether `part` stands anywhere in it.
    fileprivate func holds(_ part: [UInt8]) -> Bool {
        guard let first = part.first, count >= part.count else { return part.isEmpty }
        var at = 0
        while let found = self[at...(count - part.count)].firstIndex(of: first) {
            if self[found..<found + part.count].elementsEqual(part) { return true }
            at = found + 1
            if at > count - part.count { return false }
        }
        return false
    }
}

extension RowContent {
    /// Every text of the row.
    public var texts: [String] {
        if case .task(.columns(_, let object)) = self { return columnTexts(object) }
        var texts: [String] = []
        _ = mapTexts { _, text in
            texts.append(text)
            return text
        }
        return texts
    }

    /// Every text of a row of a task head, its labels left out: also those of lists and of a question's answers.
    private func columnTexts(_ object: JSONObject) -> [String] {
        object.flatMap { name, value -> [String] in
            if ["target", "targets", "tags"].contains(name) { return [] }
            if let text = value.string { return [text] }
            return (value["text"]?.array ?? value.array ?? []).compactMap(\.string)
        }
    }

    /// What the assistant says; of a document, all of it.
    public var answers: [String] {
        var texts: [String] = []
        _ = mapTexts { role, text in
            if role == .assistant { texts.append(text) }
            return text
        }
        return texts
    }

    /// What is asked: everything that is neither the assistant's nor the system's; of a document, all of it.
    public var questions: [String] {
        var texts: [String] = []
        _ = mapTexts { role, text in
            if role == .user { texts.append(text) }
            return text
        }
        if case .text(let text) = self { texts = [text] }
        return texts
    }

    var turnCount: Int {
        switch self {
        case .chat(let messages, _): messages.count
        case .task(.preference(let prompt, let chosen, _, _)): prompt.count + chosen.count
        case .task(.unpaired(let prompt, let completion, _)): prompt.count + completion.count
        case .task(.rlvr(let prompt, _, _, _, _)), .task(.scored(let prompt, _, _)): prompt.count
        default: 1
        }
    }

    var hasSystem: Bool {
        switch self {
        case .chat(let messages, _): messages.contains(where: \.isSystem)
        case .instruction(let system, _, _, _): system != nil
        case .task(.preference(let prompt, _, _, _)), .task(.unpaired(let prompt, _, _)),
            .task(.rlvr(let prompt, _, _, _, _)), .task(.scored(let prompt, _, _)):
            prompt.contains(where: \.isSystem)
        default: false
        }
    }

    /// Gives every text to `change` with the role it is said in.
    func mapTexts(_ change: (ChatMessage.Role, String) -> String) -> RowContent {
        func messages(_ list: [ChatMessage]) -> [ChatMessage] {
            list.map {
                ChatMessage(role: $0.role, content: change($0.role, $0.content), extra: $0.fields, trained: $0.trained)
            }
        }
        switch self {
        case .chat(let list, let tools): return .chat(messages(list), tools: tools)
        case .instruction(let system, let instruction, let input, let output):
            return .instruction(
                system: system.map { change(.system, $0) }, instruction: change(.user, instruction),
                input: input.isEmpty ? "" : change(.user, input), output: change(.assistant, output))
        case .completion(let prompt, let completion):
            return .completion(prompt: change(.user, prompt), completion: change(.assistant, completion))
        case .text(let text): return .text(change(.assistant, text))
        case .task(.preference(let prompt, let chosen, let rejected, let tools)):
            return .task(
                .preference(
                    prompt: messages(prompt), chosen: messages(chosen), rejected: messages(rejected), tools: tools))
        case .task(.unpaired(let prompt, let completion, let isGood)):
            return .task(.unpaired(prompt: messages(prompt), completion: messages(completion), isGood: isGood))
        case .task(.rlvr(let prompt, let truths, let verifiers, let tools, let environment)):
            return .task(
                .rlvr(
                    prompt: messages(prompt), groundTruths: truths, verifiers: verifiers, tools: tools,
                    environment: environment))
        case .task(.scored(let prompt, let completion, let scores)):
            return .task(
                .scored(prompt: messages(prompt), completion: change(.assistant, completion), scores: scores))
        case .task(.columns(let kind, let object)):
            // Offsets of answers and lists of tokens must stay as they are; their texts are only shown.
            guard kind == .classification || kind == .sentencePairs || kind == .questionAnswering else { return self }
            var changed = object
            for name in ["text", "sentence1", "sentence2", "sentence3", "question"] {
                if let text = object[name]?.string { changed[name] = .string(change(.user, text)) }
            }
            return .task(.columns(kind, changed))
        }
    }

    /// - Parameter replacing: takes away system turns that are there; else they stay and `text` is not used.
    fileprivate func withSystem(_ text: String?, replacing: Bool) -> RowContent {
        if !replacing, hasSystem { return self }
        func turns(_ messages: [ChatMessage]) -> [ChatMessage] {
            (text.map { [ChatMessage(role: .system, content: $0)] } ?? []) + messages.filter { !$0.isSystem }
        }
        switch self {
        case .chat(let messages, let tools): return .chat(turns(messages), tools: tools)
        case .instruction(_, let instruction, let input, let output):
            return .instruction(system: text, instruction: instruction, input: input, output: output)
        case .completion(let prompt, let completion):
            guard text != nil, !isBlank(prompt) else { return self }
            let turns = turns([
                ChatMessage(role: .user, content: prompt), ChatMessage(role: .assistant, content: completion),
            ])
            return .chat(turns, tools: [])
        case .task(.preference(let prompt, let chosen, let rejected, let tools)):
            return .task(.preference(prompt: turns(prompt), chosen: chosen, rejected: rejected, tools: tools))
        case .task(.unpaired(let prompt, let completion, let isGood)):
            return .task(.unpaired(prompt: turns(prompt), completion: completion, isGood: isGood))
        case .task(.rlvr(let prompt, let truths, let verifiers, let tools, let environment)):
            return .task(
                .rlvr(
                    prompt: turns(prompt), groundTruths: truths, verifiers: verifiers, tools: tools,
                    environment: environment))
        case .task(.scored(let prompt, let completion, let scores)) where !prompt.isEmpty:
            return .task(.scored(prompt: turns(prompt), completion: completion, scores: scores))
        case .text, .task: return self
        }
    }

    fileprivate func trainingLastTurnOnly() -> RowContent {
        guard case .chat(let messages, let tools) = self,
            let last = messages.lastIndex(where: { $0.role == .assistant })
        else { return self }
        let marked = messages.enumerated().map { i, message in
            ChatMessage(role: message.role, content: message.content, extra: message.fields, trained: i == last)
        }
        return .chat(marked, tools: tools)
    }
}
