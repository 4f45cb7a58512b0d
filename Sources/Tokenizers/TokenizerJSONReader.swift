// Reads `tokenizer.json`. A part that is not supported is an error that names it, never an approximation.
import Diagnostics
import Formats

/// Largest file read, and deepest nesting in it.
let maxTokenizerBytes = 64 << 20, maxTokenizerDepth = 64

struct TokenizerJSONReader {
    private let root: JSONObject
    /// Name of the file, for messages.
    private let file: String

    init(_ json: JSONValue, file: String) throws {
        guard let root = json.object else { throw UserError("\(file): \(json.kind) where a tokenizer should be") }
        (self.root, self.file) = (root, file)
    }

    private func failure(_ message: String) -> UserError { UserError("\(file): \(message)") }

    private func unsupported(_ part: String, _ what: String) -> UserError {
        failure(
            "\(part) \(what) is not supported; byte-level BPE tokenizers are (GPT-2, Llama 3, Qwen 2, SmolLM kinds)")
    }

    func parts() throws -> TokenizerParts {
        if let version = root["version"], version.string != "1.0" {
            throw failure("version \(version.serialized()) is not supported; 1.0 is")
        }
        let bpe = try model()
        return TokenizerParts(
            bpe: bpe, added: try addedTokens(bpe.vocabulary), normalizesNFC: try normalizesNFC(),
            preTokenizer: try preTokenizer(), postProcessors: try postProcessors(), decoder: try decoder())
    }

    // MARK: Model

    private func model() throws -> BPE {
        guard let model = root["model"]?.object else { throw failure("has no \"model\"") }
        // Files of old releases name no type; what they hold shows it.
        let type = model["type"]?.string ?? (model["merges"] == nil ? "of unknown type" : "BPE")
        guard type == "BPE" else { throw unsupported("model", type) }
        if let dropout = model["dropout"], dropout != .null, dropout.double != 0 {
            throw unsupported("model", "BPE with dropout \(dropout.serialized())")
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if let value = model[key]?.string, !value.isEmpty {
                throw unsupported("model", "BPE with \(key) \(quoted(value))")
            }
        }
        let tokens = try mappedTokens(model)
        let vocabulary = try Vocabulary(tokens, count: tokens.count, where: "\(file): model.vocab")
        var unknownID: Int32?
        if let unknown = model["unk_token"]?.string {
            unknownID = vocabulary.id(of: unknown)
            if unknownID == nil { throw failure("model.unk_token \(quoted(unknown)) is not in the vocabulary") }
        }
        let bpe = BPE(
            vocabulary: vocabulary, merges: try merges(model, vocabulary),
            ignoreMerges: model["ignore_merges"]?.bool ?? false, unknownID: unknownID,
            fuseUnknown: model["fuse_unk"]?.bool ?? false)
        if model["byte_fallback"]?.bool == true, !bpe.hasAllBytes {
            throw unsupported("model", "BPE with byte_fallback")
        }
        return bpe
    }

    private func mappedTokens(_ model: JSONObject) throws -> [(text: String, id: Int)] {
        guard let entries = model["vocab"]?.object else { throw failure("model.vocab is missing or no object") }
        return try entries.map { text, id in
            guard let id = id.int else { throw failure("model.vocab: the id of \(quoted(text)) is no whole number") }
            return (text: text, id: id)
        }
    }

    /// The tokens of a model of any kind, whether or not it can encode here, and the added ones.
    func listing() throws -> (vocabulary: Vocabulary, added: [AddedToken]) {
        guard let model = root["model"]?.object else { throw failure("has no \"model\"") }
        var tokens: [(text: String, id: Int)]
        if let pieces = model["vocab"]?.array {  // Unigram: [text, score] in the order of the ids
            tokens = try pieces.enumerated().map { id, piece in
                guard let text = piece.array?.first?.string else { throw failure("model.vocab[\(id)] has no text") }
                return (text: text, id: id)
            }
        } else {
            tokens = try mappedTokens(model)
        }
        let vocabulary = try Vocabulary(tokens, count: tokens.count, where: "\(file): model.vocab")
        return (vocabulary, try addedTokens(vocabulary))
    }

    private func merges(_ model: JSONObject, _ vocabulary: Vocabulary) throws -> MergeTable {
        guard let list = model["merges"]?.array else { throw failure("model.merges is missing or no list") }
        var reader = MergeReader(vocabulary, list.count, "\(file): model.merges")
        for (i, merge) in list.enumerated() {
            if let text = merge.string {
                try reader.append(line: text)
            } else if let pair = merge.array, pair.count == 2, let left = pair[0].string, let right = pair[1].string {
                try reader.append(left, right)
            } else {
                throw failure("model.merges[\(i)] is neither \"a b\" nor a pair of strings")
            }
        }
        return MergeTable(reader.merges)
    }

