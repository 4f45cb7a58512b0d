// Reads `tokenizer.json`. A part that is not supported is an error that names it, never an approximation.
import Diagnostics
import Formats

/// Largest file read, and deepest nesting in it.
let maxTokenizerBytes = 64 << 20, maxTokenizerDepth = 64

struct TokenizerJSONReader {
    let root: JSONObject
    /// Where the long lists are that `root` lacks.
    private var text: TokenizerText?
    /// Name of the file, for messages.
    let file: String

    init(_ json: JSONValue, file: String) throws {
        guard let root = json.object else { throw UserError("\(file): \(json.kind) where a tokenizer should be") }
        (self.root, self.file) = (root, file)
    }

    init(_ text: TokenizerText, file: String) { (self.text, root, self.file) = (text, text.outline, file) }

    func failure(_ message: String) -> UserError { UserError("\(file): \(message)") }

    func unsupported(_ part: String, _ what: String) -> UserError { failure("\(part) \(what) is not supported") }

    func parts() throws -> TokenizerParts {
        if let version = root["version"], version.string != "1.0" {
            throw failure("version \(version.serialized()) is not supported; 1.0 is")
        }
        let splitters = try splitters(), model = try model(splitters)
        return TokenizerParts(
            model: model, added: try addedTokens(model.vocabulary), normalizers: try normalizers(),
            postProcessors: try postProcessors(), decoder: try decoder(), limits: try limits())
    }

    // MARK: Model

    private func model(_ splitters: [PieceSplitter]) throws -> TokenizerParts.Model {
        guard let model = root["model"]?.object else { throw failure("has no \"model\"") }
        switch try type(of: model) {
        case "BPE": return try bpe(model, splitters)
        case "WordPiece":
            let vocabulary = try vocabulary(model)
            return .words(
                WordPiece(
                    vocabulary, unknownID: try unknown(model, vocabulary, default: "[UNK]"),
                    prefix: try part(model).text("continuing_subword_prefix", "##"),
                    maxCharacters: try count(model, "max_input_chars_per_word", default: 100)), splitters)
        case "WordLevel":
            let vocabulary = try vocabulary(model)
            return .words(
                WordLevel(vocabulary, unknownID: try unknown(model, vocabulary, default: "<unk>")), splitters)
        case "Unigram": return .words(try unigram(model), splitters)
        case PLaMo2.typeName:
            let (vocabulary, scores) = try scored(model)
            return .words(try PLaMo2(vocabulary, scores: scores, where: "\(file): model.vocab"), splitters)
        case let type: throw unsupported("model", type)
        }
    }

    /// Files of old releases name no type; what they hold shows it.
    private func type(of model: JSONObject) throws -> String {
        if let type = model["type"], type != .null {
            guard let type = type.string else { throw failure("model.type is \(type.kind); a text should be there") }
            return type
        }
        if model["merges"] != nil { return "BPE" }
        if model["vocab"]?.array != nil { return "Unigram" }
        if model["max_input_chars_per_word"] != nil { return "WordPiece" }
        return model["vocab"] != nil && model["unk_token"] != nil ? "WordLevel" : "of unknown type"
    }

    private func part(_ model: JSONObject) -> Part { Part(json: .object(model), section: "model", file: file) }

    private func vocabulary(_ model: JSONObject) throws -> Vocabulary {
        var builder = VocabularyBuilder(where: "\(file): model.vocab")
        func add(_ text: UnsafeBufferPointer<UInt8>, _ id: Int?) throws {
            guard let id else {
                let token = quoted(String(decoding: text, as: UTF8.self))
                throw failure("model.vocab: the id of \(token) is no whole number")
            }
            try builder.add(text, id)
        }
        if let entries = text?.vocab {
            builder.reserve(tokens: entries.count, bytes: entries.byteCount)
            try entries.forEach { try add($0, $1) }
            return try builder.finish()
        }
        guard let entries = model["vocab"]?.object else { throw failure("model.vocab is missing or no object") }
        for case (var text, let id) in entries { try text.withUTF8 { try add($0, id.int) } }
        return try builder.finish()
    }

