// needletail tokenizer: encode, decode, render, template, inspect
public import ArgumentParser
internal import ChatTemplates
internal import Diagnostics
internal import Formats
internal import ModelFiles
internal import RecipeData
internal import Tokenizers

/// Text to tokens and back, without loading a model's weights.
public struct TokenizerCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "tokenizer",
        abstract: "Turn text into tokens and back, render chats, look at a tokenizer.",
        discussion: """
            Example:
              needletail tokenizer inspect ./SmolLM2-135M-Instruct
            """,
        subcommands: [Encode.self, Decode.self, Render.self, Template.self, Inspect.self])

    public init() {}

    struct Encode: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "encode", abstract: "Write the tokens of texts, with their offsets.",
            discussion: """
                Rows are {"text"}, one a line. Each gives a line like

                  {"ids":[504,3575,282],"offsets":[[0,3],[3,11],[11,14]]}

                Offsets count Unicode scalars of the text. Special tokens are added as the tokenizer's own files say.

                Example:
                  needletail tokenizer encode ./SmolLM2-135M-Instruct --input texts.jsonl --output ids.jsonl
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var files: RowFileOptions

        @Flag(help: "Add no special tokens; those spelled out in the text are still recognised.")
        var noSpecialTokens = false

        @Flag(help: "Write the ids only, which takes less time.")
        var noOffsets = false

        @Flag(
            help: """
                Truncate and pad as the tokenizer's file says, each row by itself: padding to the longest of a batch adds \
                nothing. Without it every text is encoded whole.
                """)
        var limited = false

        func run() throws {
            let tokenizer = try model.tokenizer()
            try files.convert { row, place, line in
                guard let text = row["text"]?.string else { throw place.wants("{\"text\": \"...\"}") }
                if row["text_pair"] != nil {
                    throw UserError("\(place.description): \"text_pair\": pairs of texts are not encoded together")
                }
                if noOffsets, !limited {
                    append(ids: tokenizer.encode(text, addSpecialTokens: !noSpecialTokens), to: &line)
                } else {
                    let encoding = tokenizer.encoding(of: text, addSpecialTokens: !noSpecialTokens, limited: limited)
                    append(ids: encoding.ids, to: &line)
                    if !noOffsets { append(offsets: encoding.offsets, to: &line) }
                }
                line.append(UInt8(ascii: "}"))
            }
        }

        /// Spelled out by hand: through `JSONValue` this would take longer than encoding.
        private func append(ids: [Int32], to line: inout [UInt8]) {
            line.append(contentsOf: "{\"ids\":[".utf8)
            for (i, id) in ids.enumerated() {
                if i > 0 { line.append(UInt8(ascii: ",")) }
                appendDecimal(Int(id), to: &line)
            }
            line.append(UInt8(ascii: "]"))
        }

        private func append(offsets: [Range<Int>], to line: inout [UInt8]) {
            line.append(contentsOf: ",\"offsets\":[".utf8)
            for (i, range) in offsets.enumerated() {
                if i > 0 { line.append(UInt8(ascii: ",")) }
                line.append(UInt8(ascii: "["))
                appendDecimal(range.lowerBound, to: &line)
                line.append(UInt8(ascii: ","))
                appendDecimal(range.upperBound, to: &line)
                line.append(UInt8(ascii: "]"))
            }
            line.append(UInt8(ascii: "]"))
        }

        /// Appends the digits of a number that is not negative.
        private func appendDecimal(_ value: Int, to line: inout [UInt8]) {
            if value >= 10 { appendDecimal(value / 10, to: &line) }
            line.append(UInt8(ascii: "0") + UInt8(truncatingIfNeeded: value % 10))
        }
    }

    struct Decode: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "decode", abstract: "Write the texts of tokens.",
            discussion: """
                Rows are {"ids"}, one a line. Each text is written as it is, followed by a line break; with --json as

                  {"text":"The capital of"}

                Example:
                  needletail tokenizer decode ./SmolLM2-135M-Instruct --input ids.jsonl --output texts.jsonl --json
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var files: RowFileOptions

        @Flag(help: "Leave special tokens out of the text.")
        var skipSpecialTokens = false

        @Flag(help: "Write JSON lines.")
        var json = false

        func run() throws {
            let tokenizer = try model.tokenizer()
            try files.convert { row, place, line in
                guard let values = row["ids"]?.array else { throw place.wants("{\"ids\": [1, 2, 3]}") }
                let ids = try values.map { value in
                    guard let id = value.int, let id = Int32(exactly: id), tokenizer.hasToken(id) else {
                        throw place.error(
                            "\(value.serialized(.compact)) is not a token of this tokenizer, which has ids 0 to "
                                + "\(tokenizer.vocabularySize - 1)")
                    }
                    return id
                }
                let text = tokenizer.decode(ids, skipSpecialTokens: skipSpecialTokens)
                if json { appendJSON("text", text, to: &line) } else { line.append(contentsOf: text.utf8) }
            }
        }
    }

    struct Render: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "render", abstract: "Write chats as the text that the model's chat template makes of them.",
            discussion: """
                Rows are {"messages"}, with "tools" and "add_generation_prompt" if wanted; other members reach the \
                template as variables. Each gives a line {"text":"..."}.

                Example:
                  needletail tokenizer render ./SmolLM2-135M-Instruct --input chats.jsonl --output texts.jsonl
                """)

        @OptionGroup var model: TokenizerOptions
        @OptionGroup var files: RowFileOptions

        @Option(
            help: ArgumentHelp(
                "A template file, or one that comes with the program, instead of the model's own.",
                valueName: "template"),
            completion: .file())
        var template: String?

        @Option(
            help: ArgumentHelp(
                "The time for templates that print it, like 2026-07-04T09:05:03; default: the clock.",
                valueName: "time"))
        var now: RenderTime?

        func run() throws {
            let tokenizer = try model.tokenizer()
            let choice = try TemplateChoice(
                templateSource(tokenizer), withTools: template == nil ? tokenizer.toolTemplate : nil)
            let fixed = now?.time
            let ownMembers = ["messages", "tools", "add_generation_prompt"]
            try files.convert { row, place, line in
                guard let object = row.object, let messages = row["messages"]?.array else {
                    throw place.wants("{\"messages\": [{\"role\": \"...\", \"content\": \"...\"}]}")
                }
                var variables = tokenizer.templateVariables
                for (key, value) in zip(object.keys, object.values) where !ownMembers.contains(key) {
                    variables[key] = value
                }
                do {
                    let tools = row["tools"]?.array
                    let text = try choice.template(tools).render(
                        messages: messages, tools: tools,
                        addGenerationPrompt: row["add_generation_prompt"]?.bool ?? false, variables: variables,
                        now: { _ in fixed ?? .now })
                    appendJSON("text", text, to: &line)
                } catch let error as UserError {
                    throw UserError("\(place.description): \(error.message)", error.exitStatus)
                }
            }
        }

        private func templateSource(_ tokenizer: Tokenizer) throws -> String {
            if let template { return try SFTData.templateSource(template) }
            guard let own = tokenizer.chatTemplate else {
                let names = ChatTemplate.builtIn.keys.sorted().joined(separator: ", ")
                throw UserError(
                    "\(model.model): this tokenizer has no chat template; give one with --template (a file, or \(names))"
                )
            }
            return own
        }
    }

    struct Template: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "template", abstract: "Print a chat template that comes with the program.",
            discussion: """
                Without a name it lists them. A template printed into a file can be changed and given as data.template.

                Example:
                  needletail tokenizer template chatml
                """)

        @Argument(
            help: ArgumentHelp("Its name, as in data.template of a config.", valueName: "name"),
            completion: .list(ChatTemplate.builtIn.keys.sorted()))
        var name: String?

        func run() throws {
            let names = ChatTemplate.builtIn.keys.sorted()
            guard let name else { return try StandardOutput.write(names.map { $0 + "\n" }.joined()) }
            guard let source = ChatTemplate.builtIn[name] else {
                let hint =
                    nearestName(to: name, among: names).map { "did you mean \($0)?" }
                    ?? "those are \(names.joined(separator: ", "))"
                throw UserError("no template \(name) comes with the program; \(hint)", .usage)
            }
            try StandardOutput.write(source + "\n")
        }
    }

    struct Inspect: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "inspect", abstract: "Show what a tokenizer is made of.",
            discussion: """
                Example:
                  needletail tokenizer inspect ./SmolLM2-135M-Instruct
                """)

        @OptionGroup var model: TokenizerOptions

        func run() throws {
            let tokenizer = try model.tokenizer()
            var report = DoctorReport()
            report.add("vocabulary", "\(tokenizer.vocabularySize) ids")
            let named = [
                ("bos", tokenizer.bosToken), ("eos", tokenizer.eosToken), ("pad", tokenizer.padToken),
                ("unk", tokenizer.unkToken),
            ]
            for (name, token) in named {
                report.add("\(name) token", token.map { "\($0.id) \(quoted($0.text))" } ?? "none")
            }
            for token in tokenizer.addedTokens {
                report.add("added token", "\(token.id) \(quoted(token.content))\(token.special ? " special" : "")")
            }
            let template = tokenizer.chatTemplate.map { counted($0.unicodeScalars.count, "character") }
            report.add("chat template", template ?? "none")
            try StandardOutput.write(report.text)
        }
    }
}

/// A moment given as `2026-07-04`, `2026-07-04T09:05:03` or with microseconds.
struct RenderTime: ExpressibleByArgument {
    let time: TemplateTime

    init?(argument: String) {
        let complete = ["", ".000000", "T00:00:00.000000"].lazy.compactMap { TemplateTime(text: argument + $0) }
        guard let time = complete.first else { return nil }
        self.time = time
    }
}

/// A model of which only the tokenizer is read.
struct TokenizerOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "A Hugging Face, adapter or run folder, a GGUF file, or a tokenizer's own file.", valueName: "model"),
        completion: .file())
    var model: String

    @Option(
        help: ArgumentHelp("The base model of an adapter folder that has no tokenizer.", valueName: "model"),
        completion: .file())
    var base: String?

    func tokenizer() throws -> Tokenizer {
        let path = try ModelReference.tokenizerPath(model, base: base)
        ignoredCode(in: path).forEach { note($0) }
        return try Tokenizer(modelPath: path)
    }
}

private func appendJSON(_ key: String, _ text: String, to line: inout [UInt8]) {
    JSONValue.object(JSONObject([(key, .string(text))])).write(to: &line)
}

private func quoted(_ text: String) -> String { JSONValue.string(text).serialized(.compact) }
