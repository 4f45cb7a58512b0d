// What a study says: curves over layers, their differences, and how irrelevant responses compare. Made from the file of
// examples alone, so that a report is the same whenever it is made.
internal import Diagnostics
internal import Formats
internal import RunLog

/// What does not change examples, only what is said of them.
public struct ReportOptions: Sendable {
    /// Divide every example's nuclear norms by its loss.
    public var perLoss = false
    /// Sizes of the early, middle and late part; nil takes those of `LayerParts`.
    public var parts: [Int]?

    public init() {}
}

/// Means over the examples of one (model, data set, pairing).
public struct PairingReport: Sendable {
    public let model: String, style: String, pairing: Pairing
    /// Examples with gradients, and those without by reason.
    public internal(set) var examples = 0
    public internal(set) var skipped: [String: Int] = [:]
    /// Means over those with gradients.
    public internal(set) var loss = 0.0, responseTokens = 0.0
    public internal(set) var projections: [Projection: ProjectionReport] = [:]
}

/// Means of one projection's scalars, by layer.
public struct ProjectionReport: Sendable {
    /// Examples used, and those left out because a value was not finite.
    public internal(set) var examples = 0, notFinite = 0
    package internal(set) var means: [MatrixScalar: [Double]] = [:]
    public internal(set) var parts: LayerParts

    package init(examples: Int, notFinite: Int, parts: LayerParts, means: [MatrixScalar: [Double]]) {
        (self.examples, self.notFinite, self.parts, self.means) = (examples, notFinite, parts, means)
    }

    /// Mean nuclear norm by layer (with `perLoss`, of the norms divided by the loss).
    public var curve: [Double] { means[.nuclear] ?? [] }
    /// Its mean over layers.
    public var mean: Double { average(curve) }
    /// Mean absolute difference over all layers, and inside each part.
    public var total: Double { meanAbsoluteDifference(curve) }
    public var byPart: [Double] { curve.isEmpty ? [0, 0, 0] : parts.ranges.map { meanAbsoluteDifference(curve[$0]) } }
    func average(_ scalar: MatrixScalar) -> Double { average(means[scalar] ?? []) }

    private func average(_ values: [Double]) -> Double { values.reduce(0, +) / Double(max(1, values.count)) }
}

public struct StudyReport: Sendable {
    /// In the order of models, data sets, correct before irrelevant.
    public private(set) var pairings: [PairingReport] = []
    let settings: StudySettings
    let options: ReportOptions
    /// Data sets with their collisions: rows whose first irrelevant draw had their own response's text.
    package let collisions: [(name: String, rows: Int, collisions: Int)]
    var cosines: [PairKey: [String: MeanMatrix]] = [:]

    struct PairKey: Hashable { var model: String, style: String, pairing: Pairing }

    package init(_ settings: StudySettings, _ data: [StudyData], _ file: ExampleFile, _ options: ReportOptions) throws {
        (self.settings, self.options) = (settings, options)
        collisions = settings.irrelevant == nil ? [] : data.map { ($0.name, $0.count, $0.collisions) }
        var sums: [PairKey: PairingSums] = [:]
        try file.forEach { key, record in
            let pair = PairKey(model: key.model, style: key.style, pairing: key.pairing)
            try sums[pair, default: PairingSums()].add(record, perLoss: options.perLoss)
        }
        for (model, _) in settings.models {
            for set in data {
                for pairing in set.pairings {
                    let key = PairKey(model: model, style: set.name, pairing: pairing)
                    guard let sum = sums[key] else { continue }
                    pairings.append(try sum.report(key, settings.projections, options.parts))
                    if !sum.cosines.isEmpty { cosines[key] = sum.cosines }
                }
            }
        }
    }

    public func pairing(_ model: String, _ style: String, _ pairing: Pairing) -> PairingReport? {
        pairings.first { $0.model == model && $0.style == style && $0.pairing == pairing }
    }

