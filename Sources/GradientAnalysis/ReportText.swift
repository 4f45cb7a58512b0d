// A study's report as a table for people, as JSON, and as CSV.
internal import Diagnostics
public import Formats
internal import RunLog

extension StudyReport {
    /// What rows of the table stand for.
    public enum Detail: String, Sendable, CaseIterable {
        /// Mean absolute differences by part of the model.
        case part
        /// The curve itself.
        case layer
    }

    /// Every (pairing, projection) that has values, in order.
    private var entries: [(pairing: PairingReport, projection: Projection, values: ProjectionReport)] {
        pairings.flatMap { pairing in
            settings.projections.compactMap { projection in
                pairing.projections[projection].map { (pairing, projection, $0) }
            }
        }
    }

    // MARK: table

    /// Lines of the table on standard output.
    public func table(_ detail: Detail) -> [String] {
        var rows = [header(detail)]
        for (pairing, projection, values) in entries {
            var row = [
                pairing.model, pairing.style, pairing.pairing.rawValue, projection.rawValue, grouped(values.examples),
            ]
            let numbers = detail == .part ? values.byPart + [values.total, values.mean] : values.curve
            row += values.examples == 0 ? numbers.map { _ in "-" } : numbers.map { significant($0, 4) }
            if !collisions.isEmpty { row += difference(pairing, projection) }
            rows.append(row)
        }
        // Names stand to the left, and so does the list of layers at the end.
        let left = Set(0..<4).union(collisions.isEmpty ? [] : [rows[0].count - 1])
        return aligned(rows, left: left) + notes
    }

    private func header(_ detail: Detail) -> [String] {
        let first = ["model", "data", "response", "matrix", "examples"]
        let numbers: [String]
        switch detail {
        case .part: numbers = LayerParts.names.map { "MAD " + $0 } + ["MAD", "mean s"]
        case .layer: numbers = (0..<(entries.map(\.values.curve.count).max() ?? 0)).map { "s \($0)" }
        }
        return first + numbers + (collisions.isEmpty ? [] : ["RD", "|RD|", "largest RD in layers"])
    }

    private func difference(_ pairing: PairingReport, _ projection: Projection) -> [String] {
        guard pairing.pairing == .irrelevant,
            let difference = relativeDifference(pairing.model, pairing.style, projection)
        else { return ["", "", ""] }
        return [
            decimals(difference.mean, 4), decimals(difference.meanAbsolute, 4),
            difference.largest().map(String.init).joined(separator: " "),
        ]
    }

    /// What was left out, and what the data had in common.
    private var notes: [String] {
        var notes: [String] = []
        for pairing in pairings {
            for (reason, count) in pairing.skipped.sorted(by: { $0.key < $1.key }) {
                notes.append(
                    "\(pairing.model), \(pairing.style), \(pairing.pairing.rawValue): \(grouped(count)) left out, \(reason)"
                )
            }
            for projection in settings.projections {
                guard let count = pairing.projections[projection]?.notFinite, count > 0 else { continue }
                notes.append(
                    "\(pairing.model), \(pairing.style), \(pairing.pairing.rawValue): \(grouped(count)) left out of "
                        + "\(projection.rawValue), a value was not finite")
            }
        }
        for set in collisions {
            let rate = decimals(Double(set.collisions) / Double(max(1, set.rows)) * 100, 1)
            notes.append(
                "\(set.name): \(grouped(set.collisions)) of \(counted(set.rows, "irrelevant response")) (\(rate) %) had the text of "
                    + "the correct one" + (settings.allowsEqual ? "" : " at first"))
        }
        return notes.isEmpty ? [] : [""] + notes
    }

    // MARK: JSON

    /// `{"per_loss", "pairings": [...], "collisions": [...]}`.
    public var json: JSONValue {
        [
            "per_loss": .init(options.perLoss), "pairings": .array(pairings.map(json)),
            "collisions": .array(
                collisions.map {
                    ["data": .string($0.name), "rows": .init($0.rows), "collisions": .init($0.collisions)]
                }),
        ]
    }