    // MARK: Added tokens

    /// Ids as the reference gives them: a token of the model keeps its id, the others follow in the order of the file.
    private func addedTokens(_ vocabulary: Vocabulary) throws -> [AddedToken] {
        guard let list = root["added_tokens"], list != .null else { return [] }
        guard let list = list.array else { throw failure("added_tokens is no list") }
        var numbering = AddedTokenNumbering(vocabulary, [], file)
        for (i, entry) in list.enumerated() {
            guard let content = entry["content"]?.string, let id = entry["id"]?.int else {
                throw failure("added_tokens[\(i)] needs a string \"content\" and a whole number \"id\"")
            }
            let flags = try ["single_word", "lstrip", "rstrip", "normalized", "special"].map { key in
                guard let flag = entry[key]?.bool else {
                    throw failure("added_tokens[\(i)].\(key) must be true or false")
                }
                return flag
            }
            try numbering.add(content, expecting: id) {
                AddedToken(
                    content, id: $0, singleWord: flags[0], stripsLeft: flags[1], stripsRight: flags[2],
                    normalized: flags[3], special: flags[4])
            }
        }
        return numbering.tokens
    }

    // MARK: Normalizer, pre-tokenizer, decoder

    private func normalizesNFC() throws -> Bool {
        try leaves(root["normalizer"], "normalizer", list: "normalizers").reduce(false) { _, part in
            guard part["type"]?.string == "NFC" else { throw unsupported("normalizer", typeName(part)) }
            return true
        }
    }

    private func preTokenizer() throws -> PreTokenizer {
        var result = PreTokenizer(steps: [], prefixBefore: nil), isByteLevel = false
        for part in try leaves(root["pre_tokenizer"], "pre_tokenizer", list: "pretokenizers") {
            if isByteLevel { throw unsupported("pre_tokenizer", "\(typeName(part)) after ByteLevel") }
            switch part["type"]?.string {
            case "Digits": result.steps.append(.digits(individual: part["individual_digits"]?.bool ?? false))
            case "Split": result.steps.append(.split(try splitPattern(part)))
            case "ByteLevel":
                isByteLevel = true
                if part["add_prefix_space"]?.bool ?? true { result.prefixBefore = result.steps.count }
                if part["use_regex"]?.bool ?? true { result.steps.append(.split(.gpt2)) }
            default: throw unsupported("pre_tokenizer", typeName(part))
            }
        }
        if result.steps.count > PreTokenizer.maxSteps {
            throw unsupported("pre_tokenizer", "of \(counted(result.steps.count, "step"))")
        }
        guard isByteLevel else { throw unsupported("a pre_tokenizer", "without ByteLevel") }
        return result
    }

    private func splitPattern(_ part: JSONValue) throws -> SplitPattern {
        let behavior = part["behavior"]?.string ?? "", invert = part["invert"]?.bool ?? false
        guard let regex = part["pattern"]?["Regex"]?.string else {
            throw unsupported("pre_tokenizer", "Split on \(part["pattern"]?.serialized() ?? "no pattern")")
        }
        guard let pattern = SplitPattern(regex: regex) else {
            throw unsupported("pre_tokenizer", "Split on the pattern \(JSONValue.string(regex).serialized())")
        }
        // Removing what lies between matches is the same as isolating the matches: they cover everything.
        guard (behavior == "Isolated" && !invert) || (behavior == "Removed" && invert) else {
            throw unsupported("pre_tokenizer", "Split with behavior \(quoted(behavior)), invert \(invert)")
        }
        return pattern
    }

    private func decoder() throws -> TokenizerParts.Decoder {
        let parts = try leaves(root["decoder"], "decoder", list: "decoders")
        for part in parts where part["type"]?.string != "ByteLevel" { throw unsupported("decoder", typeName(part)) }
        if parts.count > 1 { throw unsupported("decoder", "with ByteLevel twice") }
        return parts.isEmpty ? .joined : .byteLevel
    }

    // MARK: Post-processor

    private func postProcessors() throws -> [PostProcessor] {
        try leaves(root["post_processor"], "post_processor", list: "processors").map { part in
            switch part["type"]?.string {
            case "ByteLevel":
                guard part["trim_offsets"]?.bool ?? true else { return .nothing }
                return .trimOffsets(prefixSpace: part["add_prefix_space"]?.bool ?? true)
            case "TemplateProcessing": return .template(try template(part))
            default: throw unsupported("post_processor", typeName(part))
            }
        }
    }

