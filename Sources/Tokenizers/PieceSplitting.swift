// The pre-tokenizers of `tokenizer.json` in general: lists of pieces of one text, cut further or rewritten.

/// A stretch of text cut into pieces.
struct PieceText {
    var text: AlignedText
    /// In order; what lies between two was removed.
    var pieces: [Range<Int>]

    init(_ text: AlignedText) {
        self.text = text
        pieces = text.isEmpty ? [] : [0..<text.bytes.count]
    }
}

/// One pre-tokenizer.
enum PieceSplitter: Sendable {
    /// What becomes of the matches that a text is split at.
    enum Behavior: String, Sendable {
        case removed = "Removed", isolated = "Isolated", contiguous = "Contiguous"
        case mergedWithPrevious = "MergedWithPrevious", mergedWithNext = "MergedWithNext"
    }

    enum PrependScheme: String, Sendable { case first, never, always }

    /// A property of single characters, each of which is a match.
    enum CharacterKind: Sendable {
        case space, bertPunctuation, numeric, one(UInt32)

        @inline(__always) func matches(_ scalar: UInt32) -> Bool {
            switch self {
            case .space: CharacterProperties.isSpace(scalar)
            case .bertPunctuation: isPunctuation(scalar)
            case .numeric: CharacterProperties.isNumeric(scalar)
            case .one(let wanted): scalar == wanted
            }
        }

        private func isPunctuation(_ scalar: UInt32) -> Bool {
            switch scalar {
            case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: true
            case ..<0x80: false
            default: CharacterProperties.isPunctuation(scalar)
            }
        }
    }

    case pattern(SplitRegex, Behavior, inverted: Bool)
    /// A pattern that a scanner is known for; it matches everywhere.
    case known(SplitPattern)
    case characters(CharacterKind, Behavior)
    /// Words and runs of signs, without the blanks.
    case words
    case metaspace(replacement: UInt32, PrependScheme, splits: Bool)
    case scripts
    case fixedLength(Int)
    /// The byte alphabet, after a space before the text where it has none.
    case byteLevel(addsPrefixSpace: Bool, splits: Bool)

    func apply(to pieces: inout PieceText) {
        switch self {
        case .pattern(let regex, let behavior, let inverted):
            var matcher = RegexMatcher(regex)
            pieces.cut(behavior) { bytes, emit in
                matcher.take(bytes)
                Self.emitAll(matcher.matches(), bytes.count, inverted, emit)
            }
        case .known(let pattern):
            pieces.cut(.isolated) { bytes, emit in
                let text = UTF8Text(bytes.baseAddress!)
                var at = 0
                while at < bytes.count {
                    let end = pattern.next(text, at: at, end: bytes.count)
                    emit(at..<end, true)
                    at = end
                }
            }
        case .characters(let kind, let behavior):
            pieces.cut(behavior) { bytes, emit in
                var at = 0, start = 0
                while at < bytes.count {
                    let (scalar, length) = UTF8Scalars.scalar(bytes, at)
                    if kind.matches(scalar) {
                        if start < at { emit(start..<at, false) }
                        emit(at..<at + length, true)
                        start = at + length
                    }
                    at += length
                }
                if start < at { emit(start..<at, false) }
            }
        case .words: pieces.cut(.removed, Self.words)
        case .metaspace(let replacement, let scheme, let splits):
            var mark: [UInt8] = []
            appendUTF8(replacement, to: &mark)
            pieces.rewritePieces { text in Self.metaspace(&text, mark, scheme) }
            if splits {
                Self.characters(.one(replacement), .mergedWithNext).apply(to: &pieces)
            }
        case .scripts: pieces.cut(.removed, Self.scripts)
        case .fixedLength(let length):
            pieces.cut(.isolated) { bytes, emit in
                var at = 0
                while at < bytes.count {
                    let start = at
                    for _ in 0..<length where at < bytes.count { at += utf8Length(bytes[at]) }
                    emit(start..<at, true)
                }
            }
        case .byteLevel(let addsPrefixSpace, let splits):
            if addsPrefixSpace {
                pieces.rewritePieces { text in if text.bytes.first != 0x20 { text.prepend([0x20]) } }
            }
            if splits { Self.known(.gpt2).apply(to: &pieces) }
            pieces.rewritePieces(ByteAlphabet.spell)
        }
    }

    private static func emitAll(
        _ matches: [Range<Int>], _ count: Int, _ inverted: Bool, _ emit: (Range<Int>, Bool) -> Void
    ) {
        var at = 0
        for match in matches {
            if at < match.lowerBound { emit(at..<match.lowerBound, inverted) }
            emit(match, !inverted)
            at = match.upperBound
        }
        if at < count { emit(at..<count, inverted) }
    }

    /// `\w+|[^\w\s]+`; what is not matched goes.
    private static func words(_ bytes: UnsafeBufferPointer<UInt8>, _ emit: (Range<Int>, Bool) -> Void) {
        func kind(_ scalar: UInt32) -> Int {
            CharacterProperties.isWord(scalar) ? 1 : CharacterProperties.isSpace(scalar) ? 0 : 2
        }
        var at = 0
        while at < bytes.count {
            let start = at, first = kind(UTF8Scalars.scalar(bytes, at).0)
            while at < bytes.count, case let (scalar, length) = UTF8Scalars.scalar(bytes, at), kind(scalar) == first {
                at += length
            }
            emit(start..<at, first == 0)
        }
    }

