// Reads normalizers, pre-tokenizers, post-processors, decoders and limits of `tokenizer.json`.
import Diagnostics
import Formats

extension TokenizerJSONReader {
    /// One part of a section, and what messages call it.
    struct Part {
        let json: JSONValue
        let section: String
        let file: String

        var type: String { json["type"]?.string ?? "" }
        var name: String { json["type"]?.string.map { quoted($0) } ?? "without a type" }

        func failure(_ what: String) -> UserError {
            UserError("\(file): \(section)\(json["type"] == nil ? "" : " " + name): \(what)")
        }

        func flag(_ key: String, _ value: Bool? = nil) throws -> Bool {
            if let given = json[key], given != .null {
                guard let flag = given.bool else { throw failure("\(key) must be true or false") }
                return flag
            }
            guard let value else { throw failure("\(key) is missing") }
            return value
        }

        func text(_ key: String, _ value: String? = nil) throws -> String {
            if let given = json[key], given != .null {
                guard let text = given.string else { throw failure("\(key) must be a text") }
                return text
            }
            guard let value else { throw failure("\(key) is missing") }
            return value
        }

        func bytes(_ key: String, _ value: String? = nil) throws -> [UInt8] { Array(try text(key, value).utf8) }

        func count(_ key: String, _ value: Int? = nil, most: Int = 1 << 20) throws -> Int {
            if let given = json[key], given != .null {
                guard let count = given.int, (0...most).contains(count) else {
                    throw failure("\(key) must be a whole number")
                }
                return count
            }
            guard let value else { throw failure("\(key) is missing") }
            return value
        }

        func character(_ key: String, _ value: String? = nil) throws -> UInt32 {
            let scalars = try text(key, value).unicodeScalars
            guard scalars.count == 1 else { throw failure("\(key) must be one character") }
            return scalars.first!.value
        }

        /// `{"Regex": ...}` or `{"String": ...}`.
        func pattern() throws -> SplitRegex {
            if let text = json["pattern"]?["String"]?.string { return SplitRegex(exactly: text) }
            guard let pattern = json["pattern"]?["Regex"]?.string else {
                throw failure("pattern is neither a Regex nor a String")
            }
            do {
                return try SplitRegex(pattern)
            } catch let error as UserError {
                throw failure("the pattern \(quoted(pattern)): \(error.message)")
            }
        }
    }

    /// The parts of a section in order, with nested sequences opened; none for null.
    private func leaves(_ name: String, list: String) throws -> [Part] {
        try leaves(root[name], name, list: list).map { Part(json: $0, section: name, file: file) }
    }

    private func leaves(_ section: JSONValue?, _ name: String, list: String) throws -> [JSONValue] {
        guard let section, section != .null else { return [] }
        guard section.object != nil else { throw failure("\(name) is \(section.kind); an object should be there") }
        guard section["type"]?.string == "Sequence" else { return [section] }
        guard let items = section[list]?.array else { throw failure("\(name): a Sequence without \"\(list)\"") }
        // Depth is bounded by the parser's limit.
        return try items.flatMap { try leaves($0, name, list: list) }
    }

    // MARK: Normalizers

    func normalizers() throws -> [Normalizer] {
        try leaves("normalizer", list: "normalizers").map { part in
            if let form = NormalForm(rawValue: part.type) { return .form(form) }
            switch part.type {
            case "Lowercase": return .lowercase
            case "Strip": return .strip(left: try part.flag("strip_left"), right: try part.flag("strip_right"))
            case "StripAccents": return .stripAccents
            case "BertNormalizer":
                let lowercases = try part.flag("lowercase", true)
                return .bert(
                    cleansText: try part.flag("clean_text", true),
                    spacesChinese: try part.flag("handle_chinese_chars", true),
                    stripsAccents: try part.flag("strip_accents", lowercases), lowercases: lowercases)
            case "Nmt": return .nmt
            case "Precompiled":
                var bytes: [UInt8] = []
                guard try part.bytes("precompiled_charsmap").withUnsafeBufferPointer({ appendBase64($0, to: &bytes) })
                else {
                    throw part.failure("precompiled_charsmap is no base64")
                }
                return .charsmap(try Charsmap(bytes, "\(file): normalizer.precompiled_charsmap"))
            case "Replace": return .replace(try part.pattern(), try part.bytes("content"))
            case "Prepend": return .prepend(try part.bytes("prepend"))
            case "ByteLevel": return .byteLevel
            default: throw unsupported("normalizer", part.name)
            }
        }
    }

    // MARK: Pre-tokenizers

