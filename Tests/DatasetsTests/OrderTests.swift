// Order, split, packing and steps: pure functions, checked against an independent script and by their properties.
import Datasets
import Diagnostics
import Formats
import Testing

struct KeyedPermutationTests {
    @Test func golden() throws {
        for item in try fixture("order.json").array! {
            let order = KeyedPermutation(
                count: item["count"]!.int!, seed: UInt64(item["seed"]!.string!)!, stream: UInt64(item["stream"]!.int!))
            let expected = item["order"]!.array!.map { $0.int! }
            #expect(expected.indices.map { order[$0] } == expected)
        }
    }

    @Test(arguments: [1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 5000])
    func bijective(_ count: Int) {
        for stream in 0..<3 as Range<UInt64> {
            let order = KeyedPermutation(count: count, seed: 9, stream: stream)
            #expect((0..<count).map { order[$0] }.sorted() == Array(0..<count))
        }
    }

    @Test func epochsAndSeedsDiffer() {
        func order(_ seed: UInt64, _ epoch: UInt64) -> [Int] {
            let order = KeyedPermutation(count: 500, seed: seed, stream: epoch)
            return (0..<500).map { order[$0] }
        }
        let orders = [order(1, 0), order(1, 1), order(1, 2), order(2, 0), order(0, 1)]
        #expect(Set(orders).count == orders.count)
        // Unrelated orders agree in about one place of all.
        for i in 1..<orders.count { #expect(zip(orders[0], orders[i]).count { $0 == $1 } < 12) }
    }

    /// Every row is about as likely at every place: chi-square of 20 x 20 counts, 361 degrees of freedom (s.d. 27).
    @Test func uniform() {
        var counts = [Int](repeating: 0, count: 400)
        let orders = 4000
        for seed in 0..<UInt64(orders) {
            let order = KeyedPermutation(count: 20, seed: seed, stream: 0)
            for i in 0..<20 { counts[i * 20 + order[i]] += 1 }
        }
        let mean = Double(orders) / 20
        let chiSquare = counts.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) / mean }
        #expect(chiSquare > 250 && chiSquare < 480)
    }
}

struct SplitTests {
    @Test(arguments: [(HeldOut.none, 0), (.count(7), 7), (.fraction(0.1), 10), (.fraction(0.001), 1)])
    func partition(_ heldOut: HeldOut, _ held: Int) throws {
        let split = try Split(rows: 100, heldOut: heldOut, seed: 3)
        #expect(split.heldOut.count == held)
        #expect((split.heldOut + split.training).sorted() == Array(0..<100))
        #expect(split.heldOut == split.heldOut.sorted())
        #expect(try Split(rows: 100, heldOut: heldOut, seed: 3) == split)
        if held > 1 { #expect(try Split(rows: 100, heldOut: heldOut, seed: 4) != split) }
    }

    @Test func limitKeepsTheHeldOutRows() throws {
        let all = try Split(rows: 1000, heldOut: .count(50), seed: 3)
        let some = try Split(rows: 1000, heldOut: .count(50), seed: 3, limit: 100)
        #expect(some.heldOut == all.heldOut && some.training.count == 100)
        #expect(Set(some.training).isSubset(of: all.training))
        #expect(some.training.contains { $0 > 500 })  // not just the beginning of the file
    }

    @Test func refusals() {
        #expect(throws: UserError.self) { try Split(rows: 10, heldOut: .count(10), seed: 0) }
        #expect(throws: UserError.self) { try Split(rows: 10, heldOut: .fraction(1), seed: 0) }
        #expect(throws: UserError.self) { try Split(rows: 10, heldOut: .none, seed: 0, limit: 0) }
    }
}

private func example(_ ids: [Int32], trainedFrom: Int, row: Int = 1) -> TokenizedExample {
    TokenizedExample(
        ids: ids, trained: ids.indices.map { $0 >= trainedFrom },
        source: RowLocation(file: "a", unit: .line, number: row))
}

private func randomDataset(rows: Int, seed: UInt64) -> TokenizedDataset {
    var generator = SeededGenerator(seed)
    return TokenizedDataset(
        (0..<rows).map { row in
            let n = Int.random(in: 2...60, using: &generator)
            return example(
                (0..<n).map { Int32(row * 100 + $0) }, trainedFrom: Int.random(in: 0..<n, using: &generator), row: row)
        })
}

struct PackingTests {
    @Test func golden() {
        // By hand: 6 opens A(4 left), 5 opens B(5), 4 fills A, 3 goes to B(2), 2 fills B, 11 stands alone.
        #expect(packed(lengths: [3, 6, 4, 11, 5, 2], maxTokens: 10) == [[0, 4, 5], [1, 2], [3]])
    }