    private static func metaspace(_ text: inout AlignedText, _ mark: [UInt8], _ scheme: PrependScheme) {
        if text.bytes.contains(0x20) {
            var bytes: [UInt8] = [], origins: [Range<Int32>] = []
            bytes.reserveCapacity(text.bytes.count + text.bytes.count / 2)
            for (i, byte) in text.bytes.enumerated() {
                if byte == 0x20 { bytes += mark } else { bytes.append(byte) }
                if let origin = text.origins?[i] {
                    origins += repeatElement(origin, count: byte == 0x20 ? mark.count : 1)
                }
            }
            text = AlignedText(bytes: bytes, origins: text.origins == nil ? nil : origins)
        }
        if scheme == .never || text.bytes.starts(with: mark) { return }
        if scheme == .first, text.origins?.first?.lowerBound ?? 0 != 0 { return }
        text.prepend(mark)
    }

    /// Cuts where the script changes; what comes before the first script goes.
    private static func scripts(_ bytes: UnsafeBufferPointer<UInt8>, _ emit: (Range<Int>, Bool) -> Void) {
        var at = 0, start: Int?, last: UInt8 = 0
        while at < bytes.count {
            let (scalar, length) = UTF8Scalars.scalar(bytes, at), script = CharacterProperties.scriptRuns[scalar]
            if script != 0 {
                if script != last {
                    if let start { emit(start..<at, false) }
                    start = at
                }
                last = script
            }
            at += length
        }
        if let start { emit(start..<at, false) }
    }
}

extension PieceText {
    /// Cuts each piece at the matches that `find` emits (with the text between, in order).
    mutating func cut(
        _ behavior: PieceSplitter.Behavior,
        _ find: (UnsafeBufferPointer<UInt8>, (Range<Int>, _ isMatch: Bool) -> Void) -> Void
    ) {
        var result: [Range<Int>] = []
        result.reserveCapacity(pieces.count * 4)
        var found: [(range: Range<Int>, isMatch: Bool)] = []
        text.bytes.withUnsafeBufferPointer { bytes in
            for piece in pieces where !piece.isEmpty {
                let base = piece.lowerBound
                let part = UnsafeBufferPointer(rebasing: bytes[piece])
                func add(_ range: Range<Int>) {
                    if !range.isEmpty { result.append(base + range.lowerBound..<base + range.upperBound) }
                }
                switch behavior {
                case .isolated: find(part) { range, _ in add(range) }
                case .removed: find(part) { range, isMatch in if !isMatch { add(range) } }
                case .contiguous, .mergedWithPrevious, .mergedWithNext:
                    found.removeAll(keepingCapacity: true)
                    find(part) { found.append(($0, $1)) }
                    for range in Self.merged(found, behavior) { add(range) }
                }
            }
        }
        pieces = result
    }

    private static func merged(
        _ found: [(range: Range<Int>, isMatch: Bool)], _ behavior: PieceSplitter.Behavior
    ) -> [Range<Int>] {
        var result: [Range<Int>] = [], wasMatch = false
        let isBackwards = behavior == .mergedWithNext
        for (range, isMatch) in isBackwards ? found.reversed() : found {
            let joins = behavior == .contiguous ? isMatch == wasMatch : isMatch && !wasMatch
            if joins, let last = result.last {
                result[result.count - 1] =
                    isBackwards ? range.lowerBound..<last.upperBound : last.lowerBound..<range.upperBound
            } else {
                result.append(range)
            }
            wasMatch = isMatch
        }
        return isBackwards ? result.reversed() : result
    }

    /// Rewrites each piece by itself.
    mutating func rewritePieces(_ change: (inout AlignedText) -> Void) {
        if pieces.count == 1, pieces[0] == 0..<text.bytes.count {
            change(&text)
            pieces = text.isEmpty ? [] : [0..<text.bytes.count]
            return
        }
        var whole = AlignedText(bytes: [], origins: text.origins == nil ? nil : []), ranges: [Range<Int>] = []
        whole.bytes.reserveCapacity(text.bytes.count * 2)
        for piece in pieces {
            var part = AlignedText(bytes: Array(text.bytes[piece]), origins: text.origins.map { Array($0[piece]) })
            change(&part)
            let start = whole.bytes.count
            whole.bytes += part.bytes
            if let origins = part.origins { whole.origins! += origins }
            if whole.bytes.count > start { ranges.append(start..<whole.bytes.count) }
        }
        (text, pieces) = (whole, ranges)
    }
}

/// The words of a text that is not empty, each with the marks of blanks (▁) in front of it.
func forEachMarkedWord(_ text: UnsafeBufferPointer<UInt8>, _ body: (Range<Int>) -> Void) {
    var start = 0, at = 0, wasMark = true
    while at < text.count {
        let isMark = text[at] == 0xE2 && text[at + 1] == 0x96 && text[at + 2] == 0x81
        if isMark, !wasMark {
            body(start..<at)
            start = at
        }
        wasMark = isMark
        at += utf8Length(text[at])
    }
    body(start..<text.count)
}
