// A SentencePiece model as a tokenizer: its parts, and the tokenizer.json that stands for it.
import Diagnostics
import Formats

extension SentencePieceFile {
    /// Control pieces and the unknown piece are special tokens, found in a text before anything else.
    private var added: [AddedToken] {
        pieces.enumerated().compactMap { id, piece in
            switch piece.kind {
            case .control, .unknown: AddedToken(text(id), id: Int32(id), normalized: false, special: true)
            case .userDefined: AddedToken(text(id), id: Int32(id), normalized: false, special: false)
            default: nil
            }
        }
    }

    func parts(_ path: String) throws -> TokenizerParts {
        let model = try SentencePieceModel(self, path)
        return TokenizerParts(
            model: .sentencePiece(model), added: added.filter(\.special), normalizers: [], postProcessors: [],
            decoder: .sentencePiece(model))
    }

    /// What transformers' converter makes of a model, so that the `tokenizers` package reads it.
    var tokenizerJSON: JSONValue {
        let isBPE = algorithm == .bpe, mark = "\u{2581}"
        var normalizers: [JSONValue] = []
        if !charsmap.isEmpty {
            normalizers.append(["type": "Precompiled", "precompiled_charsmap": .string(encodedBase64(charsmap))])
        }
        if removesExtraSpaces {
            normalizers.append(["type": "Strip", "strip_left": true, "strip_right": true])
            normalizers.append(["type": "Replace", "pattern": ["Regex": " {2,}"], "content": " "])
        }
        var decoders: [JSONValue] = [], preTokenizer = JSONValue.null
        if isBPE {
            if addsDummyPrefix { normalizers.append(["type": "Prepend", "prepend": .string(mark)]) }
            normalizers.append(["type": "Replace", "pattern": ["String": " "], "content": .string(mark)])
            decoders = [
                ["type": "Replace", "pattern": ["String": .string(mark)], "content": " "], ["type": "ByteFallback"],
                ["type": "Fuse"],
            ]
            if addsDummyPrefix { decoders.append(["type": "Strip", "content": " ", "start": 1, "stop": 0]) }
        } else {
            preTokenizer = [
                "type": "Metaspace", "replacement": .string(mark),
                "prepend_scheme": .string(addsDummyPrefix ? "always" : "never"), "split": true,
            ]
            decoders = hasByteFallback ? [["type": "ByteFallback"], preTokenizer] : [preTokenizer]
        }
        let normalizer: JSONValue =
            normalizers.isEmpty ? nil : ["type": "Sequence", "normalizers": .array(normalizers)]
        return [
            "version": "1.0", "truncation": nil, "padding": nil,
            "added_tokens": .array(added.map { $0.json(withID: true) }), "normalizer": normalizer,
            "pre_tokenizer": preTokenizer, "post_processor": nil,
            "decoder": ["type": "Sequence", "decoders": .array(decoders)],
            "model": isBPE ? Self.bpeModel(pieces.indices.map(text), merges(), hasByteFallback, unknown) : unigramModel,
        ]
    }

    var unknown: String? { pieces.firstIndex { $0.kind == .unknown }.map(text) }

    private var unigramModel: JSONValue {
        [
            "type": "Unigram", "unk_id": .init(pieces.firstIndex { $0.kind == .unknown } ?? 0),
            "byte_fallback": .bool(hasByteFallback),
            "vocab": .array(
                pieces.enumerated().map { [.string(text($0)), .number(JSONNumber(Double($1.score)))] }),
        ]
    }

    static func bpeModel(_ texts: [String], _ merges: [JSONValue], _ bytes: Bool, _ unknown: String?) -> JSONValue {
        let unknown: JSONValue = unknown.map { .string($0) } ?? nil
        return [
            "type": "BPE", "dropout": nil, "unk_token": unknown,
            "continuing_subword_prefix": nil, "end_of_word_suffix": nil, "fuse_unk": true,
            "byte_fallback": .bool(bytes), "ignore_merges": false,
            "vocab": .object(JSONObject(texts.enumerated().map { ($1, JSONValue($0)) })), "merges": .array(merges),
        ]
    }

    /// Every pair of pieces that makes a piece: the best piece first, of one piece the pair with the earlier ids first.
    func merges() -> [JSONValue] {
        let index = ByteStringIndex(texts) { pieces[Int($0)].kind == .normal || pieces[Int($0)].kind == .userDefined }
        var found: [(score: Float, target: Int, left: Int32, right: Int32)] = []
        texts.bytes.withUnsafeBufferPointer { all in
            for (id, piece) in pieces.enumerated() where piece.kind == .normal {
                let text = UnsafeBufferPointer(rebasing: all[texts[Int32(id)]!])
                for at in 1..<max(text.count, 1) where text[at] & 0xC0 != 0x80 {
                    guard let left = index.id(of: UnsafeBufferPointer(rebasing: text[..<at])),
                        let right = index.id(of: UnsafeBufferPointer(rebasing: text[at...]))
                    else { continue }
                    found.append((piece.score, id, left, right))
                }
            }
        }
        found.sort { ($1.score, $0.target, $0.left, $0.right) < ($0.score, $1.target, $1.left, $1.right) }
        return found.map { [.string(text(Int($0.left))), .string(text(Int($0.right)))] }
    }
}

let base64Alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

/// Bytes as base64 (RFC 4648).
func encodedBase64(_ bytes: [UInt8]) -> String {
    let alphabet = base64Alphabet
    var text: [UInt8] = []
    text.reserveCapacity(bytes.count * 4 / 3 + 4)
    for start in stride(from: 0, to: bytes.count, by: 3) {
        let part = bytes[start..<min(start + 3, bytes.count)]
        let bits = (0..<3).reduce(UInt32(0)) { $0 << 8 | ($1 < part.count ? UInt32(part[start + $1]) : 0) }
        for i in 0..<4 { text.append(i <= part.count ? alphabet[Int(bits >> UInt32(18 - 6 * i) & 63)] : 0x3D) }
    }
    return String(decoding: text, as: UTF8.self)
}
