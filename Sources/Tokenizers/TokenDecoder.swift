// The decoders of `tokenizer.json`, as stages that tokens pass one after another.

/// One decoder; a sequence is a list of them.
enum TokenDecoder: Sendable {
    case byteLevel
    case wordPiece(prefix: [UInt8], cleansUp: Bool)
    case metaspace(replacement: [UInt8], keepsFirst: Bool)
    case bpe(suffix: [UInt8])
    case ctc(pad: [UInt8], delimiter: [UInt8], cleansUp: Bool)
    case fuse
    case strip([UInt8], start: Int, stop: Int)
    case replace(SplitRegex, [UInt8])
    case byteFallback
}

/// Decodes token by token. What all pushes and the finish emit together does not depend on where the pushes end.
///
/// A stage that joins all tokens to one text passes fragments of it on where the stages after it allow that, else
/// everything at the end.
struct DecoderChain: Sendable {
    private var stages: [Stage]

    init(_ decoders: [TokenDecoder]) {
        var stages: [Stage] = [], isFused = false
        for (i, decoder) in decoders.enumerated() {
            var stage = Stage(decoder)
            switch decoder {
            case .fuse, .byteLevel:
                stage.emitsFragments = decoders[(i + 1)...].allSatisfy { if case .strip = $0 { true } else { false } }
                isFused = true
            case .strip: stage.takesFragments = isFused
            default: break
            }
            stages.append(stage)
        }
        self.stages = stages
    }

    mutating func push(_ token: [UInt8], to output: inout [UInt8]) { pass(token, 0, &output) }

    mutating func finish(to output: inout [UInt8]) {
        for i in stages.indices {
            for rest in stages[i].finish() { pass(rest, i + 1, &output) }
        }
    }

    private mutating func pass(_ token: [UInt8], _ stage: Int, _ output: inout [UInt8]) {
        guard stage < stages.count else {
            output += token
            return
        }
        for next in stages[stage].push(token) { pass(next, stage + 1, &output) }
    }
}

private struct Stage: Sendable {
    let decoder: TokenDecoder
    var emitsFragments = false, takesFragments = false
    private var count = 0
    /// What waits for the tokens to come: bytes, a text, the token before.
    private var held: [UInt8] = []
    private var holdsToken = false
    private var stripped = 0

    init(_ decoder: TokenDecoder) { self.decoder = decoder }

    mutating func push(_ token: [UInt8]) -> [[UInt8]] {
        defer { count += 1 }
        switch decoder {
        case .byteLevel:
            token.withUnsafeBufferPointer { utf8 in
                if !ByteAlphabet.appendBytes(of: utf8, to: &held) { held.append(contentsOf: utf8) }
            }
            guard emitsFragments else { return [] }
            let complete = held.count - unfinishedBytes(held)
            defer { held.removeFirst(complete) }
            return [Array(String(decoding: held[..<complete], as: UTF8.self).utf8)]
        case .wordPiece(let prefix, let cleansUp):
            var text = token
            if count > 0 {
                text = token.starts(with: prefix) ? Array(token[prefix.count...]) : [0x20] + token
            }
            return [cleansUp ? cleaned(text) : text]
        case .metaspace(let mark, let keepsFirst):
            return [replaced(token, mark, by: count == 0 && !keepsFirst ? [] : [0x20])]
        case .bpe(let suffix):
            defer { (held, holdsToken) = (token, true) }
            return holdsToken ? [replaced(held, suffix, by: [0x20])] : []
        case .ctc(let pad, let delimiter, let cleansUp):
            if holdsToken, token == held { return [] }
            (held, holdsToken) = (token, true)
            var text = replaced(token, pad, by: [])
            if cleansUp { text = replaced(cleaned(text), delimiter, by: [0x20]) }
            return text.isEmpty ? [] : [text]
        case .fuse:
            if emitsFragments { return [token] }
            held += token
            return []
        case .strip(let content, let start, let stop):
            return takesFragments
                ? [stripFragment(token, content, start, stop)] : [strip(token, content, start, stop)]
        case .replace(let pattern, let content):
            return token.withUnsafeBufferPointer { bytes in
                guard !bytes.isEmpty else { return [token] }
                var matcher = RegexMatcher(pattern, bytes), text = AlignedText(bytes: token, origins: nil)
                text.replace(matcher.matches(), by: content)
                return [text.bytes]
            }
        case .byteFallback:
            if let byte = byteValue(token) {
                held.append(byte)
                return []
            }
            return heldCharacters() + [token]
        }
    }

