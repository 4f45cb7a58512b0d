// A tokenizer as GGUF metadata. The format keeps lists and names; what the names mean is fixed. So the metadata is made,
// read back as tokenizer.json, and compared with the original: what differs cannot be expressed and is refused.
import Diagnostics
public import Formats

/// A tokenizer in the form that GGUF files keep.
public struct GGUFTokenizerMetadata: Sendable {
    /// `tokenizer.*`.
    public let entries: [GGUFEntry]
    /// What readers of the file will do otherwise, a sentence each; empty for nearly all tokenizers.
    public let notes: [String]
}

extension Tokenizer {
    /// The tokenizer as GGUF metadata.
    ///
    /// - Parameters:
    ///   - size: rows of the model's token table; ids without a token are filled up.
    ///   - path: named in messages.
    /// - Throws: `UserError` naming the part that GGUF cannot express.
    public func ggufMetadata(size: Int, path: String) throws -> GGUFTokenizerMetadata {
        var writer = try GGUFTokenizerWriter(self, size: size, path: path)
        return GGUFTokenizerMetadata(entries: try writer.entries(), notes: writer.notes)
    }
}

/// Lists and names for one tokenizer.
private struct GGUFTokenizerWriter {
    private let tokenizer: Tokenizer
    private let root: JSONValue
    private let path: String
    private var tokens: [String]
    private var types: [Int32]
    private var scores: [Float] = []
    private(set) var notes: [String] = []
    /// `tokenizer.ggml.model`.
    private let model: String

    init(_ tokenizer: Tokenizer, size: Int, path: String) throws {
        (self.tokenizer, self.path) = (tokenizer, path)
        root = tokenizer.tokenizerJSON
        guard tokenizer.vocabularySize <= size else {
            throw UserError(
                "\(path): the tokenizer has ids up to \(tokenizer.vocabularySize - 1), the model's table \(counted(size, "row"))"
            )
        }
        model = try Self.model(root, path)
        tokens = (0..<size).map { "[PAD\($0)]" }
        types = [Int32](repeating: GGUFVocabulary.TokenType.unused, count: size)
        for id in 0..<Int32(size) {
            guard let text = tokenizer.token(of: id) else { continue }
            tokens[Int(id)] =
                model == "rwkv" ? PythonBytes.write(tokenizer.bytes(of: id, skipSpecialTokens: false) ?? []) : text
            types[Int(id)] = GGUFVocabulary.TokenType.normal
        }
        if model == "llama" || model == "plamo2" { try markBytes() }
        for token in tokenizer.addedTokens { try mark(token) }
        if model == "t5", case .sentencePiece(let file) = tokenizer.files.source {
            // Found before anything else in llama.cpp; with marks in place of spaces never.
            for (id, piece) in file.pieces.enumerated()
            where piece.kind == .userDefined && !tokens[id].unicodeScalars.contains("\u{2581}") {
                types[id] = GGUFVocabulary.TokenType.userDefined
            }
        }
        if let unknown = unknownID, model != "gpt2" { types[unknown] = GGUFVocabulary.TokenType.unknown }
        if model == "llama" { scores = mergeScores() }
        if model == "t5" || model == "plamo2" { scores = pieceScores() }
        if normalizers(root).contains(where: Self.isFormC) {
            notes.append(
                "the tokenizer brings texts into normal form C first, which llama.cpp does not: texts in another form get "
                    + "other tokens there")
        }
    }

    private static func model(_ root: JSONValue, _ path: String) throws -> String {
        let kind = root["model"]?["type"]?.string ?? "BPE"
        let isByteLevel = flattened(root["pre_tokenizer"], "pretokenizers").contains {
            $0["type"]?.string == "ByteLevel"
        }
        switch kind {
        case "BPE" where isByteLevel: return "gpt2"
        case "BPE" where root["model"]?["byte_fallback"]?.bool == true: return "llama"
        case "Unigram": return "t5"
        case "WordPiece" where isByteLevel && root["model"]?["continuing_subword_prefix"]?.string == "": return "rwkv"
        case PLaMo2.typeName: return "plamo2"
        default:
            throw UserError(
                "\(path): a tokenizer of kind \(kind) without bytes cannot be written for llama.cpp; byte-level BPE, "
                    + "SentencePiece BPE with byte fallback, Unigram, RWKV's and PLaMo 2's can")
        }
    }

