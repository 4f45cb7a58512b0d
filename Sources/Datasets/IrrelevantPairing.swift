// Which other row's response stands in as the irrelevant one (arXiv:2410.23743): chosen by seed, its text different.

/// For every row another row whose response has another text.
///
/// A plain shuffle of short answers gives many rows a response equal to their own (half of all yes-or-no answers), which
/// would hide in the data what is asked of the model; here such a draw is passed over and counted.
public struct IrrelevantPairing: Sendable, Equatable {
    /// Row whose response replaces that of row i; nil where every response has the same text.
    public let partners: [Int?]
    /// Rows whose first draw, that of a plain shuffle, had the text of the row's own response.
    public let collisions: Int

    public var collisionRate: Double { partners.isEmpty ? 0 : Double(collisions) / Double(partners.count) }

    /// Row i draws place i of a permutation, then the places that follow until the text differs.
    ///
    /// - Parameter forbidsEqual: false takes the first draw whatever its text.
    public init(responses: [String], seed: UInt64, forbidsEqual: Bool = true) {
        let order = KeyedPermutation(count: responses.count, seed: seed, stream: 0x1BE7)
        var collisions = 0
        func differs(_ a: Int, _ b: Int) -> Bool { !responses[a].utf8.elementsEqual(responses[b].utf8) }
        partners = responses.indices.map { row in
            let first = order[row]
            if differs(row, first) { return first }
            collisions += 1
            if !forbidsEqual { return first }
            return (1..<responses.count).lazy.map { order[(row + $0) % responses.count] }.first { differs(row, $0) }
        }
        self.collisions = collisions
    }
}
