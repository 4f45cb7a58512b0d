// A line of examples.jsonl: everything that is kept of one example under one model.
package import Formats
internal import RunLog

/// Which response follows the prompt.
public enum Pairing: String, CaseIterable, Sendable { case correct, irrelevant }

/// What makes an example: its line is found again by these after a restart.
public struct ExampleKey: Hashable, Sendable {
    public var model: String
    /// Name of the data set.
    public var style: String
    public var pairing: Pairing
    /// Row of the data set, from 0.
    public var row: Int

    var json: JSONObject {
        JSONObject([
            ("model", .string(model)), ("style", .string(style)), ("pairing", .string(pairing.rawValue)),
            ("row", .init(row)),
        ])
    }

    package init(_ model: String, _ style: String, _ pairing: Pairing, _ row: Int) {
        (self.model, self.style, self.pairing, self.row) = (model, style, pairing, row)
    }

    init?(_ json: JSONValue) {
        guard let model = json["model"]?.string, let style = json["style"]?.string, let row = json["row"]?.int,
            let pairing = json["pairing"]?.string.flatMap({ Pairing(rawValue: $0) })
        else { return nil }
        self.init(model, style, pairing, row)
    }
}

/// The scalars of a gradient matrix, under their names in files.
package enum MatrixScalar: String, CaseIterable {
    case nuclear, ratio, frobenius, mean, max, min
    case effectiveRank = "effective_rank"
    case sigmaMax = "sigma_max"
    case sigmaMin = "sigma_min"

    package func callAsFunction(_ spectrum: GradientSpectrum) -> Double {
        switch self {
        case .nuclear: spectrum.nuclear
        case .ratio: spectrum.ratio
        case .frobenius: spectrum.frobenius
        case .mean: spectrum.mean
        case .max: spectrum.max
        case .min: spectrum.min
        case .effectiveRank: spectrum.effectiveRank
        case .sigmaMax: spectrum.sigmaMax
        case .sigmaMin: spectrum.sigmaMin
        }
    }
}

/// Why an example has no gradients.
enum SkipReason: String {
    case responseCut = "response cut off"
    case sameResponse = "no other response with another text"
}

package enum ExampleRecord {
    /// `{"model","style","pairing","row","source","tokens","response_tokens","loss","gradients":{"q":{"nuclear":[..],..}}}`,
    /// one number a layer; a projection with a value that is not finite is null.
    package static func line(
        _ key: ExampleKey, source: String, tokens: Int, responseTokens: Int, _ gradients: ExampleGradients,
        savesSingularValues: Bool
    ) -> JSONValue {
        var record = key.json
        record["source"] = .string(source)
        record["tokens"] = .init(tokens)
        record["response_tokens"] = .init(responseTokens)
        record["loss"] = .init(gradients.loss)
        var byProjection = JSONObject()
        for projection in Projection.allCases {
            guard let spectra = gradients.spectra[projection] else { continue }
            byProjection[projection.rawValue] = spectra.map { matrices($0, savesSingularValues) } ?? .null
        }
        record["gradients"] = .object(byProjection)
        if let cosines = gradients.cosines { record["cosines"] = json(cosines) }
        return .object(record)
    }

    static func skipped(_ key: ExampleKey, source: String, _ reason: SkipReason) -> JSONValue {
        var record = key.json
        record["source"] = .string(source)
        record["skipped"] = .string(reason.rawValue)
        return .object(record)
    }

    private static func matrices(_ spectra: [GradientSpectrum], _ savesSingularValues: Bool) -> JSONValue {
        var object = JSONObject()
        for scalar in MatrixScalar.allCases { object[scalar.rawValue] = numbers(spectra.map { scalar($0) }) }
        if savesSingularValues {
            // Those that were not computed are zero.
            object["singular_values"] = .array(
                spectra.map { spectrum in
                    numbers(
                        (0..<spectrum.rankBound).map { i in
                            i < spectrum.singularValues.count ? Double(spectrum.singularValues[i]) : 0
                        })
                })
        }
        return .object(object)
    }

    private static func json(_ cosines: GradientCosines) -> JSONValue {
        var object = JSONObject()
        if let pair = cosines.queryOutput { object["q_o"] = numbers(pair) }
        if let pair = cosines.keyValue { object["k_v"] = numbers(pair) }
        for projection in Projection.allCases {
            if let matrix = cosines.betweenLayers[projection] {
                object[projection.rawValue] = .array(matrix.map(numbers))
            }
        }
        return .object(object)
    }

    private static func numbers(_ values: [Double]) -> JSONValue { .array(values.map { .init($0) }) }
}

/// The file that grows by an example at a time, and what it already holds.
public final class ExampleFile {
    public static let name = "examples.jsonl"
    private let journal: Journal
    /// Examples that need not be computed again.
    public private(set) var done: Set<ExampleKey> = []

    /// Opens or creates the file; see `Journal`.
    public init(folder: String) throws {
        var found: Set<ExampleKey> = []
        journal = try Journal(joinPath(folder, Self.name)) { record in
            ExampleKey(record).map { _ = found.insert($0) } != nil
        }
        done = found
    }

    /// A power cut may lose examples, which are computed again: waiting for the disk takes as long as a tiny model.
    package func append(_ record: JSONValue) throws {
        try journal.append(record, waitsForDisk: false)
        if let key = ExampleKey(record) { done.insert(key) }
    }

    /// Every example, in the order of the file.
    func forEach(_ body: (ExampleKey, JSONValue) throws -> Void) throws {
        try journal.forEach { record in
            guard let key = ExampleKey(record) else { return false }
            try body(key, record)
            return true
        }
    }
}