    private mutating func markBytes() throws {
        for byte in 0..<256 {
            let name = "<0x\(byte < 16 ? "0" : "")\(String(byte, radix: 16, uppercase: true))>"
            guard let id = tokenizer.id(of: name) else {
                throw UserError("\(path): the tokenizer falls back to bytes, but has no token \(name)")
            }
            types[Int(id)] = GGUFVocabulary.TokenType.byte
        }
    }

    private mutating func mark(_ token: AddedToken) throws {
        guard !token.stripsLeft, !token.stripsRight, !token.singleWord else {
            throw UserError(
                "\(path): added token \(quoted(token.content)) is matched with the blanks beside it or as a word only "
                    + "(lstrip, rstrip, single_word), which GGUF cannot express")
        }
        let id = Int(token.id)
        types[id] = token.special ? GGUFVocabulary.TokenType.control : GGUFVocabulary.TokenType.userDefined
        // Marks of a token that is looked for in normalized text stand for spaces of the text itself.
        tokens[id] =
            model == "llama" && token.normalized
            ? String(String.UnicodeScalarView(token.content.unicodeScalars.map { $0 == "\u{2581}" ? " " : $0 }))
            : token.content
    }

    private var unknownID: Int? {
        if let id = root["model"]?["unk_id"]?.int { return id }
        // RWKV's is a token like any other, named since WordPiece must name one.
        guard model != "rwkv", let name = root["model"]?["unk_token"]?.string else {
            return tokenizer.unkToken.map { Int($0.id) }
        }
        return tokenizer.id(of: name).map(Int.init)
    }

    /// llama.cpp merges the pair whose whole has the best score, tokenizer.json the pair that stands first in its list: the
    /// first place at which a piece is made, negated, is its score.
    private func mergeScores() -> [Float] {
        var scores = [Float](repeating: -10_000_000, count: tokens.count)
        for (place, merge) in (root["model"]?["merges"]?.array ?? []).enumerated() {
            guard let (left, right) = Self.sides(merge), let id = tokenizer.id(of: left + right),
                scores[Int(id)] == -10_000_000
            else { continue }
            scores[Int(id)] = -Float(place)
        }
        for (id, type) in types.enumerated() where type != GGUFVocabulary.TokenType.normal { scores[id] = 0 }
        return scores
    }

    private func pieceScores() -> [Float] {
        var scores = [Float](repeating: 0, count: tokens.count)
        for (id, piece) in (root["model"]?["vocab"]?.array ?? []).enumerated() {
            scores[id] = Float(piece.array?.last?.double ?? 0)
        }
        return scores
    }

    /// The sides of a merge: a list of two, or one text with a space between.
    private static func sides(_ merge: JSONValue) -> (String, String)? {
        if let pair = merge.array, pair.count == 2, let left = pair[0].string, let right = pair[1].string {
            return (left, right)
        }
        guard let line = merge.string, let space = line.utf8.firstIndex(of: 0x20) else { return nil }
        return (String(line[..<space]), String(line[line.utf8.index(after: space)...]))
    }

    // MARK: Entries

    mutating func entries() throws -> [GGUFEntry] {
        var reason = ""
        for (name, note) in try preTokenizers() {
            let (entries, metadata) = try entries(preTokenizer: name)
            guard let difference = try difference(from: metadata) else {
                if let note { notes.append(note) }
                return entries
            }
            if reason.isEmpty { reason = difference }
        }
        if reason.isEmpty { reason = "its pre_tokenizer \(Self.text(root["pre_tokenizer"])) has no known name" }
        throw UserError("\(path): the tokenizer cannot be written so that llama.cpp makes the same tokens: \(reason)")
    }

    /// Names for the pre-tokenizer, and what llama.cpp does otherwise under them.
    private func preTokenizers() throws -> [(String, String?)] {
        guard model == "gpt2" else { return [("default", nil)] }
        let wanted = splitting(root)
        return try GGUFPreTokenizer.names.compactMap { name in
            let kind = try GGUFPreTokenizer(name, path)
            if splitting(["pre_tokenizer": kind.preTokenizer]) == wanted { return (name, nil) }
            guard let original = kind.original, splitting(["pre_tokenizer": original]) == wanted else { return nil }
            return (
                name,
                "llama.cpp comes near this tokenizer's words only (as \(name)): some words, above all in other alphabets than "
                    + "the Latin one, get other tokens there"
            )
        }
    }

