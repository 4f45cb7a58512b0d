// A row as people look at it: its text with the trained part marked, and the same for programs.
internal import Diagnostics
public import Formats
public import Tokenizers

/// How trained text stands out.
public enum InspectionStyle: Sendable {
    /// Green on terminals.
    case ansi
    /// `[[trained]]`.
    case marks
}

extension EncodedRow {
    /// Parts of the text, alternately trained and not, without what truncation has cut off.
    var segments: [(text: String, trained: Bool)] {
        let scalars = Array(text.unicodeScalars)
        var marks = [Bool](repeating: false, count: scalars.count), kept = marks
        for (range, mark) in zip(offsets, trained) {
            for i in range {
                kept[i] = true
                if mark { marks[i] = true }
            }
        }
        // Text that no token stands for (white space some tokenizers drop) belongs to what is around it.
        let first = kept.firstIndex(of: true) ?? 0, last = kept.lastIndex(of: true) ?? -1
        var segments: [(text: String, trained: Bool)] = []
        for i in stride(from: first, through: last, by: 1) {
            if segments.last?.trained != marks[i] { segments.append(("", marks[i])) }
            segments[segments.count - 1].text.unicodeScalars.append(scalars[i])
        }
        return segments
    }

    /// The text with trained parts marked; characters that would steer the terminal or hide are escaped.
    public func marked(_ style: InspectionStyle) -> String {
        let (open, close) = style == .ansi ? ("\u{1B}[32m", "\u{1B}[0m") : ("[[", "]]")
        return segments.map { segment in
            let text = escapedForDisplay(segment.text, keepsNewlines: true)
            return segment.trained ? open + text + close : text
        }.joined()
    }

    /// `{"source","text","ids","tokens","offsets","trained","trained_tokens","truncated"}`.
    public func json(_ tokenizer: Tokenizer) -> JSONValue {
        .object(
            JSONObject([
                ("source", .string(location.description)), ("text", .string(text)),
                ("ids", .array(ids.map { .init(Int($0)) })),
                ("tokens", .array(ids.map { tokenizer.token(of: $0).map { .string($0) } ?? .null })),
                ("offsets", .array(offsets.map { [.init($0.lowerBound), .init($0.upperBound)] })),
                ("trained", .array(trained.map { .init($0 ? 1 : 0) })),
                ("trained_tokens", .init(example.trainedTokens)), ("truncated", .init(truncated)),
            ]))
    }
}