    mutating func finish() -> [[UInt8]] {
        defer { held = [] }
        switch decoder {
        case .byteLevel: return [Array(String(decoding: held, as: UTF8.self).utf8)]
        case .bpe(let suffix): return holdsToken ? [replaced(held, suffix, by: [])] : []
        case .fuse: return emitsFragments ? [] : [held]
        case .byteFallback: return heldCharacters()
        default: return []
        }
    }

    // MARK: Byte fallback

    /// The value of `<0x41>`.
    private func byteValue(_ token: [UInt8]) -> UInt8? {
        guard token.count == 6, token[0] == 0x3C, token[1] == 0x30, token[2] == 0x78, token[5] == 0x3E else {
            return nil
        }
        return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
    }

    /// The bytes that wait, as text if they are one, else a replacement character for each.
    private mutating func heldCharacters() -> [[UInt8]] {
        defer { held = [] }
        if held.isEmpty { return [] }
        if String(validating: held, as: UTF8.self) != nil { return [held] }
        return held.map { _ in [0xEF, 0xBF, 0xBD] }
    }

    // MARK: Strip

    private func strip(_ token: [UInt8], _ content: [UInt8], _ start: Int, _ stop: Int) -> [UInt8] {
        var text = token[...]
        for _ in 0..<start where text.starts(with: content) { text.removeFirst(content.count) }
        for _ in 0..<stop where text.count >= content.count && text.suffix(content.count).elementsEqual(content) {
            text.removeLast(content.count)
        }
        return Array(text)
    }

    /// The same for a text that comes in fragments: what may have to go from its end waits.
    private mutating func stripFragment(
        _ fragment: [UInt8], _ content: [UInt8], _ start: Int, _ stop: Int
    ) -> [UInt8] {
        var text = held + fragment
        while stripped < start, text.starts(with: content) {
            text.removeFirst(content.count)
            stripped += 1
        }
        if !text.isEmpty { stripped = start }
        var end = text.count
        for _ in 0..<stop where end >= content.count && text[(end - content.count)..<end].elementsEqual(content) {
            end -= content.count
        }
        held = Array(text[end...])
        return Array(text[..<end])
    }
}

/// `text` with every occurrence of `old` replaced.
private func replaced(_ text: [UInt8], _ old: [UInt8], by new: [UInt8]) -> [UInt8] {
    guard let first = old.first, text.contains(first) else { return text }
    var result: [UInt8] = [], at = 0
    while at < text.count {
        if text[at] == first, text[at...].starts(with: old) {
            result += new
            at += old.count
        } else {
            result.append(text[at])
            at += 1
        }
    }
    return result
}

/// Spaces that English has not: before signs and in contractions.
private func cleaned(_ text: [UInt8]) -> [UInt8] {
    guard text.contains(0x20) else { return text }
    let rules = [
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
        (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ]
    return rules.reduce(text) { replaced($0, Array($1.0.utf8), by: Array($1.1.utf8)) }
}

/// Bytes at the end that begin a character which more bytes can complete.
func unfinishedBytes(_ bytes: [UInt8]) -> Int {
    for length in 1...3 where length <= bytes.count {
        let tail = bytes.suffix(length), lead = tail.first!
        if lead & 0xC0 == 0x80 { continue }
        let needed = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1
        guard needed > length, lead < 0xF5 else { return 0 }
        // The second byte decides whether this can be a character at all.
        if length >= 2 {
            let second = tail[tail.startIndex + 1]
            let range: ClosedRange<UInt8> =
                switch lead {
                case 0xE0: 0xA0...0xBF
                case 0xED: 0x80...0x9F
                case 0xF0: 0x90...0xBF
                case 0xF4: 0x80...0x8F
                default: 0x80...0xBF
                }
            if !range.contains(second) { return 0 }
        }
        return length
    }
    return 0
}