    private func entries(preTokenizer: String) throws -> ([GGUFEntry], GGUFMetadata) {
        var entries: [GGUFEntry] = [], values: [(String, GGUFValue)] = []
        func add(_ entry: GGUFEntry, _ value: GGUFValue) {
            entries.append(entry)
            values.append((entry.key, value))
        }
        func key(_ name: String) -> String { "tokenizer.ggml.\(name)" }
        add(.string(key("model"), model), .string(model))
        add(.string(key("pre"), preTokenizer), .string(preTokenizer))
        add(.strings(key("tokens"), tokens), .stringArray(tokens))
        add(.int32s(key("token_type"), types), .integers(types.map(Int.init)))
        if model == "gpt2" {
            let merges = (root["model"]?["merges"]?.array ?? []).compactMap(Self.sides).map { "\($0) \($1)" }
            add(.strings(key("merges"), merges), .stringArray(merges))
        } else if model != "rwkv" {
            add(.floats(key("scores"), scores), .floats(scores))
        }
        if model == "llama" || model == "t5" {
            let prefix = addsSpace
            add(.bool(key("add_space_prefix"), prefix), .bool(prefix))
        }
        if model == "t5" {
            let steps = normalizers(root)
            let strips = steps.contains { $0["type"]?.string == "Strip" }
            add(.bool(key("remove_extra_whitespaces"), strips), .bool(strips))
            if var map = steps.first(where: { $0["type"]?.string == "Precompiled" })?["precompiled_charsmap"]?.string {
                var bytes: [UInt8] = []
                guard map.withUTF8({ appendBase64($0, to: &bytes) }) else {
                    throw UserError("\(path): precompiled_charsmap is not base64")
                }
                add(.uint8s(key("precompiled_charsmap"), bytes), .integers(bytes.map(Int.init)))
            }
        }
        for (role, name) in TokenizerFiles.roles {
            let id =
                role == "unk_token"
                ? unknownID : tokenizer.files.specialToken(role).flatMap { tokenizer.id(of: $0) }.map(Int.init)
            if let id { add(.uint32(key(name), id), .integer(id)) }
        }
        let (begins, ends) = try surroundings()
        add(.bool(key("add_bos_token"), begins), .bool(begins))
        add(.bool(key("add_eos_token"), ends), .bool(ends))
        entries += templates
        return (entries, GGUFMetadata(path: path, values))
    }