    private func template(_ part: JSONValue) throws -> [TemplatePiece] {
        guard let single = part["single"]?.array else { throw failure("post_processor.single is missing or no list") }
        return try single.map { piece in
            if let sequence = piece["Sequence"] {
                guard sequence["id"]?.string == "A" else { throw failure("post_processor.single names a second text") }
                return .text
            }
            guard let name = piece["SpecialToken"]?["id"]?.string else {
                throw failure("post_processor.single has a piece that is neither Sequence nor SpecialToken")
            }
            let special = part["special_tokens"]?[name]
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
                }, tokens: tokens.map { ExactString($0.string ?? "") })
        }
    }

    // MARK: Sequences

    /// The parts of a section in order, with nested sequences opened; none for null.
    private func leaves(_ section: JSONValue?, _ name: String, list: String) throws -> [JSONValue] {
        guard let section, section != .null else { return [] }
        guard section.object != nil else { throw failure("\(name) is \(section.kind); an object should be there") }
        guard section["type"]?.string == "Sequence" else { return [section] }
        guard let items = section[list]?.array else { throw failure("\(name): a Sequence without \"\(list)\"") }
        // Depth is bounded by the parser's limit.
        return try items.flatMap { try leaves($0, name, list: list) }
    }

    private func typeName(_ part: JSONValue) -> String { part["type"]?.string.map { quoted($0) } ?? "without a type" }
}

/// Collects merges, checking each against the vocabulary.
struct MergeReader {
    private(set) var merges: [(left: Int32, right: Int32, joined: Int32)] = []
    private let vocabulary: Vocabulary
    private let place: String
    private var joined: [UInt8] = []

    init(_ vocabulary: Vocabulary, _ count: Int, _ place: String) {
        (self.vocabulary, self.place) = (vocabulary, place)
        merges.reserveCapacity(count)
    }

    /// A merge written `left right`.
    mutating func append(line: String) throws {
        var line = line
        let ids = try line.withUTF8 { utf8 in
            guard let space = utf8.firstIndex(of: 0x20), !utf8[(space + 1)...].contains(0x20) else {
                throw UserError("\(place)[\(merges.count)] is not two tokens with a space between")
            }
            return try find(
                UnsafeBufferPointer(rebasing: utf8[..<space]), UnsafeBufferPointer(rebasing: utf8[(space + 1)...]))
        }
        merges.append(ids)
    }

    mutating func append(_ left: String, _ right: String) throws {
        var left = left, right = right
        merges.append(try left.withUTF8 { left in try right.withUTF8 { right in try find(left, right) } })
    }

    private mutating func find(
        _ left: UnsafeBufferPointer<UInt8>, _ right: UnsafeBufferPointer<UInt8>
    ) throws -> (left: Int32, right: Int32, joined: Int32) {
        joined.removeAll(keepingCapacity: true)
        joined.append(contentsOf: left)
        joined.append(contentsOf: right)
        func id(_ text: UnsafeBufferPointer<UInt8>) throws -> Int32 {
            if let id = vocabulary.id(of: text) { return id }
            let token = quoted(String(decoding: text, as: UTF8.self))
            throw UserError("\(place)[\(merges.count)]: token \(token) is not in the vocabulary")
        }
        return (try id(left), try id(right), try joined.withUnsafeBufferPointer { try id($0) })
    }
}

/// Gives ids to added tokens.
struct AddedTokenNumbering {
    private(set) var tokens: [AddedToken]
    private let vocabulary: Vocabulary
    private let file: String
    private var next: Int
    private var positions: [ExactString: Int]

    init(_ vocabulary: Vocabulary, _ tokens: [AddedToken], _ file: String) {
        (self.vocabulary, self.tokens, self.file) = (vocabulary, tokens, file)
        positions = Dictionary(tokens.enumerated().map { (ExactString($1.content), $0) }) { $1 }
        next = max(vocabulary.count, (tokens.map { Int($0.id) + 1 }.max() ?? 0))
    }

    /// Adds a token, or replaces the properties of one that is there. Empty contents are ignored, as in the reference.
    mutating func add(_ content: String, expecting id: Int? = nil, _ make: (Int32) -> AddedToken) throws {
        if content.isEmpty { return }
        guard content.utf8.count <= AddedTokenMatcher.maxBytes else {
            throw UserError(
                "\(file): added token \(quoted(content)) is longer than \(AddedTokenMatcher.maxBytes) bytes")
        }
        let position = positions[ExactString(content)]
        let given = position.map { Int(tokens[$0].id) } ?? vocabulary.id(of: content).map { Int($0) } ?? next
        if let id, id != given {
            throw UserError("\(file): added token \(quoted(content)) has id \(id) in the file but loads as \(given)")
        }
        guard given <= Vocabulary.maxID else { throw UserError("\(file): more than \(Vocabulary.maxID) tokens") }
        let token = make(Int32(given))
        if let position {
            tokens[position] = token
        } else {
            positions[ExactString(content)] = tokens.count
            tokens.append(token)
            next = max(next, given + 1)
        }
    }
}