    private func json(_ pairing: PairingReport) -> JSONValue {
        var matrices = JSONObject()
        for projection in settings.projections {
            if let values = pairing.projections[projection] {
                matrices[projection.rawValue] = json(values, pairing, projection)
            }
        }
        return [
            "model": .string(pairing.model), "data": .string(pairing.style),
            "response": .string(pairing.pairing.rawValue),
            "examples": .init(pairing.examples),
            "left_out": .object(
                JSONObject(pairing.skipped.sorted { $0.key < $1.key }.map { ($0.key, .init($0.value)) })),
            "loss": .init(pairing.loss), "response_tokens": .init(pairing.responseTokens),
            "matrices": .object(matrices),
        ]
    }

    private func json(_ values: ProjectionReport, _ pairing: PairingReport, _ projection: Projection) -> JSONValue {
        var object = JSONObject([("examples", .init(values.examples)), ("not_finite", .init(values.notFinite))])
        object["curve"] = .array(values.curve.map { .init($0) })
        object["mean"] = .init(values.mean)
        object["mad"] = .init(values.total)
        for (name, value) in zip(LayerParts.names, values.byPart) { object["mad_" + name] = .init(value) }
        for scalar in [MatrixScalar.ratio, .frobenius, .effectiveRank] {
            object[scalar.rawValue] = .init(values.average(scalar))
        }
        if pairing.pairing == .irrelevant,
            let difference = relativeDifference(pairing.model, pairing.style, projection)
        {
            object["relative_difference"] = [
                "mean": .init(difference.mean), "mean_absolute": .init(difference.meanAbsolute),
                "by_layer": .array(difference.byLayer.map { .init($0) }),
                "largest": .array(difference.largest().map { .init($0) }),
            ]
        }
        return .object(object)
    }

    // MARK: CSV

    /// A row a (model, data set, pairing, projection).
    var summaryCSV: String {
        let header =
            ["model", "data", "response", "matrix", "examples", "not_finite", "mean"]
            + LayerParts.names.map { "mad_" + $0 }
            + [
                "mad", "ratio", "frobenius", "effective_rank", "loss", "response_tokens", "rd", "rd_absolute",
                "rd_largest_layers",
            ]
        let rows = entries.map { pairing, projection, values in
            var row = [pairing.model, pairing.style, pairing.pairing.rawValue, projection.rawValue]
            row += ["\(values.examples)", "\(values.notFinite)"]
            let numbers =
                [values.mean] + values.byPart
                + [values.total, values.average(.ratio), values.average(.frobenius), values.average(.effectiveRank)]
            row += (numbers + [pairing.loss, pairing.responseTokens]).map { "\($0)" }
            guard pairing.pairing == .irrelevant,
                let difference = relativeDifference(pairing.model, pairing.style, projection)
            else { return row + ["", "", ""] }
            return row + [
                "\(difference.mean)", "\(difference.meanAbsolute)",
                difference.largest().map(String.init).joined(separator: " "),
            ]
        }
        return ([header] + rows).map(csvLine).joined()
    }

    /// A row a (model, data set, pairing, projection, layer).
    var layersCSV: String {
        let header = ["model", "data", "response", "matrix", "layer"] + MatrixScalar.allCases.map(\.rawValue) + ["rd"]
        let rows = entries.flatMap { pairing, projection, values in
            let difference =
                pairing.pairing == .irrelevant ? relativeDifference(pairing.model, pairing.style, projection) : nil
            return values.curve.indices.map { layer in
                [pairing.model, pairing.style, pairing.pairing.rawValue, projection.rawValue, "\(layer)"]
                    + MatrixScalar.allCases.map { "\(values.means[$0]![layer])" }
                    + [difference.map { "\($0.byLayer[layer])" } ?? ""]
            }
        }
        return ([header] + rows).map(csvLine).joined()
    }
}