    /// As the `gguf` package writes them: `default` by itself, others under names of ASCII letters, digits and underscores.
    private var templates: [GGUFEntry] {
        var named: [(name: String, source: String)] = []
        for (name, source) in tokenizer.files.chatTemplates where ExactString(name) != "default" {
            let plain = name.unicodeScalars.map { scalar in
                scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil)
                    ? Character(scalar) : "_"
            }
            named.append((String(plain), source))
        }
        var entries = named.map { GGUFEntry.string("tokenizer.chat_template.\($0.name)", $0.source) }
        if !named.isEmpty { entries.append(.strings("tokenizer.chat_templates", named.map(\.name))) }
        if let template = tokenizer.chatTemplate { entries.append(.string("tokenizer.chat_template", template)) }
        return entries
    }

    /// Whether the begin token is put before a text and the end token after it.
    private func surroundings() throws -> (Bool, Bool) {
        var pieces: [TemplatePiece] = [.text]
        for case .template(let template) in tokenizer.parts.postProcessors where template != [.text] {
            guard pieces == [.text] else { throw cannotSurround }
            pieces = template
        }
        guard let at = pieces.firstIndex(of: .text) else { throw cannotSurround }
        func isOnly(_ pieces: ArraySlice<TemplatePiece>, _ token: Tokenizer.NamedToken?) throws -> Bool {
            if pieces.isEmpty { return false }
            guard pieces.count == 1, case .special(let ids, _) = pieces.first, let token, ids == [token.id] else {
                throw cannotSurround
            }
            return true
        }
        return (
            try isOnly(pieces[..<at], tokenizer.bosToken), try isOnly(pieces[(at + 1)...], tokenizer.eosToken)
        )
    }

    private var cannotSurround: UserError {
        UserError(
            "\(path): the tokenizer puts other tokens around a text than a begin and an end token; GGUF knows only those"
        )
    }

    /// Whether a space is put before a text.
    private var addsSpace: Bool {
        if model == "llama" { return normalizers(root).contains { $0["type"]?.string == "Prepend" } }
        let metaspace = Self.flattened(root["pre_tokenizer"], "pretokenizers").first {
            $0["type"]?.string == "Metaspace"
        }
        return metaspace.map { Self.prependScheme($0) != "never" } ?? false
    }

    // MARK: Comparison

    /// What the metadata means otherwise than the original; nil when they mean the same.
    private func difference(from metadata: GGUFMetadata) throws -> String? {
        let vocabulary = try GGUFVocabulary(metadata)
        let read =
            switch model {
            case "gpt2": try vocabulary.byteLevel()
            case "llama": try vocabulary.sentencePiece()
            case "rwkv": try vocabulary.longestBytes()
            case "plamo2": try vocabulary.plamo2()
            default: try vocabulary.unigram()
            }
        let back = JSONValue.object(read)
        let (wanted, found) = (
            normalizers(root).filter { !Self.isFormC($0) }, normalizers(back).filter { !Self.isFormC($0) }
        )
        guard wanted.map(Self.sorted) == found.map(Self.sorted) else {
            return "its normalizer \(Self.text(root["normalizer"])) has no counterpart"
        }
        guard model == "gpt2" || splitting(root) == splitting(back) else {
            return "its pre_tokenizer \(Self.text(root["pre_tokenizer"])) has no known name"
        }
        if model == "plamo2" { return nil }
        if model == "rwkv" {
            let tokens = root["model"]?["vocab"]?.object ?? JSONObject(), others = read["model"]?["vocab"]?.object
            return tokens.allSatisfy { others?[$0.0] == $0.1 } ? nil : "some added tokens would be read as others"
        }
        for (key, value) in [
            ("ignore_merges", false), ("byte_fallback", false), ("fuse_unk", model == "llama"),
        ] where model != "t5" || key == "byte_fallback" {
            // An unknown token can only be met where bytes are missing.
            if key == "fuse_unk", model == "llama" || unknownID == nil { continue }
            let wanted = root["model"]?[key]?.bool ?? value, found = back["model"]?[key]?.bool ?? value
            if wanted != found, try key != "ignore_merges" || !mergesMakeEveryToken(metadata) {
                return "model.\(key) is \(wanted)"
            }
        }
        for key in ["continuing_subword_prefix", "end_of_word_suffix", "dropout"] {
            if let value = root["model"]?[key], value != .null, value.string != "" {
                return "model.\(key) is \(value.serialized())"
            }
        }
        if model == "t5" { return nil }
        guard model == "llama" else {
            let merges = (root["model"]?["merges"]?.array ?? []).compactMap(Self.sides)
            let others = (back["model"]?["merges"]?.array ?? []).compactMap(Self.sides)
            let areEqual = merges.elementsEqual(others) {
                ExactString($0.0) == ExactString($1.0) && ExactString($0.1) == ExactString($1.1)
            }
            return areEqual ? nil : "its merges hold spaces"
        }
        // Pairs that the list lacks llama.cpp would merge all the same.
        return merges(root) == merges(back) ? nil : "its merges are not those that SentencePiece makes of its pieces"
    }

    /// Whether a word that is a token comes out of merging as that token, so that it does not matter whether words are looked
    /// up first. Words are cut as the tokenizer cuts them: what llama.cpp cuts otherwise is another matter.
    private func mergesMakeEveryToken(_ metadata: GGUFMetadata) throws -> Bool {
        var file = try GGUFVocabulary(metadata).byteLevel()
        file["pre_tokenizer"] = root["pre_tokenizer"]
        let other = try Tokenizer(TokenizerFiles(tokenizerJSON: .object(file)), file: path)
        return types.indices.allSatisfy { id in
            guard types[id] == GGUFVocabulary.TokenType.normal else { return true }
            let text = tokenizer.decode([Int32(id)])
            // Parts of characters are never whole words.
            if text.unicodeScalars.contains("\u{FFFD}") { return true }
            return tokenizer.encode(text, addSpecialTokens: false) == other.encode(text, addSpecialTokens: false)
        }
    }

    /// The pairs that make each ordinary piece, pieces in the order of their first pairs. Among the pairs of one piece
    /// SentencePiece knows no order; a special token is found before anything is merged.
    private func merges(_ root: JSONValue) -> [[ExactString]] {
        var places: [ExactString: Int] = [:], pairs: [[String]] = []
        for (left, right) in (root["model"]?["merges"]?.array ?? []).compactMap(Self.sides) {
            guard let id = tokenizer.id(of: left + right), types[Int(id)] == GGUFVocabulary.TokenType.normal else {
                continue
            }
            let place = places[ExactString(left + right)] ?? pairs.count
            places[ExactString(left + right)] = place
            if place == pairs.count { pairs.append([]) }
            pairs[place].append("\(left) \(right)")
        }
        return pairs.map { $0.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }.map { ExactString($0) } }
    }

    private static func text(_ value: JSONValue?) -> String {
        quoted(String((value ?? .null).serialized().prefix(200)))
    }

    /// One spelling of a value, whatever the order of its keys.
    private static func sorted(_ value: JSONValue) -> String {
        value.serialized(JSONStyle(indent: nil, keySeparator: ":", sortsKeys: true))
    }

    /// A pattern with line breaks and tabs spelled as escapes, as some files have them and some not.
    private static func escaped(_ regex: String) -> String {
        regex.unicodeScalars.reduce(into: "") { text, scalar in
            switch scalar {
            case "\r": text += #"\r"#
            case "\n": text += #"\n"#
            case "\t": text += #"\t"#
            default: text.unicodeScalars.append(scalar)
            }
        }
    }

    private static func isFormC(_ normalizer: JSONValue) -> Bool { normalizer["type"]?.string == "NFC" }

    /// The steps of a part that may be a sequence of steps, in it sequences again.
    private static func flattened(_ part: JSONValue?, _ list: String) -> [JSONValue] {
        guard let part, part != .null else { return [] }
        guard part["type"]?.string == "Sequence" else { return [part] }
        return (part[list]?.array ?? []).flatMap { flattened($0, list) }
    }

    private func normalizers(_ root: JSONValue) -> [JSONValue] { Self.flattened(root["normalizer"], "normalizers") }

    private static func prependScheme(_ metaspace: JSONValue) -> String {
        metaspace["prepend_scheme"]?.string ?? (metaspace["add_prefix_space"]?.bool == false ? "never" : "always")
    }

    /// The steps of the pre-tokenizer in one spelling each.
    private func splitting(_ root: JSONValue) -> [String] {
        let marksSpaces = normalizers(root).contains {
            $0["type"]?.string == "Replace" && $0["content"]?.string == "\u{2581}"
        }
        return Self.flattened(root["pre_tokenizer"], "pretokenizers").flatMap { step -> [String] in
            switch step["type"]?.string {
            case "ByteLevel":
                let bytes = step["add_prefix_space"]?.bool ?? true ? "space, bytes" : "bytes"
                return (step["use_regex"]?.bool ?? true ? ["split \(SplitPattern.gpt2.regex)"] : []) + [bytes]
            case "Digits": return ["digits \(step["individual_digits"]?.bool ?? false)"]
            case "Metaspace":
                return ["metaspace \(Self.prependScheme(step)) \(step["split"]?.bool ?? true)"]
            case "Split":
                if let text = step["pattern"]?["String"]?.string {
                    // After the normalizer has marked all spaces there is none to split at.
                    return text == " " && marksSpaces ? [] : [step.serialized()]
                }
                let regex = step["pattern"]?["Regex"]?.string ?? ""
                let behavior = step["behavior"]?.string ?? "", invert = step["invert"]?.bool ?? false
                // A pattern that matches everywhere leaves nothing between its matches.
                if let known = SplitPattern(regex: regex), behavior == "Isolated" || behavior == "Removed" && invert {
                    return ["split \(known.regex)"]
                }
                return behavior == "Isolated" && !invert ? ["split \(Self.escaped(regex))"] : [step.serialized()]
            default: return [step.serialized()]
            }
        }
    }
}
