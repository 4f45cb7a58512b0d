// Which rows make up optimiser step k, and how they are cut into micro-batches: pure functions of k.
import Diagnostics

/// Rows by epoch and position.
private struct EpochOrder: Sendable {
    private let count: Int
    private let seed: UInt64
    private let weighted: WeightedOrder?

    init(rows: Int, seed: UInt64, epochs: Int, _ sets: WeightedSets?) {
        (count, self.seed) = (rows, seed)
        weighted = sets.map { WeightedOrder($0, seed: seed, count: rows * epochs) }
    }

    func rows(_ epoch: Int, _ positions: Range<Int>) -> [Int] {
        let start = epoch * count
        if let weighted { return weighted.rows(start + positions.lowerBound..<start + positions.upperBound) }
        let order = KeyedPermutation(count: count, seed: seed, stream: UInt64(epoch))
        return positions.map { order[$0] }
    }

    func draws(_ epoch: Int, before position: Int) -> [Int]? { weighted?.counts(before: epoch * count + position) }
}

/// How much one optimiser step takes.
public enum StepSize: Sendable, Equatable {
    case rows(Int)
    /// Rows in order as long as their tokens fit; at least one.
    case tokens(Int)
}

/// How the rows of a step become micro-batches.
public enum MicroBatching: Sendable, Equatable {
    /// Best-fit packs of at most this many tokens; the window is the step.
    case packed(maxTokens: Int)
    /// This many rows at a time, in order.
    case rows(Int)
}

/// Where a run stands: everything there is to save.
public struct SamplerPosition: Sendable, Equatable, Codable {
    /// Optimiser steps done.
    public var step = 0
    /// Micro-batches done in the step under way.
    public var microBatch = 0

    public init(step: Int = 0, microBatch: Int = 0) { (self.step, self.microBatch) = (step, microBatch) }
}

/// The rows and micro-batches of one optimiser step.
public struct StepPlan: Sendable, Equatable {
    public let step: Int
    public let epoch: Int
    /// Indexes in the data set, in the order of the epoch.
    public let rows: [Int]
    /// The same, shared out.
    public let microBatches: [[Int]]
    public let tokens: Int
    /// Targets of the whole step: what its loss is divided by.
    public let trainedTokens: Int
}

/// Orders a data set for training.
///
/// Epoch e takes the rows in the keyed order (seed, e). Steps do not cross epochs: the last one of an epoch has what is
/// left. Nothing is remembered from call to call, so any step can be asked for at any time. With weighted sets an epoch is as
/// many draws as the data set has rows, and the next one goes on where it ends.
public struct BatchSampler: Sendable {
    public let dataset: TokenizedDataset
    public let seed: UInt64
    public let stepSize: StepSize
    public let microBatching: MicroBatching
    private let order: EpochOrder
    /// Optimiser steps of all epochs asked for.
    public let totalSteps: Int
    /// First steps of the epochs, and the end.
    private let epochStarts: [Int]
    /// For `.tokens`: positions in each epoch's order where its steps begin, and the end.
    private let cuts: [[Int]]

    /// - Parameters:
    ///   - epochs: may have a fraction: 0.5 is the first half of the steps of an epoch, rounded up.
    ///   - sets: of rows of `dataset`, to draw from by weight; nil takes every row once an epoch.
    /// - Throws: `UserError` for sizes below one and for a data set without rows.
    public init(
        _ dataset: TokenizedDataset, seed: UInt64, stepSize: StepSize, microBatching: MicroBatching, epochs: Double,
        sets: WeightedSets? = nil
    ) throws {
        try Self.check(dataset, stepSize, microBatching, epochs)
        (self.dataset, self.seed, self.stepSize, self.microBatching) = (dataset, seed, stepSize, microBatching)
        order = EpochOrder(rows: dataset.count, seed: seed, epochs: Int(epochs.rounded(.up)), sets)
        var starts = [0], cuts: [[Int]] = []
        for epoch in 0..<Int(epochs.rounded(.up)) {
            let steps: Int
            switch stepSize {
            case .rows(let rows): steps = (dataset.count + rows - 1) / rows
            case .tokens(let tokens):
                cuts.append(Self.cuts(dataset, order.rows(epoch, 0..<dataset.count), tokens))
                steps = cuts[epoch].count - 1
            }
            let part = min(1, epochs - Double(epoch))
            starts.append(starts[epoch] + Int((Double(steps) * part).rounded(.up)))
        }
        (epochStarts, self.cuts, totalSteps) = (starts, cuts, starts.last!)
    }