    private func unknown(_ model: JSONObject, _ vocabulary: Vocabulary, default name: String) throws -> Int32 {
        let unknown = try part(model).text("unk_token", name)
        guard let id = vocabulary.id(of: unknown) else {
            throw failure("model.unk_token \(quoted(unknown)) is not in the vocabulary")
        }
        return id
    }

    private func count(_ object: JSONObject, _ key: String, default value: Int) throws -> Int {
        guard let given = object[key], given != .null else { return value }
        guard let count = given.int, count >= 0 else {
            throw failure("model.\(key) is \(given.serialized()); a whole number should be there")
        }
        return count
    }

    private func bpe(_ model: JSONObject, _ splitters: [PieceSplitter]) throws -> TokenizerParts.Model {
        if let dropout = model["dropout"], dropout != .null, dropout.double != 0 {
            throw unsupported("model", "BPE with dropout \(dropout.serialized()), which draws tokens by chance,")
        }
        let vocabulary = try vocabulary(model), part = part(model)
        var rules = CharacterBPE.Rules()
        if let unknown = model["unk_token"], unknown != .null {
            rules.unknownID = try self.unknown(model, vocabulary, default: "")
        }
        rules.fusesUnknown = try part.flag("fuse_unk", false)
        rules.hasByteFallback = try part.flag("byte_fallback", false)
        rules.ignoresMerges = try part.flag("ignore_merges", false)
        rules.prefix = try part.bytes("continuing_subword_prefix", "")
        rules.suffix = try part.bytes("end_of_word_suffix", "")
        let merges = try merges(model, vocabulary, prefix: rules.prefix.count)
        let isPlain = rules.prefix.isEmpty && rules.suffix.isEmpty
        if isPlain, let preTokenizer = PreTokenizer(splitters),
            !rules.hasByteFallback || vocabulary.byteIDs.allSatisfy({ $0 >= 0 })
        {
            let bpe = BPE(
                vocabulary: vocabulary, merges: merges, ignoreMerges: rules.ignoresMerges, unknownID: rules.unknownID,
                fuseUnknown: rules.fusesUnknown)
            return .byteLevel(bpe, preTokenizer)
        }
        return .words(CharacterBPE(vocabulary, merges, rules), splitters)
    }

    /// A vocabulary of pairs of a text and a score.
    private func scored(_ model: JSONObject) throws -> (Vocabulary, [Double]) {
        guard let pieces = model["vocab"]?.array else { throw failure("model.vocab is missing or no list") }
        var scores: [Double] = []
        scores.reserveCapacity(pieces.count)
        let texts = try pieces.enumerated().map { id, piece in
            guard let pair = piece.array, pair.count == 2, let text = pair[0].string, let score = pair[1].double else {
                throw failure("model.vocab[\(id)] is no pair of a text and a score")
            }
            scores.append(score)
            return text
        }
        return (try Vocabulary(texts, where: "\(file): model.vocab"), scores)
    }

    private func unigram(_ model: JSONObject) throws -> Unigram {
        let (vocabulary, scores) = try scored(model)
        guard let unknown = model["unk_id"]?.int, scores.indices.contains(unknown) else {
            throw failure("model.unk_id is missing or names no piece; a Unigram model needs an unknown piece")
        }
        return Unigram(
            vocabulary, scores: scores, unknownID: Int32(unknown),
            hasByteFallback: try part(model).flag("byte_fallback", false))
    }

    /// The tokens of a model of any kind, whether or not it can encode here, and the added ones.
    func listing() throws -> (vocabulary: Vocabulary, added: [AddedToken]) {
        guard let model = root["model"]?.object else { throw failure("has no \"model\"") }
        guard let pieces = model["vocab"]?.array else {
            let vocabulary = try vocabulary(model)
            return (vocabulary, try addedTokens(vocabulary))
        }
        let texts = try pieces.enumerated().map { id, piece in  // Unigram: [text, score] in the order of the ids
            guard let text = piece.array?.first?.string else { throw failure("model.vocab[\(id)] has no text") }
            return text
        }
        let vocabulary = try Vocabulary(texts, where: "\(file): model.vocab")
        return (vocabulary, try addedTokens(vocabulary))
    }

