// Cuts a text into the words that the model encodes one by one.

/// The pre-tokenizers of a byte-level model, in order: splits, then the byte alphabet.
struct PreTokenizer: Sendable, Equatable {
    enum Step: Sendable, Equatable {
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
    /// The step before which each piece that does not start with a space gets one; nil for none.
    var prefixBefore: Int?

    /// The pieces of one text after steps `from..<to`, one after another.
    struct Pieces {
        private let text: UTF8Text
        private let steps: ArraySlice<Step>
        /// End of the current piece at each level; the first is the end of the text.
        private var ends: [Int]
        private(set) var at: Int

        init(_ text: UTF8Text, _ range: Range<Int>, _ steps: ArraySlice<Step>) {
            (self.text, self.steps, at) = (text, steps, range.lowerBound)
            ends = [range.upperBound] + [Int](repeating: range.lowerBound, count: steps.count)
        }

        mutating func next() -> Range<Int>? {
            guard at < ends[0] else { return nil }
            let start = at
            for (level, step) in steps.enumerated() where ends[level + 1] == start {
                ends[level + 1] = step.next(text, at: start, end: ends[level])
            }
            at = ends[ends.count - 1]
            return start..<at
        }
    }

    func pieces(_ text: UTF8Text, _ range: Range<Int>, from: Int = 0, to: Int? = nil) -> Pieces {
        Pieces(text, range, steps[from..<(to ?? steps.count)])
    }
}
