// Byte vocabularies in the order in which they merge: tiktoken's rank files and Mistral's tekken.json.
//
// The rank of a token is its merge order, so the files need no merges. A rank file holds nothing else: pattern and
// special tokens are known by the published encodings' sizes.
import Diagnostics
import Formats

/// Tokens as bytes, ranked; what `tiktoken.Encoding` is made of.
struct RankVocabulary: Sendable {
    /// By rank; ids start at `firstID`.
    var tokens = ByteStrings()
    var firstID = 0
    var pattern: SplitPattern?
    /// In place of a known pattern.
    var otherPattern: String?
    var special: [(text: String, id: Int)] = []
    var normalizesC = false
    /// Put before each text.
    var bos: (text: String, id: Int)?

    // MARK: Rank files

    /// Lines of a token in base64, a space, and its rank.
    init(ranks bytes: [UInt8], _ path: String) throws {
        var count = 0, line = 0
        tokens.reserve(strings: bytes.count / 16, bytes: bytes.count / 2)
        try bytes.withUnsafeBufferPointer { text in
            var start = 0
            while start < text.count {
                let end = text[start...].firstIndex(of: 0x0A) ?? text.count
                defer { start = end + 1 }
                line += 1
                if start == end { continue }
                try add(UnsafeBufferPointer(rebasing: text[start..<end]), "\(path): line \(line)", path)
                count += 1
            }
        }
        guard count > 0 else { throw UserError("\(path): holds no ranks") }
        guard tokens.count <= count * 2 + 256 else {
            throw UserError("\(path): has rank \(tokens.count - 1) for \(counted(count, "token"))")
        }
        try recognise(count: count, path)
    }

    private mutating func add(_ line: UnsafeBufferPointer<UInt8>, _ place: @autoclosure () -> String, _ path: String)
        throws
    {
        let space = line.firstIndex(of: 0x20) ?? line.count
        var rank = 0, end = line.count
        if end > 0, line[end - 1] == 0x0D { end -= 1 }
        for digit in line[min(space + 1, end)..<end] {
            rank = digit &- 0x30 < 10 ? rank * 10 + Int(digit &- 0x30) : .max
            if rank > Vocabulary.maxID { break }
        }
        guard space > 0, space + 1 < end, rank <= Vocabulary.maxID else {
            throw UserError("\(place()) is not a token in base64 and its rank")
        }
        guard tokens[Int32(rank)] == nil else { throw UserError("\(path): rank \(rank) is given to two tokens") }
        let token = UnsafeBufferPointer(rebasing: line[..<space])
        try tokens.set(Int32(rank)) { bytes in
            if token.elementsEqual([0x3D]) { return }  // Whisper's empty token
            guard appendBase64(token, to: &bytes) else { throw UserError("\(place()): the token is no base64") }
        }
    }

