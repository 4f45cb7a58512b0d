// Byte-pair encoding that begins with characters: byte fallback, unknown tokens, prefixes and suffixes of words.

/// BPE over characters (`BPE` of `tokenizer.json` without the byte alphabet, as Llama 2 and Gemma use it).
final class CharacterBPE: WordModel {
    let vocabulary: Vocabulary
    private let merges: MergeTable
    private let rules: Rules
    /// Ids of `<0x00>` and its like, where byte fallback is on.
    private let bytes: [Int32]?
    /// A character that begins every token that it is in: texts are cut before it, and equal parts found again.
    private let boundary: [UInt8]?

    /// What to do beside merging.
    struct Rules: Sendable {
        var unknownID: Int32?
        var fusesUnknown = false
        var hasByteFallback = false
        var ignoresMerges = false
        /// Put before all characters of a word but the first, and after the last.
        var prefix: [UInt8] = [], suffix: [UInt8] = []
    }

    init(_ vocabulary: Vocabulary, _ merges: MergeTable, _ rules: Rules) {
        (self.vocabulary, self.merges, self.rules) = (vocabulary, merges, rules)
        bytes = rules.hasByteFallback ? ByteTokens.ids(in: vocabulary) : nil
        boundary = Self.boundary(vocabulary, merges, rules)
    }

    /// U+2581, if no merge joins anything else before it.
    private static func boundary(_ vocabulary: Vocabulary, _ merges: MergeTable, _ rules: Rules) -> [UInt8]? {
        let mark: [UInt8] = [0xE2, 0x96, 0x81]
        guard rules.prefix.isEmpty, rules.suffix.isEmpty, vocabulary.id(of: "\u{2581}") != nil else { return nil }
        var isSafe = true
        vocabulary.forEachText { _, text in
            guard isSafe, text.count > 3 else { return }
            var at = 3, wasMark = text.starts(with: mark)
            while at + 3 <= text.count {
                let isMark = text[at] == 0xE2 && text[at + 1] == 0x96 && text[at + 2] == 0x81
                if isMark, !wasMark || !(text[at - 1] == 0x81 && text[at - 2] == 0x96 && text[at - 3] == 0xE2) {
                    isSafe = false
                    return
                }
                wasMark = wasMark && isMark
                at += isMark ? 3 : 1
            }
        }
        return isSafe ? mark : nil
    }

    func parts(_ word: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void) {
        guard boundary != nil, word.count > 6, !(rules.ignoresMerges && vocabulary.id(of: word) != nil) else {
            return body(0..<word.count)
        }
        forEachMarkedWord(word, body)
    }

    func encode(_ word: UnsafeBufferPointer<UInt8>, _ tokens: inout [WordToken]) {
        if rules.ignoresMerges, let id = vocabulary.id(of: word) {
            tokens.append(WordToken(id: id, start: 0, end: Int32(word.count)))
            return
        }
        var ids: [Int32] = [], widths: [Int32] = []
        ids.reserveCapacity(word.count)
        widths.reserveCapacity(word.count)
        symbols(word, &ids, &widths)
        var long = LongWord(ids)
        long.merge(merges)
        var at: Int32 = 0
        let first = tokens.count
        for i in ids.indices {
            // The bytes of a suffix are not in the word.
            let end = min(at + widths[i], Int32(word.count))
            if long.ids[i] >= 0 {
                tokens.append(WordToken(id: long.ids[i], start: at, end: end))
            } else if tokens.count > first {
                tokens[tokens.count - 1].end = end
            }
            at = end
        }
    }

    /// The tokens that merging begins with. Characters that are dropped take no room, as in the reference.
    private func symbols(_ word: UnsafeBufferPointer<UInt8>, _ ids: inout [Int32], _ widths: inout [Int32]) {
        var at = 0, unknownWidth: Int32 = 0, spelled: [UInt8] = []
        func flushUnknown() {
            if unknownWidth > 0, let id = rules.unknownID {
                ids.append(id)
                widths.append(unknownWidth)
            }
            unknownWidth = 0
        }
        while at < word.count {
            let length = utf8Length(word[at]), isFirst = at == 0
            let character = UnsafeBufferPointer(rebasing: word[at..<at + length])
            at += length
            let isLast = at == word.count
            let isPlain = (isFirst || rules.prefix.isEmpty) && (!isLast || rules.suffix.isEmpty)
            if !isPlain { spelled = (isFirst ? [] : rules.prefix) + character + (isLast ? rules.suffix : []) }
            let found =
                isPlain ? vocabulary.id(of: character) : spelled.withUnsafeBufferPointer { vocabulary.id(of: $0) }
            let width = Int32(length)
            if let id = found {
                flushUnknown()
                ids.append(id)
                widths.append(width)
                continue
            }
            if let bytes {
                let spelling = isPlain ? Array(character) : spelled
                if spelling.allSatisfy({ bytes[Int($0)] >= 0 }) {
                    for byte in spelling {
                        ids.append(bytes[Int(byte)])
                        widths.append(1)
                    }
                    continue
                }
            }
            guard rules.unknownID != nil else { continue }
            if !rules.fusesUnknown { flushUnknown() }
            unknownWidth += width
        }
        flushUnknown()
    }
}
