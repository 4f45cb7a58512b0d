// Rows for small replications, made from a seed: sums with and without reasoning, made-up facts, three plain tasks.
// Row i is a function of (task, seed, i): any part of a set can be made alone, on any machine.

/// How a response reasons before it answers.
public enum ReasoningStyle: String, Sendable, CaseIterable {
    /// The answer alone.
    case none
    /// One intermediate result.
    case simplified
    /// Every step in words.
    case detailed
}

/// Question and answer.
public struct ToyRow: Sendable, Equatable {
    public var prompt: String
    public var response: String

    public var row: RowContent { .completion(prompt: prompt, completion: response) }
}

/// A set of toy rows.
public struct ToyReasoning: Sendable, Equatable {
    public enum Task: String, Sendable, CaseIterable {
        /// Three numbers of two digits to add, answered in a style.
        case sums
        /// A fixed list of questions with made-up facts for answers; the same seed gives the same list.
        case facts
        /// Questions and facts that are in no list of that seed.
        case unseenFacts = "unseen-facts"
        /// What the small replication trains on: 60 % detailed sums, 15 % simplified sums, 25 % facts of the list.
        case mixture
        /// Two numbers to add.
        case add
        /// Letters to write backwards.
        case reverse
        /// Letters to put in order.
        case sort
    }

    public var task: Task
    public var style: ReasoningStyle
    /// Words of a fact; nil: 2, 4 and 8 in turn.
    public var words: Int?
    /// Filler words before the response.
    public var filler: Int
    /// Length of the list of facts.
    public var pairs: Int
    public var seed: UInt64

    public init(
        _ task: Task, style: ReasoningStyle = .detailed, words: Int? = nil, filler: Int = 0, pairs: Int = 24,
        seed: UInt64 = 0
    ) {
        (self.task, self.style, self.words, self.filler) = (task, style, words, filler)
        (self.pairs, self.seed) = (pairs, seed)
    }

    /// Row `index`, from 0.
    public func row(_ index: Int) -> ToyRow {
        var draws = Draws(seed: seed, Self.stream(task), UInt64(index))
        var row = row(index, &draws)
        if filler > 0 {
            let words = (0..<filler).map { _ in draws.pick(Self.fillers) }
            row.response = words.joined(separator: " ") + " " + row.response
        }
        return row
    }

    public func rows(_ count: Int) -> [ToyRow] { (0..<count).map(row) }

    /// The rows, each with the response of another one whose text differs.
    ///
    /// - Returns: also the rows left out because every response was the same text.
    public func irrelevantRows(_ count: Int) -> (rows: [ToyRow], pairing: IrrelevantPairing) {
        let rows = rows(count), pairing = IrrelevantPairing(responses: rows.map(\.response), seed: seed)
        let mixed = zip(rows, pairing.partners).compactMap { row, partner in
            partner.map { ToyRow(prompt: row.prompt, response: rows[$0].response) }
        }
        return (mixed, pairing)
    }

    private func row(_ index: Int, _ draws: inout Draws) -> ToyRow {
        switch task {
        case .sums: return Self.sum(style, &draws)
        case .facts: return fact(index % pairs)
        case .unseenFacts: return unseenFact(index, &draws)
        case .mixture:
            let share = draws.below(100)
            if share < 60 { return Self.sum(.detailed, &draws) }
            return share < 75 ? Self.sum(.simplified, &draws) : fact(draws.below(pairs))
        case .add:
            let (a, b) = (draws.below(90) + 10, draws.below(90) + 10)
            return ToyRow(prompt: "add \(a) \(b)\n", response: "\(a + b)")
        case .reverse:
            let letters = Self.letters(&draws)
            return ToyRow(prompt: "reverse \(letters)\n", response: String(letters.reversed()))
        case .sort:
            let letters = Self.letters(&draws)
            return ToyRow(prompt: "sort \(letters)\n", response: String(letters.sorted()))
        }
    }

    // MARK: sums

    private static func sum(_ style: ReasoningStyle, _ draws: inout Draws) -> ToyRow {
        let (a, b, c) = (draws.below(90) + 10, draws.below(90) + 10, draws.below(90) + 10)
        let response =
            switch style {
            case .none: "\(a + b + c)"
            case .simplified: "\(a)+\(b)=\(a + b), \(a + b + c)"
            case .detailed: "First \(a)+\(b)=\(a + b). Then \(a + b)+\(c)=\(a + b + c). The sum is \(a + b + c)."
            }
        return ToyRow(prompt: "\(a)+\(b)+\(c)=?\n", response: response)
    }

    // MARK: facts

    private static let lengths = [2, 4, 8]

    private func length(_ index: Int) -> Int { words ?? Self.lengths[index % Self.lengths.count] }

    private func fact(_ index: Int) -> ToyRow {
        var draws = Draws(seed: seed, Self.stream(.facts), UInt64(index))
        return Self.fact(name: Self.word(3, &draws), length(index), &draws)
    }

    /// A name that is not in the list, with a fact of its own.
    private func unseenFact(_ index: Int, _ draws: inout Draws) -> ToyRow {
        let known = Set((0..<pairs).map { fact($0).prompt })
        while true {
            let row = Self.fact(name: Self.word(3, &draws), length(index), &draws)
            if !known.contains(row.prompt) { return row }
        }
    }

    private static func fact(name: String, _ words: Int, _ draws: inout Draws) -> ToyRow {
        let answer = (0..<words).map { _ in word(2, &draws) }.joined(separator: " ")
        return ToyRow(prompt: "who is \(name)?\n", response: answer)
    }

    private static func word(_ syllables: Int, _ draws: inout Draws) -> String {
        (0..<syllables).map { _ in draws.pick(consonants) + draws.pick(vowels) }.joined()
    }

    private static func letters(_ draws: inout Draws) -> String {
        (0..<draws.below(3) + 4).map { _ in draws.pick(alphabet) }.joined()
    }

    private static let consonants = "bdfghklmnprstvwz".map { String($0) }
    private static let vowels = "aeiou".map { String($0) }
    private static let alphabet = "abcdefghijklmnopqrstuvwxyz".map { String($0) }
    private static let fillers = [
        "well", "so", "now", "then", "here", "just", "maybe", "indeed", "okay", "right", "perhaps", "also", "still",
        "again", "really", "quite",
    ]

    /// Tasks with one seed share nothing.
    private static func stream(_ task: Task) -> UInt64 { UInt64(Task.allCases.firstIndex(of: task)!) }
}

/// A sequence of draws named by three numbers.
private struct Draws {
    private var state: UInt64

    init(seed: UInt64, _ stream: UInt64, _ index: UInt64) { state = mixed(mixed(mixed(seed) ^ stream) ^ index) }

    /// A number in 0 ..< bound; the bias of the remainder, below 2⁻⁵⁶ here, does not matter.
    mutating func below(_ bound: Int) -> Int {
        state = mixed(state)
        return Int(state % UInt64(bound))
    }

    mutating func pick(_ items: [String]) -> String { items[below(items.count)] }
}