    @Test func properties() {
        var generator = SeededGenerator(5)
        for _ in 0..<200 {
            let lengths = (0..<Int.random(in: 1...80, using: &generator)).map { _ in
                Int.random(in: 1...50, using: &generator)
            }
            let packs = packed(lengths: lengths, maxTokens: 64)
            #expect(packs.flatMap { $0 }.sorted() == Array(lengths.indices))
            #expect(packs.allSatisfy { pack in pack.reduce(0) { $0 + lengths[$1] } <= 64 && pack == pack.sorted() })
            #expect(packs.map { $0[0] } == packs.map { $0[0] }.sorted())
            // Any two packs together are more than one could hold, but for the pairs that greedy choice leaves.
            let sums = packs.map { $0.reduce(0) { $0 + lengths[$1] } }
            #expect(sums.count { $0 <= 32 } <= 1)
        }
    }

    @Test func acrossPacksByHand() {
        func piece(_ document: Int, _ tokens: Range<Int>) -> DocumentPiece { .init(document: document, tokens: tokens) }
        #expect(
            packedAcross(lengths: [3, 12, 1, 2], maxTokens: 5) == [
                [piece(0, 0..<3), piece(1, 0..<2)], [piece(1, 2..<7)], [piece(1, 7..<12)],
                [piece(2, 0..<1), piece(3, 0..<2)],
            ])
        #expect(packedAcross(lengths: [], maxTokens: 5).isEmpty)
    }

    /// Every token once and in order, packs full, and each piece a document: positions from 0, its first token no target.
    @Test(arguments: [2, 3, 17, 64, 10_000]) func acrossPacksNothingIsLost(_ length: Int) {
        for seed in 0..<20 as Range<UInt64> {
            let data = randomDataset(rows: 1 + Int(seed) * 3, seed: seed)
            let packs = packedAcross(lengths: data.indices.map(data.length), maxTokens: length)
            let batches = packs.map { data.batch($0) }
            #expect(batches.dropLast().allSatisfy { $0.count == length } && (1...length).contains(batches.last!.count))
            #expect(batches.flatMap(\.inputIDs) == data.flatMap(\.ids))
            var targets: [Int32] = [], expected: [Int32] = []
            for (pack, batch) in zip(packs, batches) {
                #expect(batch.documentCount == pack.count)
                for (i, piece) in pack.enumerated() {
                    let place = batch.documentStarts[i]..<batch.documentStarts[i + 1]
                    #expect(Array(batch.positions[place]) == (0..<Int32(piece.tokens.count)).map { $0 })
                    #expect(batch.labels[place.upperBound - 1] == PackedBatch.ignoredLabel)
                    targets += batch.labels[place].filter { $0 != PackedBatch.ignoredLabel }
                    let row = data[piece.document]
                    expected += piece.tokens.dropFirst().filter { row.trained[$0] }.map { row.ids[$0] }
                }
            }
            #expect(targets == expected && batches.reduce(0) { $0 + $1.trainedTokens } == targets.count)
        }
    }

    @Test func batch() {
        let batch = PackedBatch([
            example([1, 2, 3], trainedFrom: 1), example([4, 5], trainedFrom: 0), example([6], trainedFrom: 0),
        ])
        #expect(batch.inputIDs == [1, 2, 3, 4, 5, 6])
        #expect(batch.labels == [2, 3, -100, 5, -100, -100])
        #expect(batch.positions == [0, 1, 2, 0, 1, 0])
        #expect(batch.documentStarts == [0, 3, 5, 6])
        #expect(batch.trainedTokens == 3)
    }

