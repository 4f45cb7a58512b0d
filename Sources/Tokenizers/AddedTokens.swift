// Tokens that are found in the text before anything else: special tokens and those a user added.
import Diagnostics
import Formats

/// A token on top of the model's vocabulary, with the matching rules of `tokenizer.json`.
public struct AddedToken: Sendable, Equatable {
    public let content: String
    public let id: Int32
    /// Matches only where no word character touches it.
    public let singleWord: Bool
    /// Takes the white space before (after) it along.
    public let stripsLeft: Bool, stripsRight: Bool
    /// Matched in the normalized text; the others in the text as given.
    public let normalized: Bool
    /// Left out by `decode(_:skipSpecialTokens:)`.
    public let special: Bool

    package init(
        _ content: String, id: Int32, singleWord: Bool = false, stripsLeft: Bool = false, stripsRight: Bool = false,
        normalized: Bool? = nil, special: Bool
    ) {
        (self.content, self.id, self.singleWord, self.special) = (content, id, singleWord, special)
        (self.stripsLeft, self.stripsRight, self.normalized) = (stripsLeft, stripsRight, normalized ?? !special)
    }

    public static func == (a: AddedToken, b: AddedToken) -> Bool {
        ExactString(a.content) == ExactString(b.content) && a.id == b.id && a.singleWord == b.singleWord
            && a.stripsLeft == b.stripsLeft && a.stripsRight == b.stripsRight && a.normalized == b.normalized
            && a.special == b.special
    }
}

/// Finds added tokens: at each place the longest, from left to right (a trie over bytes).
struct AddedTokenMatcher: Sendable {
    /// Longer contents are refused, so that matching stays linear in the text.
    static let maxBytes = 1000

    private let tokens: [AddedToken]
    /// Child of (node, byte); nodes are numbered from 0, the root.
    private var children: [UInt64: Int32] = [:]
    /// Index of the token that ends at a node, else -1.
    private var ends: [Int32] = [-1]
    private var starts = [Bool](repeating: false, count: 256)

    var isEmpty: Bool { tokens.isEmpty }

    /// - Parameter content: what to look for in place of a token's own content (its normalized form).
    init(_ tokens: [AddedToken], content: (AddedToken) -> String = { $0.content }) {
        self.tokens = tokens
        for (index, token) in tokens.enumerated() {
            var node: Int32 = 0, isFirst = true
            for byte in content(token).utf8 {
                if isFirst { (starts[Int(byte)], isFirst) = (true, false) }
                let key = UInt64(node) << 8 | UInt64(byte)
                if let child = children[key] {
                    node = child
                } else {
                    node = Int32(ends.count)
                    children[key] = node
                    ends.append(-1)
                }
            }
            if node != 0 { ends[Int(node)] = Int32(index) }
        }
    }

    struct Match {
        /// Nil for the text between tokens.
        var token: AddedToken?
        var range: Range<Int>
    }

    /// The whole text in order, tokens and what lies between them.
    func split(_ text: UnsafeBufferPointer<UInt8>) -> [Match] {
        if tokens.isEmpty || text.isEmpty { return [Match(token: nil, range: 0..<text.count)] }
        var found: [Match] = [], done = 0, at = 0
        while at < text.count {
            guard starts[Int(text[at])], let (token, end) = longest(text, at) else {
                at += 1
                continue
            }
            var range = at..<end
            at = end  // the search goes on here even when the match is dropped
            if token.singleWord, wordTouches(text, range) { continue }
            if token.stripsLeft { range = max(done, blanksStart(text, range.lowerBound))..<range.upperBound }
            if token.stripsRight { range = range.lowerBound..<blanksEnd(text, range.upperBound) }
            if done < range.lowerBound { found.append(Match(token: nil, range: done..<range.lowerBound)) }
            found.append(Match(token: token, range: range))
            done = range.upperBound
        }
        if done < text.count { found.append(Match(token: nil, range: done..<text.count)) }
        return found
    }

    private func longest(_ text: UnsafeBufferPointer<UInt8>, _ start: Int) -> (AddedToken, Int)? {
        var node: Int32 = 0, at = start, best: (AddedToken, Int)?
        while at < text.count, let child = children[UInt64(node) << 8 | UInt64(text[at])] {
            node = child
            at += 1
            if ends[Int(node)] >= 0 { best = (tokens[Int(ends[Int(node)])], at) }
        }
        return best
    }

    private func wordTouches(_ text: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Bool {
        let utf8 = UTF8Text(text.baseAddress!)
        if range.lowerBound > 0 {
            let before = utf8.scalar(at: utf8.characterStart(before: range.lowerBound)).value
            if isWordCharacter(Unicode.Scalar(before)!) { return true }
        }
        return range.upperBound < text.count
            && isWordCharacter(Unicode.Scalar(utf8.scalar(at: range.upperBound).value)!)
    }

    private func blanksStart(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Int {
        let utf8 = UTF8Text(text.baseAddress!)
        var at = at
        while at > 0 {
            let start = utf8.characterStart(before: at)
            if utf8.character(at: start).kind & CharacterClass.space.rawValue == 0 { break }
            at = start
        }
        return at
    }

    private func blanksEnd(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> Int {
        UTF8Text(text.baseAddress!).run(of: CharacterClass.space.rawValue, from: at, to: text.count)
    }
}

/// `\w` of Unicode regular expressions (UTS 18, annex C).
private func isWordCharacter(_ scalar: Unicode.Scalar) -> Bool {
    if scalar.properties.isAlphabetic || scalar.properties.isJoinControl { return true }
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation: return true
    default: return false
    }
}
