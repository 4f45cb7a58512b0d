// What happens to the tokens of a text after the model: trimming of offsets, and the special tokens around it.
import Formats

/// One post-processor.
enum PostProcessor: Sendable, Equatable {
    /// Moves offsets past the blanks at a token's edges.
    case trimOffsets(prefixSpace: Bool)
    /// Pieces in order: special tokens, and the text itself.
    case template([TemplatePiece])
    /// A part that changes nothing here.
    case nothing
}

enum TemplatePiece: Sendable, Equatable {
    case text
    case special(ids: [Int32], tokens: [ExactString])
}

/// A token while its encoding is put together.
struct PlacedToken {
    var id: Int32
    /// In Unicode scalars of the text.
    var start: Int, end: Int
    /// Blank characters at the edges of the token's own text.
    var blanksBefore: Int, blanksAfter: Int
}

/// Blanks at the edges of a token's text, counting the `Ġ` of the byte alphabet as `tokenizers` does.
func blankEdges(of text: String) -> (before: Int, after: Int) {
    func isBlank(_ scalar: Unicode.Scalar) -> Bool {
        scalar.value == 0x120 || CharacterClass.table[Int(scalar.value)] & CharacterClass.space.rawValue != 0
    }
    return (
        text.unicodeScalars.prefix(while: isBlank).count, text.unicodeScalars.reversed().prefix(while: isBlank).count
    )
}

extension PostProcessor {
    func apply(to tokens: inout [PlacedToken], addSpecialTokens: Bool) {
        switch self {
        case .nothing: break
        case .trimOffsets(let prefixSpace):
            for i in tokens.indices where tokens[i].blanksBefore + tokens[i].blanksAfter > 0 {
                trim(&tokens[i], isFirst: i == 0 || tokens[i].start == 0, prefixSpace)
            }
        case .template(let pieces):
            if pieces == [.text] { return }
            var result: [PlacedToken] = []
            for piece in pieces {
                switch piece {
                case .text: result += tokens
                case .special(let ids, let texts):
                    if !addSpecialTokens { continue }
                    for (id, text) in zip(ids, texts) {
                        let (before, after) = blankEdges(of: text.string)
                        result.append(PlacedToken(id: id, start: 0, end: 0, blanksBefore: before, blanksAfter: after))
                    }
                }
            }
            tokens = result
        }
    }

    private func trim(_ token: inout PlacedToken, isFirst: Bool, _ prefixSpace: Bool) {
        // The one space that was put before the text is not in the text.
        let before = isFirst && prefixSpace && token.blanksBefore == 1 ? 0 : token.blanksBefore
        token.start = min(token.start + before, token.end)
        if token.end >= token.blanksAfter { token.end = max(token.end - token.blanksAfter, token.start) }
    }

    /// The same for ids alone.
    func apply(to ids: inout [Int32], addSpecialTokens: Bool) {
        guard case .template(let pieces) = self, pieces != [.text] else { return }
        var result: [Int32] = []
        result.reserveCapacity(ids.count + 4)
        for piece in pieces {
            switch piece {
            case .text: result += ids
            case .special(let special, _): if addSpecialTokens { result += special }
            }
        }
        ids = result
    }
}