    /// However rows are put together, each row's targets are the same and their number adds up (`efficiency.md` 3.4).
    @Test func trainedTokensDoNotDependOnPacking() throws {
        let data = randomDataset(rows: 97, seed: 2)
        for microBatching in [MicroBatching.rows(1), .rows(8), .packed(maxTokens: 128), .packed(maxTokens: 16)] {
            let sampler = try BatchSampler(data, seed: 1, stepSize: .rows(16), microBatching: microBatching, epochs: 1)
            #expect(sampler.totalSteps == 7)
            var seen: [Int] = []
            for step in 0..<sampler.totalSteps {
                let plan = sampler.plan(step: step)
                let batches = plan.microBatches.indices.map { sampler.batch(plan, $0) }
                #expect(batches.reduce(0) { $0 + $1.trainedTokens } == plan.trainedTokens)
                #expect(batches.reduce(0) { $0 + $1.labels.count { $0 != -100 } } == plan.trainedTokens)
                #expect(batches.reduce(0) { $0 + $1.count } == plan.tokens)
                #expect(plan.microBatches.flatMap { $0 }.sorted() == plan.rows.sorted())
                seen += plan.rows
            }
            #expect(sampler.plan(step: 6).rows.count == 1)  // 97 = 6 x 16 + 1
            #expect(seen.sorted() == Array(0..<97))
        }
    }
}

struct BatchSamplerTests {
    @Test func tokensPerStep() throws {
        let data = randomDataset(rows: 80, seed: 3)
        let sampler = try BatchSampler(
            data, seed: 1, stepSize: .tokens(200), microBatching: .packed(maxTokens: 100), epochs: 2)
        var rows: [[Int]] = [[], []]
        for step in 0..<sampler.totalSteps {
            let plan = sampler.plan(step: step)
            #expect(plan.tokens <= 200 && !plan.rows.isEmpty)
            rows[plan.epoch] += plan.rows
        }
        #expect(rows[0].sorted() == Array(0..<80) && rows[1].sorted() == Array(0..<80))
        #expect(rows[0] != rows[1])
    }

    @Test(arguments: [(0.5, 4), (1, 7), (1.5, 11), (2, 14), (0.01, 1)])
    func epochs(_ epochs: Double, _ steps: Int) throws {
        let data = randomDataset(rows: 97, seed: 2)
        let sampler = try BatchSampler(data, seed: 1, stepSize: .rows(16), microBatching: .rows(1), epochs: epochs)
        #expect(sampler.totalSteps == steps)
    }

    /// Stop anywhere, begin again from the saved position: the same micro-batches come.
    @Test func resuming() throws {
        let data = randomDataset(rows: 50, seed: 4)
        func sampler() throws -> BatchSampler {
            try BatchSampler(data, seed: 6, stepSize: .rows(8), microBatching: .packed(maxTokens: 80), epochs: 2)
        }
        func run(from start: SamplerPosition) throws -> [(SamplerPosition, PackedBatch)] {
            let sampler = try sampler()
            var position = start, batches: [(SamplerPosition, PackedBatch)] = []
            while position.step < sampler.totalSteps {
                batches.append((position, sampler.batch(sampler.plan(step: position.step), position.microBatch)))
                position = sampler.advanced(position)
            }
            return batches
        }
        let whole = try run(from: SamplerPosition())
        for stop in whole.indices {
            #expect(try run(from: whole[stop].0).map(\.1) == whole[stop...].map(\.1))
        }
    }

    @Test func fill() throws {
        let data = randomDataset(rows: 400, seed: 5)
        let packed = try BatchSampler(
            data, seed: 1, stepSize: .rows(200), microBatching: .packed(maxTokens: 512), epochs: 1)
        let fill = packed.fill(steps: 2)
        #expect(fill.tokens == data.tokens)
        #expect(fill.waste > 0 && fill.waste < 0.1)
        let padded = try BatchSampler(data, seed: 1, stepSize: .rows(200), microBatching: .rows(8), epochs: 1).fill(
            steps: 2)
        #expect(padded.waste == 0 && padded.paddingAvoided > 0.2)
    }

    @Test func evaluationCoversEveryRowOnce() {
        let data = randomDataset(rows: 300, seed: 5)
        let batches = data.evaluationBatches(maxTokens: 128, window: 64)
        #expect(batches.flatMap { $0 }.sorted() == Array(0..<300))
        #expect(batches.reduce(0) { $0 + data.batch($1).trainedTokens } == data.trainedTokens)
    }