    /// nil without irrelevant responses.
    public func relativeDifference(_ model: String, _ style: String, _ projection: Projection) -> RelativeDifference? {
        guard let correct = pairing(model, style, .correct)?.projections[projection],
            let irrelevant = pairing(model, style, .irrelevant)?.projections[projection],
            correct.examples > 0, irrelevant.examples > 0
        else { return nil }
        return RelativeDifference(irrelevant: irrelevant.curve, correct: correct.curve)
    }
}

/// Sums over examples as they are read.
private struct PairingSums {
    var examples = 0, skipped: [String: Int] = [:], loss = 0.0, responseTokens = 0.0
    var cosines: [String: MeanMatrix] = [:]
    private var projections: [Projection: (sums: [MatrixScalar: [Double]], examples: Int, notFinite: Int)] = [:]

    mutating func add(_ record: JSONValue, perLoss: Bool) throws {
        if let reason = record["skipped"]?.string {
            skipped[reason, default: 0] += 1
            return
        }
        examples += 1
        let loss = record["loss"]?.double ?? .nan
        self.loss += loss
        responseTokens += record["response_tokens"]?.double ?? 0
        for (name, value) in record["gradients"]?.object ?? JSONObject() {
            guard let projection = Projection(rawValue: name) else { continue }
            var entry = projections[projection] ?? ([:], 0, 0)
            defer { projections[projection] = entry }
            if value.isNull || (perLoss && !(loss > 0)) {
                entry.notFinite += 1
                continue
            }
            entry.examples += 1
            for scalar in MatrixScalar.allCases {
                let numbers = (value[scalar.rawValue]?.array ?? []).map { $0.double ?? .nan }
                let divisor = perLoss && scalar == .nuclear ? loss : 1
                if entry.sums[scalar] == nil { entry.sums[scalar] = numbers.map { _ in 0 } }
                for (i, number) in numbers.enumerated() { entry.sums[scalar]![i] += number / divisor }
            }
        }
        for (name, value) in record["cosines"]?.object ?? JSONObject() {
            let rows = (value.array ?? []).map { $0.array?.map { $0.double ?? .nan } ?? [$0.double ?? .nan] }
            cosines[name, default: MeanMatrix()].add(rows)
        }
    }

    func report(_ key: StudyReport.PairKey, _ order: [Projection], _ sizes: [Int]?) throws -> PairingReport {
        var report = PairingReport(model: key.model, style: key.style, pairing: key.pairing)
        let count = Double(max(1, examples))
        (report.examples, report.skipped) = (examples, skipped)
        (report.loss, report.responseTokens) = (loss / count, responseTokens / count)
        for projection in order {
            guard let entry = projections[projection] else { continue }
            let layers = entry.sums[.nuclear]?.count ?? 0
            var parts = LayerParts(layers: layers)
            if let sizes, layers > 0 {
                guard let given = LayerParts(sizes: sizes, layers: layers) else {
                    let text = sizes.map(String.init).joined(separator: ",")
                    throw UserError(
                        "--parts \(text): three positive numbers that sum up to the \(counted(layers, "layer")) of \(key.model)",
                        .usage)
                }
                parts = given
            }
            report.projections[projection] = ProjectionReport(
                examples: entry.examples, notFinite: entry.notFinite, parts: parts,
                means: entry.sums.mapValues { $0.map { $0 / Double(max(1, entry.examples)) } })
        }
        return report
    }
}

/// The mean of matrices of one shape.
struct MeanMatrix: Sendable {
    private var sums: [[Double]] = []
    private var count = 0

    mutating func add(_ rows: [[Double]]) {
        if sums.isEmpty { sums = rows.map { $0.map { _ in 0 } } }
        for (i, row) in rows.enumerated() { for (j, value) in row.enumerated() { sums[i][j] += value } }
        count += 1
    }

    var values: [[Double]] { sums.map { $0.map { $0 / Double(max(1, count)) } } }
}