    func splitters() throws -> [PieceSplitter] {
        try leaves("pre_tokenizer", list: "pretokenizers").flatMap { part -> [PieceSplitter] in
            switch part.type {
            case "BertPreTokenizer":
                return [.characters(.space, .removed), .characters(.bertPunctuation, .isolated)]
            case "ByteLevel":
                return [
                    .byteLevel(
                        addsPrefixSpace: try part.flag("add_prefix_space", true),
                        splits: try part.flag("use_regex", true))
                ]
            case "CharDelimiterSplit": return [.characters(.one(try part.character("delimiter")), .removed)]
            case "Digits":
                return [
                    .characters(.numeric, try part.flag("individual_digits", false) ? .isolated : .contiguous)
                ]
            case "FixedLength": return [.fixedLength(max(try part.count("length", 5), 1))]
            case "Metaspace":
                let addsSpace = try part.flag("add_prefix_space", true)
                let name = try part.text("prepend_scheme", addsSpace ? "always" : "never")
                guard let scheme = PieceSplitter.PrependScheme(rawValue: name), addsSpace || scheme == .never else {
                    throw part.failure("prepend_scheme \(quoted(name)) is not one that fits")
                }
                return [
                    .metaspace(
                        replacement: try part.character("replacement", "\u{2581}"), scheme,
                        splits: try part.flag("split", true))
                ]
            case "Punctuation": return [.characters(.bertPunctuation, try behavior(part, "Isolated"))]
            case "Split": return [try split(part)]
            case "UnicodeScripts": return [.scripts]
            case "Whitespace": return [.words]
            case "WhitespaceSplit": return [.characters(.space, .removed)]
            default: throw unsupported("pre_tokenizer", part.name)
            }
        }
    }

    private func behavior(_ part: Part, _ value: String? = nil) throws -> PieceSplitter.Behavior {
        let name = try part.text("behavior", value)
        guard let behavior = PieceSplitter.Behavior(rawValue: name) else {
            throw part.failure("behavior \(quoted(name)) is not known")
        }
        return behavior
    }

    private func split(_ part: Part) throws -> PieceSplitter {
        let behavior = try behavior(part), inverted = try part.flag("invert", false)
        // Removing what lies between matches is the same as isolating the matches of what matches everywhere.
        if (behavior == .isolated && !inverted) || (behavior == .removed && inverted),
            let regex = part.json["pattern"]?["Regex"]?.string, let known = SplitPattern(regex: regex)
        {
            return .known(known)
        }
        return .pattern(try part.pattern(), behavior, inverted: inverted)
    }

    // MARK: Decoders

    func decoder() throws -> TokenizerParts.Decoder {
        let decoders = try leaves("decoder", list: "decoders").map { part -> TokenDecoder in
            switch part.type {
            case "ByteLevel": return .byteLevel
            case "WordPiece":
                return .wordPiece(prefix: try part.bytes("prefix", "##"), cleansUp: try part.flag("cleanup", true))
            case "Metaspace":
                let keepsFirst = try part.flag("add_prefix_space", true) == false
                return .metaspace(
                    replacement: try part.bytes("replacement", "\u{2581}"),
                    keepsFirst: keepsFirst || part.json["prepend_scheme"]?.string == "never")
            case "BPEDecoder": return .bpe(suffix: try part.bytes("suffix", "</w>"))
            case "CTC":
                return .ctc(
                    pad: try part.bytes("pad_token", "<pad>"), delimiter: try part.bytes("word_delimiter_token", "|"),
                    cleansUp: try part.flag("cleanup", true))
            case "Fuse": return .fuse
            case "Strip":
                var content: [UInt8] = []
                appendUTF8(try part.character("content", " "), to: &content)
                return .strip(content, start: try part.count("start", 0), stop: try part.count("stop", 0))
            case "Replace": return .replace(try part.pattern(), try part.bytes("content"))
            case "ByteFallback": return .byteFallback
            default: throw unsupported("decoder", part.name)
            }
        }
        if decoders.isEmpty { return .joined }
        if decoders.count == 1, case .byteLevel = decoders[0] { return .byteLevel }
        return .chain(decoders)
    }

    // MARK: Post-processors

    func postProcessors() throws -> [PostProcessor] {
        try leaves("post_processor", list: "processors").flatMap { part -> [PostProcessor] in
            switch part.type {
            case "ByteLevel":
                guard try part.flag("trim_offsets", true) else { return [.nothing] }
                return [.trimOffsets(prefixSpace: try part.flag("add_prefix_space", true))]
            case "BertProcessing": return [.template(try around(part))]
            case "RobertaProcessing":
                let template = PostProcessor.template(try around(part))
                guard try part.flag("trim_offsets", true) else { return [template] }
                return [.trimOffsets(prefixSpace: try part.flag("add_prefix_space", true)), template]
            case "TemplateProcessing": return [.template(try template(part))]
            default: throw unsupported("post_processor", part.name)
            }
        }
    }

    /// `cls`, the text, `sep`.
    private func around(_ part: Part) throws -> [TemplatePiece] {
        func piece(_ key: String) throws -> TemplatePiece {
            guard let pair = part.json[key]?.array, pair.count == 2, let text = pair[0].string, let id = pair[1].int,
                (0...Vocabulary.maxID).contains(id)
            else { throw part.failure("\(key) is no pair of a token and its id") }
            return .special(ids: [Int32(id)], tokens: [ExactString(text)])
        }
        return [try piece("cls"), .text, try piece("sep")]
    }

