// A text's tokens while they are being marked: from spans of the text to marks on tokens.
import Formats
import Tokenizers

struct MarkedTokens {
    private(set) var text: String
    private(set) var ids: [Int32]
    private(set) var offsets: [Range<Int>]
    private(set) var trained: [Bool]

    init(_ tokenizer: Tokenizer, _ text: String, addSpecialTokens: Bool) {
        let encoding = tokenizer.encoding(of: text, addSpecialTokens: addSpecialTokens)
        (self.text, ids, offsets) = (text, encoding.ids, encoding.offsets)
        trained = Array(repeating: false, count: ids.count)
    }

    /// Appends a token that stands for `tokenText`.
    mutating func appendToken(_ id: Int32, _ tokenText: String, trained mark: Bool) {
        let start = text.unicodeScalars.count
        text += tokenText
        ids.append(id)
        offsets.append(start..<text.unicodeScalars.count)
        trained.append(mark)
    }

    mutating func append(_ other: MarkedTokens, trained mark: Bool) {
        let start = text.unicodeScalars.count
        text += other.text
        ids += other.ids
        offsets += other.offsets.map { $0.lowerBound + start..<$0.upperBound + start }
        trained += Array(repeating: mark, count: other.ids.count)
    }

    /// Marks every token from scalar `boundary` on.
    ///
    /// - Returns: false, with nothing marked, when a token reaches over the boundary with more than white space
    ///   before it.
    mutating func train(from boundary: Int) -> Bool {
        var blank: Blanks?
        var marks = trained
        for (i, range) in offsets.enumerated() where !range.isEmpty && range.upperBound > boundary {
            if range.lowerBound < boundary {
                if blank == nil { blank = Blanks(text) }
                guard blank!.cover(range.lowerBound..<boundary) else { return false }
            }
            marks[i] = true
        }
        trained = marks
        return true
    }

    /// Marks the tokens of turns. A token that reaches out of its turn is marked only when what it takes along is white
    /// space (a space merged into the first word, a line end merged into the last).
    ///
    /// - Throws: `RowFault` when a token joins trained text with other text.
    mutating func train(_ spans: [TurnSpan], _ tokenizer: Tokenizer) throws(RowFault) {
        let scalars = ScalarOffsets(text)
        let blank = Blanks(text)
        var first = 0
        for span in spans {
            let start = scalars[span.start]
            while first < offsets.count, offsets[first].upperBound <= start { first += 1 }
            let range = start..<end(span, scalars, blank, from: first, tokenizer)
            var i = first
            while i < offsets.count, offsets[i].lowerBound < range.upperBound {
                defer { i += 1 }
                let token = offsets[i]
                if token.isEmpty { continue }
                let before = token.lowerBound..<max(token.lowerBound, min(token.upperBound, range.lowerBound))
                let after = max(token.lowerBound, min(token.upperBound, range.upperBound))..<token.upperBound
                guard blank.cover(before), blank.cover(after) else {
                    throw RowFault(
                        .spanUnproven, "a token joins the end or beginning of a trained turn with other text")
                }
                trained[i] = true
            }
        }
    }

    /// The end of what is trained: behind the end-of-turn token, else behind the text of the turn.
    private func end(
        _ span: TurnSpan, _ scalars: ScalarOffsets, _ blank: Blanks, from first: Int, _ tokenizer: Tokenizer
    ) -> Int {
        let contentEnd = scalars[span.contentEnd], limit = scalars[span.limit]
        if span.goesOn { return max(contentEnd, blank.trimmedEnd(contentEnd..<limit)) }
        var i = first
        while i < offsets.count, offsets[i].lowerBound < limit {
            defer { i += 1 }
            let token = offsets[i]
            guard token.lowerBound >= contentEnd, !token.isEmpty, tokenizer.isSpecial(ids[i]) else { continue }
            guard token.upperBound <= limit else { break }
            if span.specialOnly, !blank.cover(contentEnd..<token.lowerBound) { break }
            return token.upperBound
        }
        return span.specialOnly ? contentEnd : max(contentEnd, blank.trimmedEnd(contentEnd..<limit))
    }
}

/// Offsets in UTF-8 as offsets in Unicode scalars.
struct ScalarOffsets {
    /// Scalars before byte i; nil for ASCII, where both are the same.
    private let scalars: [Int32]?

    init(_ text: String) {
        guard !text.utf8.allSatisfy({ $0 < 0x80 }) else {
            scalars = nil
            return
        }
        var counts: [Int32] = [], count: Int32 = 0
        counts.reserveCapacity(text.utf8.count + 1)
        for byte in text.utf8 {
            if byte & 0xC0 != 0x80 { count += 1 }
            counts.append(count - 1)  // a byte inside a character stands for its beginning
        }
        scalars = counts + [count]
    }

    subscript(byte: Int) -> Int { scalars.map { Int($0[byte]) } ?? byte }
}

/// Where white space stands in a text, by Unicode scalar.
struct Blanks {
    private let isBlank: [Bool]

    init(_ text: String) { isBlank = text.unicodeScalars.map { $0.properties.isWhitespace } }

    /// Whether `range` holds nothing but white space.
    func cover(_ range: Range<Int>) -> Bool { isBlank[range].allSatisfy { $0 } }

    /// The end of `range` without the white space at its end.
    func trimmedEnd(_ range: Range<Int>) -> Int {
        (isBlank[range].lastIndex(of: false) ?? range.lowerBound - 1) + 1
    }
}
