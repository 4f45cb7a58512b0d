// The parts of a tokenizer, read and checked; what encoding and decoding work with.

/// Everything that decides ids and texts.
struct TokenizerParts: Sendable {
    enum Model: Sendable {
        /// BPE over bytes: a path of its own, since most models have it and it can be fast.
        case byteLevel(BPE, PreTokenizer)
        /// Words cut by the general pre-tokenizers.
        case words(any WordModel, [PieceSplitter])
        /// A SentencePiece model by its own rules: no words, normalization with the text.
        case sentencePiece(SentencePieceModel)

        var vocabulary: Vocabulary {
            switch self {
            case .byteLevel(let bpe, _): bpe.vocabulary
            case .words(let model, _): model.vocabulary
            case .sentencePiece(let model): model.vocabulary
            }
        }
    }

    enum Decoder: Sendable {
        /// Bytes of all tokens joined, then read as UTF-8.
        case byteLevel
        /// No decoder: token texts joined by spaces.
        case joined
        case chain([TokenDecoder])
        /// SentencePiece's own way.
        case sentencePiece(SentencePieceModel)
    }

    var model: Model
    var added: [AddedToken]
    var normalizers: [Normalizer]
    var postProcessors: [PostProcessor]
    var decoder: Decoder
    var limits = LengthLimits()

    var vocabulary: Vocabulary { model.vocabulary }

    /// A text as the normalizers make it.
    func normalized(_ text: String) -> String {
        var text = text
        if normalizers.isEmpty { return text }
        return text.withUTF8 { utf8 in
            var aligned = AlignedText(utf8, base: 0, tracksOrigins: false)
            for normalizer in normalizers { normalizer.apply(to: &aligned) }
            return String(decoding: aligned.bytes, as: UTF8.self)
        }
    }
}
