// Truncation and padding: the length that `tokenizer.json` asks for.

/// What the sections `truncation` and `padding` say.
///
/// As in transformers, a text is encoded whole unless these limits are asked for.
struct LengthLimits: Sendable, Equatable {
    struct Truncation: Sendable, Equatable {
        var maxLength: Int
        var fromLeft = false
        /// `only_second`: a single text cannot be cut to a part of it.
        var appliesToText = true
    }

    struct Padding: Sendable, Equatable {
        /// Nil: no longer than the text, but for `multiple`.
        var length: Int?
        var multiple = 0
        var onLeft = false
        var id: Int32 = 0
    }

    var truncation: Truncation?
    var padding: Padding?

    /// Cuts the tokens of a text so that those which the template adds have room.
    ///
    /// As in the `tokenizers` package, nothing is cut where these alone take more than the length, and everything where
    /// they take all of it.
    func truncate<Token>(_ tokens: inout [Token], added: Int) {
        guard let truncation else { return }
        let room = truncation.maxLength - added
        guard room >= 0, tokens.count > room, truncation.appliesToText || room == 0 else { return }
        if truncation.fromLeft { tokens.removeFirst(tokens.count - room) } else { tokens.removeSubrange(room...) }
    }

    func pad<Token>(_ tokens: inout [Token], with make: (Int32) -> Token) {
        guard let padding else { return }
        var length = padding.length ?? tokens.count
        if padding.multiple > 0, length % padding.multiple > 0 {
            length += padding.multiple - length % padding.multiple
        }
        guard length > tokens.count else { return }
        let filling = Array(repeating: make(padding.id), count: length - tokens.count)
        tokens = padding.onLeft ? filling + tokens : tokens + filling
    }
}

extension [PostProcessor] {
    /// Number of tokens that are put around a text.
    var addedCount: Int {
        reduce(0) { sum, processor in
            guard case .template(let pieces) = processor else { return sum }
            return pieces.reduce(sum) { sum, piece in
                if case .special(let ids, _) = piece { sum + ids.count } else { sum }
            }
        }
    }
}