    @Test func refusals() {
        let data = randomDataset(rows: 3, seed: 1)
        #expect(throws: UserError.self) {
            try BatchSampler(data, seed: 1, stepSize: .rows(0), microBatching: .rows(1), epochs: 1)
        }
        #expect(throws: UserError.self) {
            try BatchSampler(data, seed: 1, stepSize: .rows(1), microBatching: .packed(maxTokens: 0), epochs: 1)
        }
        #expect(throws: UserError.self) {
            try BatchSampler(data, seed: 1, stepSize: .rows(1), microBatching: .rows(1), epochs: 0)
        }
        #expect(throws: UserError.self) {
            try BatchSampler(TokenizedDataset(), seed: 1, stepSize: .rows(1), microBatching: .rows(1), epochs: 1)
        }
    }
}

struct WeightedTests {
    private let data = randomDataset(rows: 3000, seed: 8)
    private let sets = [Array(0..<40), Array(40..<1000), Array(1000..<3000)]

    private func sampler(_ weights: [Double], seed: UInt64 = 4) throws -> BatchSampler {
        try BatchSampler(
            data, seed: seed, stepSize: .rows(16), microBatching: .packed(maxTokens: 200), epochs: 3,
            sets: WeightedSets(sets, weights: weights, names: ["a", "b", "c"]))
    }

    private func drawn(_ sampler: BatchSampler) -> [Int] {
        (0..<sampler.totalSteps).flatMap { sampler.plan(step: $0).rows }
    }

    /// In every beginning of the order each set has its share, never a whole draw more.
    @Test(arguments: [[3, 1, 1], [1, 1, 1], [0.01, 2, 0.3], [1000, 1, 1], [1, 2, 4]] as [[Double]])
    func shares(_ weights: [Double]) throws {
        let sampler = try sampler(weights), rows = drawn(sampler), sum = weights.reduce(0, +)
        #expect(rows.count == 9000 && sampler.totalSteps == 3 * 188)
        var counts = [0, 0, 0]
        for (i, row) in rows.enumerated() {
            counts[sets.firstIndex { $0.contains(row) }!] += 1
            for (count, weight) in zip(counts, weights) {
                let lag = weight / sum * Double(i + 1) - Double(count)
                #expect(lag > -1 && lag < 2, "\(counts) after \(i + 1) draws")
            }
        }
        #expect(sampler.draws(steps: sampler.totalSteps) == counts && sampler.draws(steps: 0) == [0, 0, 0])
        #expect(sampler.draws(steps: 1)?.reduce(0, +) == 16 && sampler.draws(steps: 188)?.reduce(0, +) == 3000)
    }

    /// Of a set every row comes once before one comes again, each time in another order.
    @Test func roundsOfASet() throws {
        let rows = drawn(try sampler([1, 1, 1]))
        for set in sets {
            let own = rows.filter { set.contains($0) }
            let rounds = stride(from: 0, to: own.count - set.count + 1, by: set.count).map {
                Array(own[$0..<$0 + set.count])
            }
            #expect(!rounds.isEmpty && rounds.allSatisfy { $0.sorted() == set && $0 != set })
            #expect(Set(rounds).count == rounds.count)
            #expect(Set(own.suffix(own.count % set.count)).count == own.count % set.count)
        }
        #expect(rows != drawn(try sampler([1, 1, 1], seed: 5)))
    }

    /// Any step asked for at once is the one that comes in order: nothing is carried from step to step.
    @Test func stepsAreFunctionsOfTheirNumber() throws {
        let whole = try sampler([1, 2, 5]), plans = (0..<whole.totalSteps).map { whole.plan(step: $0) }
        for step in [0, 1, 187, 188, 255, 256, 257, 400, 563] {
            #expect(try sampler([1, 2, 5]).plan(step: step) == plans[step])
        }
        for plan in plans {
            #expect(plan.microBatches.flatMap { $0 }.sorted() == plan.rows.sorted())
            #expect(plan.tokens == plan.rows.reduce(0) { $0 + data.length($1) })
        }
        let byTokens = try BatchSampler(
            data, seed: 4, stepSize: .tokens(500), microBatching: .rows(1), epochs: 3,
            sets: WeightedSets(sets, weights: [1, 2, 5], names: ["a", "b", "c"]))
        #expect(drawn(byTokens) == plans.flatMap(\.rows))
    }

    @Test func anEmptySetIsRefused() {
        let error = #expect(throws: UserError.self) {
            try WeightedSets([[0], []], weights: [1, 2], names: ["data.weights[0]", "data.weights[1]"])
        }
        #expect(error?.message == "data.weights[1]: no row of its path is left to draw; remove the path and its weight")
    }
}