    private mutating func recognise(count: Int, _ path: String) throws {
        func numbered(_ texts: [String], from id: Int) -> [(text: String, id: Int)] {
            texts.enumerated().map { ($1, id + $0) }
        }
        let end = "<|endoftext|>"
        switch count {
        case 50_256, 50_257:  // r50k_base (GPT-2), and Whisper's, whose last rank is empty
            (pattern, special) = (.gpt2, [(end, count)])
        case 50_280:  // p50k_base, whose ranks leave out the special token; p50k_edit has the same file and three more
            (pattern, special) = (.gpt2, [(end, 50_256)])
        case 100_256:  // cl100k_base
            pattern = .cl100k
            special = numbered([end, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"], from: 100_257)
            special.append(("<|endofprompt|>", 100_276))
        case 199_998:  // o200k_base; o200k_harmony has the same file and other special tokens
            (pattern, special) = (
                .cased(digits: 3, contractions: true), [(end, 199_999), ("<|endofprompt|>", 200_018)]
            )
        case 128_000:  // Llama 3
            pattern = .llama(digits: 3)
            special = numbered(Self.llama3, from: 128_000)
            bos = special[0]
        case 151_643:  // Qwen: the first one comes with this file, later ones number other tokens behind these three
            (pattern, normalizesC) = (.llama(digits: 1), true)
            special = numbered(
                [end, "<|im_start|>", "<|im_end|>"] + (0..<205).map { "<|extra_\($0)|>" }, from: count)
        case 248_044:  // Qwen 3.5
            (pattern, normalizesC) = (.llama(digits: 1, marks: true), true)
            special = numbered([end, "<|im_start|>", "<|im_end|>"], from: count)
        default:
            throw UserError(
                "\(path): a rank file of \(counted(count, "token")) is none of the published encodings (r50k, p50k, "
                    + "cl100k, o200k, Llama 3, Qwen), and says nothing of its pattern; give the model's tokenizer.json")
        }
    }

    private static let llama3: [String] = {
        let named = [
            "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
            "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
            "<|eot_id|>", "<|python_tag|>",
        ]
        return named + (2...246).map { "<|reserved_special_token_\($0)|>" }
    }()

    // MARK: tekken.json

    init(tekken text: TokenizerText, _ path: String) throws {
        let json = JSONValue.object(text.outline)
        guard let config = json["config"], let pattern = config["pattern"]?.string, let vocab = text.ranks,
            let size = config["default_vocab_size"]?.int, let specials = config["default_num_special_tokens"]?.int,
            size > specials, specials >= 0, size <= Vocabulary.maxID
        else { throw UserError("\(path): tekken.json without pattern, vocab or the default sizes in config") }
        guard vocab.count >= size - specials else {
            throw UserError("\(path): vocab has \(counted(vocab.count, "token")); \(size - specials) are needed")
        }
        try vocab.forEach { i, rank, text in
            guard let rank, rank >= 0 else { throw UserError("\(path): vocab[\(i)] has no rank") }
            if rank >= size - specials { return }
            guard tokens[Int32(rank)] == nil else { throw UserError("\(path): rank \(rank) is given to two tokens") }
            let isToken = tokens.set(Int32(rank)) { appendBase64(text, to: &$0) }
            guard isToken, !text.isEmpty else { throw UserError("\(path): vocab[\(i)].token_bytes is no base64") }
        }
        guard tokens.count == size - specials else {
            throw UserError("\(path): vocab lacks the rank \(size - specials - 1) that config asks for")
        }
        firstID = specials
        special = try Self.tekkenSpecial(json["special_tokens"]?.array, specials, path)
        bos = special.first { ExactString($0.text) == "<s>" }
        self.pattern = SplitPattern(regex: pattern)
        if self.pattern == nil { otherPattern = pattern }
    }

    /// The special tokens, with the names that fill the numbers up.
    private static func tekkenSpecial(
        _ list: [JSONValue]?, _ count: Int, _ path: String
    ) throws -> [(text: String, id: Int)] {
        var texts = [
            "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
            "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
        ]
        if let list {
            texts = try list.enumerated().map { i, entry in
                guard let text = entry["token_str"]?.string, entry["rank"]?.int == i else {
                    throw UserError("\(path): special_tokens[\(i)] needs a token_str and its rank in order")
                }
                return text
            }
        }
        guard texts.count <= count else { throw UserError("\(path): more special tokens than config says") }
        texts += (texts.count..<count).map { "<SPECIAL_\($0)>" }
        return texts.enumerated().map { ($1, $0) }
    }

    // MARK: As a tokenizer

    func parts(_ path: String) throws -> TokenizerParts {
        let vocabulary = try Vocabulary(raw: tokens, firstID: firstID, where: path)
        guard vocabulary.byteIDs.allSatisfy({ $0 >= 0 }) else {
            throw UserError("\(path): lacks tokens of single bytes")
        }
        var preTokenizer = PreTokenizer(steps: pattern.map { [.split($0)] } ?? [])
        if let otherPattern {
            preTokenizer.splitters = [.pattern(try compiled(otherPattern, path), .isolated, inverted: false)]
        }
        let added = addedTokens
        let template = bos.map { [TemplatePiece.special(ids: [Int32($0.id)], tokens: [ExactString($0.text)]), .text] }
        return TokenizerParts(
            model: .byteLevel(BPE(ranked: vocabulary), preTokenizer), added: added,
            normalizers: normalizesC ? [.form(.c)] : [], postProcessors: template.map { [.template($0)] } ?? [],
            decoder: .byteLevel)
    }

    /// Qwen's own code normalizes a text first and looks for special tokens in what came out.
    private var addedTokens: [AddedToken] {
        special.map { AddedToken($0.text, id: Int32($0.id), normalized: normalizesC, special: true) }
    }

    private func compiled(_ pattern: String, _ path: String) throws -> SplitRegex {
        do {
            return try SplitRegex(pattern, .rust)
        } catch let error as UserError {
            throw UserError("\(path): the pattern \(quoted(pattern)): \(error.message)")
        }
    }

    /// The same as tokenizer.json, with every pair that can merge written out.
    var tokenizerJSON: JSONValue {
        let bytes = (0..<Int32(tokens.count)).map { tokens[$0].map { Array(tokens.bytes[$0]) } ?? [] }
        let texts = bytes.map { ByteAlphabet.spell($0) }
        var vocabulary = JSONObject(), ranks: [[UInt8]: Int] = [:]
        // The specials come first where their ids do, as transformers writes them. Where there is a gap in the ids, which
        // added tokens cannot leave, they are tokens of the model, too.
        let follow = special.indices.allSatisfy { special[$0].id == firstID + tokens.count + $0 }
        for (rank, text) in texts.enumerated() where !text.isEmpty {
            vocabulary[text] = JSONValue(rank + firstID)
            ranks[bytes[rank]] = rank
        }
        if !follow { for (text, id) in special where vocabulary[text] == nil { vocabulary[text] = JSONValue(id) } }
        var merges: [JSONValue] = []
        for token in bytes where token.count > 1 {
            let pairs = (1..<token.count).compactMap { at -> (Int, Int)? in
                guard let left = ranks[Array(token[..<at])], let right = ranks[Array(token[at...])] else { return nil }
                return (left, right)
            }
            merges += pairs.sorted { $0 < $1 }.map { [.string(texts[$0]), .string(texts[$1])] }
        }
        let added = addedTokens.map { $0.json(withID: true) }
        let model: JSONValue = [
            "type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil,
            "end_of_word_suffix": nil,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": true, "vocab": .object(vocabulary),
            "merges": .array(merges),
        ]
        let normalizer: JSONValue = normalizesC ? ["type": "NFC"] : nil
        return [
            "version": "1.0", "truncation": nil, "padding": nil, "added_tokens": .array(added),
            "normalizer": normalizer,
            "pre_tokenizer": GGUFPreTokenizer.split([pattern?.regex ?? otherPattern ?? ""]),
            "post_processor": bos.map { GGUFPreTokenizer.template(bos: $0.text, $0.id) } ?? nil,
            "decoder": GGUFPreTokenizer.gpt2, "model": model,
        ]
    }
}
