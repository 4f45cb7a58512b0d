// The parts of a tokenizer, read and checked; what encoding and decoding work with.

/// Everything that decides ids and texts.
struct TokenizerParts: Sendable {
    enum Decoder: Sendable, Equatable {
        /// Bytes of all tokens joined, then read as UTF-8.
        case byteLevel
        /// No decoder: token texts joined by spaces.
        case joined
    }

    var bpe: BPE
    var added: [AddedToken]
    /// Texts are brought into normal form C first.
    var normalizesNFC: Bool
    var preTokenizer: PreTokenizer
    var postProcessors: [PostProcessor]
    var decoder: Decoder
}