    private static func check(
        _ dataset: TokenizedDataset, _ stepSize: StepSize, _ microBatching: MicroBatching, _ epochs: Double
    ) throws {
        let (step, micro) =
            switch (stepSize, microBatching) {
            case (.rows(let a), .packed(let b)), (.rows(let a), .rows(let b)), (.tokens(let a), .packed(let b)),
                (.tokens(let a), .rows(let b)):
                (a, b)
            }
        if step < 1 { throw UserError("a step of \(step) rows or tokens is too small; give at least 1", .usage) }
        if micro < 1 {
            throw UserError("a micro-batch of \(micro) rows or tokens is too small; give at least 1", .usage)
        }
        if !(epochs > 0 && epochs < 1e6) { throw UserError("cannot train for \(epochs) epochs", .usage) }
        if dataset.isEmpty { throw UserError("no row is left to train on") }
    }

    /// Where steps of at most `tokens` tokens begin in the epoch's order.
    private static func cuts(_ dataset: TokenizedDataset, _ rows: [Int], _ tokens: Int) -> [Int] {
        var cuts = [0], sum = 0
        for (position, row) in rows.enumerated() {
            let length = dataset.length(row)
            if sum > 0, sum + length > tokens {
                cuts.append(position)
                sum = 0
            }
            sum += length
        }
        return cuts + [rows.count]
    }

    /// - Precondition: 0 ≤ step < totalSteps.
    public func plan(step: Int) -> StepPlan {
        let (epoch, positions) = positions(step: step), rows = order.rows(epoch, positions)
        return StepPlan(
            step: step, epoch: epoch, rows: rows, microBatches: microBatches(rows),
            tokens: rows.reduce(0) { $0 + dataset.length($1) },
            trainedTokens: rows.reduce(0) { $0 + dataset.trainedTokens($1) })
    }

    private func positions(step: Int) -> (epoch: Int, Range<Int>) {
        precondition(0 <= step && step < totalSteps, "step \(step) of \(totalSteps)")
        let epoch = epochStarts.lastIndex { $0 <= step }!, inEpoch = step - epochStarts[epoch]
        switch stepSize {
        case .rows(let rows): return (epoch, inEpoch * rows..<min((inEpoch + 1) * rows, dataset.count))
        case .tokens: return (epoch, cuts[epoch][inEpoch]..<cuts[epoch][inEpoch + 1])
        }
    }

    /// How many rows the first `steps` steps draw from each weighted set; nil without such sets.
    public func draws(steps: Int) -> [Int]? {
        if steps == 0 { return order.draws(0, before: 0) }
        let (epoch, positions) = positions(step: steps - 1)
        return order.draws(epoch, before: positions.upperBound)
    }

    private func microBatches(_ rows: [Int]) -> [[Int]] {
        switch microBatching {
        case .packed(let maxTokens):
            return packed(lengths: rows.map(dataset.length), maxTokens: maxTokens).map { $0.map { rows[$0] } }
        case .rows(let size):
            return stride(from: 0, to: rows.count, by: size).map { Array(rows[$0..<min($0 + size, rows.count)]) }
        }
    }

    /// The arrays of micro-batch `index` of a step.
    public func batch(_ plan: StepPlan, _ index: Int) -> PackedBatch { dataset.batch(plan.microBatches[index]) }

    /// The position after the micro-batch at `position`.
    public func advanced(_ position: SamplerPosition) -> SamplerPosition {
        let next = position.microBatch + 1
        return next < plan(step: position.step).microBatches.count
            ? SamplerPosition(step: position.step, microBatch: next) : SamplerPosition(step: position.step + 1)
    }

    /// How well micro-batches are filled over the first `steps` steps.
    public func fill(steps: Int) -> BatchFill {
        var fill = BatchFill()
        for step in 0..<min(steps, totalSteps) {
            for rows in plan(step: step).microBatches { fill.add(rows.map(dataset.length), capacity: capacity) }
        }
        return fill
    }

    private var capacity: Int? { if case .packed(let maxTokens) = microBatching { maxTokens } else { nil } }
}

/// Tokens, and what is left empty. The rows themselves carry no padding: `waste` says how far micro-batches stay below
/// their limit, `paddingAvoided` what padding each micro-batch to its longest row would have added.
public struct BatchFill: Sendable, Equatable {
    public private(set) var microBatches = 0
    public private(set) var tokens = 0
    public private(set) var capacity = 0
    public private(set) var paddedTokens = 0

    mutating func add(_ lengths: [Int], capacity limit: Int?) {
        let sum = lengths.reduce(0, +)
        microBatches += 1
        tokens += sum
        capacity += max(sum, limit ?? sum)
        paddedTokens += (lengths.max() ?? 0) * lengths.count
    }

    /// Share of the micro-batches' limit that stays empty, 0 to 1.
    public var waste: Double { capacity == 0 ? 0 : 1 - Double(tokens) / Double(capacity) }
    /// Share of a padded layout that would have been padding, 0 to 1.
    public var paddingAvoided: Double { paddedTokens == 0 ? 0 : 1 - Double(tokens) / Double(paddedTokens) }
}