    private func merges(_ model: JSONObject, _ vocabulary: Vocabulary, prefix: Int) throws -> MergeTable {
        var reader = MergeReader(vocabulary, "\(file): model.merges", prefix: prefix)
        if let entries = text?.merges {
            try entries.forEach { try reader.append($0, $1) }
            return MergeTable(reader.merges)
        }
        guard let list = model["merges"]?.array else { throw failure("model.merges is missing or no list") }
        for merge in list {
            if var text = merge.string {
                try text.withUTF8 { try reader.append($0, nil) }
            } else if let pair = merge.array, pair.count == 2, var left = pair[0].string, var right = pair[1].string {
                try left.withUTF8 { left in try right.withUTF8 { try reader.append(left, $0) } }
            } else {
                try reader.append(nil, nil)
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
}

/// Collects merges, checking each against the vocabulary.
struct MergeReader {
    private(set) var merges: [(left: Int32, right: Int32, joined: Int32)] = []
    /// Not the whole vocabulary, a copy of which for every merge would take longer than the search.
    private let index: ByteStringIndex
    private let place: String
    /// Length of the prefix that a right part loses when it is joined.
    private let prefix: Int
    private var joined: [UInt8] = []

    init(_ vocabulary: Vocabulary, _ place: String, prefix: Int = 0) {
        (index, self.place, self.prefix) = (vocabulary.index, place, prefix)
        merges.reserveCapacity(vocabulary.count)
    }

    /// A merge: `left right` with nothing else, or the two by themselves; two times nil for what is neither.
    mutating func append(_ first: UnsafeBufferPointer<UInt8>?, _ second: UnsafeBufferPointer<UInt8>?) throws {
        guard let first else { throw UserError("\(place)[\(merges.count)] is neither \"a b\" nor a pair of strings") }
        if let second { return merges.append(try find(first, second)) }
        guard let space = first.firstIndex(of: 0x20), !first[(space + 1)...].contains(0x20) else {
            throw UserError("\(place)[\(merges.count)] is not two tokens with a space between")
        }
        merges.append(
            try find(
                UnsafeBufferPointer(rebasing: first[..<space]), UnsafeBufferPointer(rebasing: first[(space + 1)...])))
    }

    private mutating func find(
        _ left: UnsafeBufferPointer<UInt8>, _ right: UnsafeBufferPointer<UInt8>
    ) throws -> (left: Int32, right: Int32, joined: Int32) {
        // Most files list merges in the order of the tokens that they make.
        let next = (merges.last?.joined ?? -2) + 1
        let (first, second) = (try id(of: left), try id(of: right))
        if prefix == 0, let start = left.baseAddress, start + left.count == right.baseAddress {
            let both = UnsafeBufferPointer(start: start, count: left.count + right.count)  // side by side already
            return (first, second, try id(of: both, guess: next))
        }
        joined.removeAll(keepingCapacity: true)
        joined.append(contentsOf: left)
        joined.append(contentsOf: right.dropFirst(prefix))
        return (first, second, try joined.withUnsafeBufferPointer { try id(of: $0, guess: next) })
    }

    private func id(of text: UnsafeBufferPointer<UInt8>, guess: Int32 = -1) throws -> Int32 {
        if let id = index.id(of: text, guess: guess) { return id }
        let token = quoted(String(decoding: text, as: UTF8.self))
        throw UserError("\(place)[\(merges.count)]: token \(token) is not in the vocabulary")
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
    mutating func add(_ content: String, expecting id: Int? = nil, _ make: (Int32) throws -> AddedToken) throws {
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
        let token = try make(Int32(given))
        if let position {
            tokens[position] = token
        } else {
            positions[ExactString(content)] = tokens.count
            tokens.append(token)
            next = max(next, given + 1)
        }
    }
}
