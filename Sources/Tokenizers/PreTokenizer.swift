// Cuts a text into the words that the model encodes one by one.

/// The pre-tokenizers of a byte-level model, in order: splits, then the byte alphabet.
struct PreTokenizer: Sendable {
    enum Step: Sendable {
        /// Every numeral by itself, or runs of them.
        case digits(individual: Bool)
        case split(SplitPattern)

        /// End of the piece of `at..<end` that starts at `at`.
        @inline(__always) func next(_ text: UTF8Text, at: Int, end: Int) -> Int {
            switch self {
            case .split(let pattern): return pattern.next(text, at: at, end: end)
            case .digits(let individual):
                let digit = CharacterClass.digit.rawValue
                let (kind, length) = text.character(at: at)
                if kind & digit == 0 { return text.run(without: digit, from: at + length, to: end) }
                return individual ? at + length : text.run(of: digit, from: at + length, to: end)
            }
        }
    }

    var steps: [Step]
    /// In their place where a pattern is none that a scanner is known for.
    var splitters: [PieceSplitter]?
    /// The step before which each piece that does not start with a space gets one; nil for none.
    var prefixBefore: Int?

    /// More steps than any tokenizer has.
    static let maxSteps = 15

    init(steps: [Step]) { self.steps = steps }

    /// The byte-level pre-tokenizer that these make; nil where they are something else.
    init?(_ parts: [PieceSplitter]) {
        guard case .byteLevel(let addsPrefixSpace, let splits)? = parts.last, parts.count < Self.maxSteps else {
            return nil
        }
        steps = []
        var isScanned = true
        for part in parts.dropLast() {
            switch part {
            case .known(let pattern): steps.append(.split(pattern))
            case .characters(.numeric, .isolated): steps.append(.digits(individual: true))
            case .characters(.numeric, .contiguous): steps.append(.digits(individual: false))
            case .pattern(_, let behavior, _) where behavior != .removed: isScanned = false
            case .characters(_, let behavior) where behavior != .removed: isScanned = false
            default: return nil
            }
        }
        if addsPrefixSpace { prefixBefore = steps.count }
        if splits { steps.append(.split(.gpt2)) }
        if isScanned { return }
        if addsPrefixSpace { return nil }
        splitters = parts.dropLast() + (splits ? [.known(.gpt2)] : [])
        steps = []
    }

    /// The pieces of one text after some of the steps, one after another.
    struct Pieces {
        private let text: UTF8Text
        private let steps: UnsafeBufferPointer<Step>
        /// End of the current piece after each number of steps; the first is the end of the text.
        private let ends: UnsafeMutablePointer<Int>
        private var at: Int

        /// - Parameter ends: room for one number more than there are steps.
        init(
            _ text: UTF8Text, _ range: Range<Int>, _ steps: UnsafeBufferPointer<Step>, _ ends: UnsafeMutablePointer<Int>
        ) {
            (self.text, self.steps, self.ends, at) = (text, steps, ends, range.lowerBound)
            ends[0] = range.upperBound
            for i in 0..<steps.count { ends[i + 1] = range.lowerBound }
        }

        @inline(__always) mutating func next() -> Range<Int>? {
            let start = at
            guard start < ends[0] else { return nil }
            var level = steps.count
            while level > 0, ends[level] == start { level -= 1 }  // pieces that end here; the text does not
            while level < steps.count {
                ends[level + 1] = steps[level].next(text, at: start, end: ends[level])
                level += 1
            }
            at = ends[level]
            return start..<at
        }
    }
}
