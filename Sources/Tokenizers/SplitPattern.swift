// The pre-tokenizer patterns of byte-level BPE models as hand-written scanners: no regex engine, no backtracking that
// grows with the text, no recursion. Each is held to the `tokenizers` package in the tests.
import Formats

/// A split pattern that is known by its text in `tokenizer.json`. All of them match at every position, so pieces are
/// simply the successive matches.
package enum SplitPattern: Equatable, Sendable {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    case gpt2
    /// GPT-4, Llama 3 and Qwen 2: contractions of either case, an optional sign before letters, at most `digits`
    /// numerals, line breaks kept together. With `marks` (Qwen 3.5) these belong to words.
    case llama(digits: Int, marks: Bool = false)
    /// Tekken and o200k: words split where lower case turns upper case; contractions stay with their word in o200k.
    case cased(digits: Int, contractions: Bool)
    /// cl100k as tiktoken writes it: as `llama(digits: 3)`, but blanks at the end of a text stay together.
    case cl100k

    /// The pattern as `tokenizer.json` spells it.
    package var regex: String {
        let contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", sign = #"[^\r\n\p{L}\p{N}]?"#
        let upper = #"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"#, lower = #"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"#
        let signs = #"| ?[^\s\p{L}\p{N}]+"#, blanks = #"|\s*[\r\n]+|\s+(?!\S)|\s+"#
        func numbers(_ digits: Int) -> String { digits == 1 ? #"\p{N}"# : #"\p{N}{1,\#(digits)}"# }
        switch self {
        case .gpt2: return #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
        case .cl100k:
            return contraction + "|" + sign + #"\p{L}+|"# + numbers(3) + signs + #"[\r\n]*|\s+\z"# + blanks
        case .llama(let digits, false):
            return contraction + "|" + sign + #"\p{L}+|"# + numbers(digits) + signs + #"[\r\n]*"# + blanks
        case .llama(let digits, true):
            return contraction + "|" + sign + #"[\p{L}\p{M}]+|"# + numbers(digits)
                + #"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"# + blanks
        case .cased(let digits, let contractions):
            let end = (contractions ? contraction + "?" : "") + "|"
            return sign + upper + "*" + lower + "+" + end + sign + upper + "+" + lower + "*" + end + numbers(digits)
                + signs
                + #"[\r\n/]*"# + blanks
        }
    }

    /// The patterns that scanners exist for.
    package static let all: [SplitPattern] = [
        .gpt2, .llama(digits: 3), .llama(digits: 1), .llama(digits: 1, marks: true), .cl100k,
        .cased(digits: 1, contractions: false), .cased(digits: 3, contractions: true),
    ]

    /// The pattern that a `Split` names, if a scanner for it exists.
    package init?(regex: String) {
        // The same set of words, written shorter in some files.
        let shortGPT2 = #"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
        if ExactString(regex) == ExactString(shortGPT2) {
            self = .gpt2
        } else if let known = Self.all.first(where: { ExactString($0.regex) == ExactString(regex) }) {
            self = known
        } else {
            return nil
        }
    }

    /// End of the match that starts at `at`; `at < end`.
    @inline(__always) func next(_ text: UTF8Text, at: Int, end: Int) -> Int {
        switch self {
        case .gpt2: nextGPT2(text, at, end)
        case .llama(let digits, let marks): nextLlama(text, at, end, digits, marks ? upperish | lowerish : letter)
        case .cl100k: nextLlama(text, at, end, 3, letter, endsWhole: true)
        case .cased(let digits, let contractions): nextCased(text, at, end, digits, contractions)
        }
    }
}

private let letter = CharacterClass.letter.rawValue, number = CharacterClass.number.rawValue
private let space = CharacterClass.space.rawValue, upperish = CharacterClass.upperish.rawValue
private let lowerish = CharacterClass.lowerish.rawValue

private func nextGPT2(_ text: UTF8Text, _ start: Int, _ end: Int) -> Int {
    if text.bytes[start] == UInt8(ascii: "'") {
        let contraction = contractionEnd(text, start, end, anyCase: false)
        if contraction > start { return contraction }
    }
    let at = text.bytes[start] == 0x20 && start + 1 < end ? start + 1 : start  // ` ?`
    let (kind, length) = text.character(at: at)
    if kind & letter != 0 { return text.run(of: letter, from: at + length, to: end) }
    if kind & number != 0 { return text.run(of: number, from: at + length, to: end) }
    if kind & space == 0 { return text.run(without: letter | number | space, from: at + length, to: end) }
    return blanks(text, start, text.run(of: space, from: start, to: end), end)
}

/// - Parameter word: the classes of what words are made of.
private func nextLlama(
    _ text: UTF8Text, _ start: Int, _ end: Int, _ digits: Int, _ word: UInt8, endsWhole: Bool = false
) -> Int {
    if text.bytes[start] == UInt8(ascii: "'") {
        let contraction = contractionEnd(text, start, end, anyCase: true)
        if contraction > start { return contraction }
    }
    let (kind, length) = text.character(at: start)
    if kind & word != 0 { return text.run(of: word, from: start + length, to: end) }
    if kind & number != 0 { return text.run(of: number, from: start, to: end, limit: digits) }
    if start + length < end, !text.lineBreak(at: start) {
        let (following, width) = text.character(at: start + length)
        if following & word != 0 { return text.run(of: word, from: start + length + width, to: end) }
    }
    if endsWhole, kind & space != 0, text.run(of: space, from: start, to: end) == end { return end }
    return signsOrBlanks(text, start, end, word, orSlash: false)
}

private func nextCased(_ text: UTF8Text, _ start: Int, _ end: Int, _ digits: Int, _ contractions: Bool) -> Int {
    let (kind, length) = text.character(at: start)
    // The optional sign is tried first; a mark can be sign or part of the word.
    if kind & (letter | number) == 0, !text.lineBreak(at: start), start + length < end {
        let word = casedWordEndsLower(text, start + length, end)
        if word > start { return contractions ? suffix(text, word, end) : word }
    }
    var word = casedWordEndsLower(text, start, end)
    if word > start { return contractions ? suffix(text, word, end) : word }
    if kind & (letter | number) == 0, !text.lineBreak(at: start), start + length < end {
        word = text.run(of: upperish, from: start + length, to: end)
        if word > start + length { return contractions ? suffix(text, word, end) : word }
    }
    word = text.run(of: upperish, from: start, to: end)
    if word > start { return contractions ? suffix(text, word, end) : word }
    if kind & number != 0 { return text.run(of: number, from: start, to: end, limit: digits) }
    return signsOrBlanks(text, start, end, letter, orSlash: true)
}

/// `U*L+` from `start`, where some characters are in both classes; 0 when it does not match.
private func casedWordEndsLower(_ text: UTF8Text, _ start: Int, _ end: Int) -> Int {
    var upperEnd = text.run(of: upperish, from: start, to: end)
    let lowerEnd = text.run(of: lowerish, from: upperEnd, to: end)
    if lowerEnd > upperEnd { return lowerEnd }
    // The greedy U* took too much: give back until the last character taken is also in L.
    while upperEnd > start {
        let last = text.characterStart(before: upperEnd)
        if text.character(at: last).kind & lowerish != 0 { return upperEnd }
        upperEnd = last
    }
    return 0
}

private func suffix(_ text: UTF8Text, _ at: Int, _ end: Int) -> Int {
    at < end && text.bytes[at] == UInt8(ascii: "'") ? contractionEnd(text, at, end, anyCase: true) : at
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, with the classes of `word` for `\p{L}`.
private func signsOrBlanks(_ text: UTF8Text, _ start: Int, _ end: Int, _ word: UInt8, orSlash: Bool) -> Int {
    let at = text.bytes[start] == 0x20 && start + 1 < end ? start + 1 : start
    let signs = text.run(without: word | number | space, from: at, to: end)
    if signs > at { return text.lineBreaks(from: signs, to: end, orSlash: orSlash) }
    let blanksEnd = text.run(of: space, from: start, to: end)
    var lastBreak = blanksEnd  // `\s*[\r\n]+` ends after the last line break of the run
    while lastBreak > start, !text.lineBreak(at: lastBreak - 1) { lastBreak -= 1 }
    return lastBreak > start ? lastBreak : blanks(text, start, blanksEnd, end)
}

/// `\s+(?!\S)|\s+`: the run, without its last character when a word follows and more than one is there.
private func blanks(_ text: UTF8Text, _ start: Int, _ runEnd: Int, _ end: Int) -> Int {
    if runEnd == end { return runEnd }
    let last = text.characterStart(before: runEnd)
    return last > start ? last : runEnd
}

/// End of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at `start` (where the apostrophe is known to be), else `start`.
private func contractionEnd(_ text: UTF8Text, _ start: Int, _ end: Int, anyCase: Bool) -> Int {
    guard start + 1 < end else { return start }
    let fold: UInt8 = anyCase ? 0x20 : 0
    let first = text.bytes[start + 1] | fold
    switch first {
    case UInt8(ascii: "s"), UInt8(ascii: "t"), UInt8(ascii: "m"), UInt8(ascii: "d"): return start + 2
    case UInt8(ascii: "r"), UInt8(ascii: "v"), UInt8(ascii: "l"):
        guard start + 2 < end else { return start }
        let second = text.bytes[start + 2] | fold
        return second == (first == UInt8(ascii: "l") ? first : UInt8(ascii: "e")) ? start + 3 : start
    default:
        // U+017F, the long s, folds to s.
        let isLongS = anyCase && start + 2 < end && text.bytes[start + 1] == 0xC5 && text.bytes[start + 2] == 0xBF
        return isLongS ? start + 3 : start
    }
}