    private func template(_ part: Part) throws -> [TemplatePiece] {
        guard let single = part.json["single"]?.array else {
            throw failure("post_processor.single is missing or no list")
        }
        if let pair = part.json["pair"], pair != .null, pair.array == nil {
            throw failure("post_processor.pair is \(pair.kind); a list should be there")
        }
        return try single.map { piece in
            if let sequence = piece["Sequence"] {
                guard sequence["id"]?.string == "A" else { throw failure("post_processor.single names a second text") }
                return .text
            }
            guard let name = piece["SpecialToken"]?["id"]?.string else {
                throw failure("post_processor.single has a piece that is neither Sequence nor SpecialToken")
            }
            let special = part.json["special_tokens"]?[name]
            guard let ids = special?["ids"]?.array, let tokens = special?["tokens"]?.array, ids.count == tokens.count
            else {
                throw failure("post_processor.special_tokens lacks \(quoted(name)), which the template uses")
            }
            return .special(
                ids: try ids.map { id in
                    guard let id = id.int, (0...Vocabulary.maxID).contains(id) else {
                        throw failure("post_processor: token \(quoted(name)) has an impossible id")
                    }
                    return Int32(id)
                },
                tokens: try tokens.map { token in
                    guard let text = token.string else {
                        throw failure("post_processor: token \(quoted(name)) has a text that is none")
                    }
                    return ExactString(text)
                })
        }
    }

    // MARK: Truncation and padding

    func limits() throws -> LengthLimits {
        var limits = LengthLimits()
        if let json = root["truncation"], json != .null {
            let part = Part(json: json, section: "truncation", file: file)
            let strategy = try part.text("strategy", "LongestFirst")
            guard ["LongestFirst", "OnlyFirst", "OnlySecond"].contains(strategy) else {
                throw failure("truncation: strategy \(quoted(strategy)) is not known")
            }
            _ = try part.count("stride", 0, most: .max)  // of what is cut off, which is not asked for
            limits.truncation = .init(
                maxLength: try part.count("max_length", most: .max), fromLeft: try isLeft(part),
                appliesToText: strategy != "OnlySecond")
        }
        if let json = root["padding"], json != .null {
            let part = Part(json: json, section: "padding", file: file)
            var padding = LengthLimits.Padding()
            if let fixed = json["strategy"]?["Fixed"] {
                guard let length = fixed.int, (0...1 << 20).contains(length) else {
                    throw failure("padding: the fixed length must be a whole number")
                }
                padding.length = length
            } else if json["strategy"]?.string != "BatchLongest" {
                throw failure("padding: strategy is neither BatchLongest nor Fixed")
            }
            padding.multiple = try part.count("pad_to_multiple_of", 0)
            padding.onLeft = try isLeft(part)
            padding.id = Int32(try part.count("pad_id", 0, most: Vocabulary.maxID))
            _ = (try part.count("pad_type_id", 0, most: .max), try part.text("pad_token", ""))
            limits.padding = padding
        }
        return limits
    }

    private func isLeft(_ part: Part) throws -> Bool {
        let direction = try part.text("direction", "Right")
        guard ["Right", "Left"].contains(direction) else {
            throw failure("\(part.section): direction \(quoted(direction)) is not known")
        }
        return direction == "Left"
    }
}

/// The value of each character of base64 (RFC 4648); 64 for padding, 255 outside the alphabet.
private let base64Values: [UInt8] = {
    var values = [UInt8](repeating: 255, count: 256)
    for (value, character) in base64Alphabet.enumerated() { values[Int(character)] = UInt8(value) }
    values[0x3D] = 64
    return values
}()

/// Appends the bytes that base64 stands for; false, and some of them appended, for what is no base64.
func appendBase64(_ text: UnsafeBufferPointer<UInt8>, to bytes: inout [UInt8]) -> Bool {
    base64Values.withUnsafeBufferPointer { values in
        guard text.count % 4 == 0 else { return false }
        for at in stride(from: 0, to: text.count, by: 4) {
            let a = values[Int(text[at])], b = values[Int(text[at + 1])]
            let c = values[Int(text[at + 2])], d = values[Int(text[at + 3])]
            let isLast = at + 4 == text.count, padding = !isLast || d != 64 ? 0 : c != 64 ? 1 : 2
            guard a < 64, b < 64, c < 64 || padding == 2, d < 64 || padding > 0 else { return false }
            let bits = UInt32(a) << 18 | UInt32(b) << 12 | UInt32(c & 63) << 6 | UInt32(d & 63)
            bytes.append(UInt8(truncatingIfNeeded: bits >> 16))
            if padding < 2 { bytes.append(UInt8(truncatingIfNeeded: bits >> 8)) }
            if padding < 1 { bytes.append(UInt8(truncatingIfNeeded: bits)) }
        }
        return true
    }
}
