// Kinship as JSON, as a table for people, as CSV and as heat maps.
internal import Diagnostics
public import Formats
public import RunLog

extension Kinship {
    /// `models` and one matrix a metric; with a breakdown also `by`: its kind, and the matrices of each group.
    ///
    /// Undefined values are null.
    public func json(_ metrics: [KinshipMetric], by breakdown: Breakdown? = nil) -> JSONValue {
        var object = JSONObject([("models", .array(models.map { .string($0) }))])
        for metric in metrics { object[metric.rawValue] = Self.json(total.matrix(metric)) }
        guard let breakdown else { return .object(object) }
        var by = JSONObject([("kind", .string(breakdown.rawValue))])
        by["groups"] = .array(
            groups.map { group in
                var entry = JSONObject([("name", .string(group.name)), ("elements", .init(group.sums.elements))])
                for metric in metrics { entry[metric.rawValue] = Self.json(group.sums.matrix(metric)) }
                return .object(entry)
            })
        if breakdown == .tensor {
            var means = JSONObject()
            for metric in metrics { means[metric.rawValue] = Self.json(meanOverTensors(metric)) }
            by["weighted_mean"] = .object(means)
        }
        object["by"] = .object(by)
        return .object(object)
    }

    private static func json(_ matrix: [[Double?]]) -> JSONValue {
        .array(matrix.map { .array($0.map { $0.map { .init($0) } ?? .null }) })
    }

    /// The matrices, and of a breakdown the mean over the pairs of models, as lines for people.
    public func table(_ metrics: [KinshipMetric], by breakdown: Breakdown? = nil) -> String {
        var out = ""
        for metric in metrics {
            let rows = zip(models, total.matrix(metric)).map { [$0] + $1.map { shown($0, metric) } }
            out += lines(aligned([[metric.rawValue] + models] + rows))
        }
        if models.count > 2 {
            out += metrics.map { "mean of the pairs, \($0.rawValue)  \(shown(total.mean($0), $0))\n" }.joined() + "\n"
        }
        if let breakdown {
            let rows = groups.map { group in
                [group.name, grouped(group.sums.elements)] + metrics.map { shown(group.sums.mean($0), $0) }
            }
            let what = models.count > 2 ? ", mean of the pairs" : ""
            out += lines(aligned([["by \(breakdown.rawValue)\(what)", "elements"] + metrics.map(\.rawValue)] + rows))
        }
        return String(out.dropLast())
    }

    /// A block of lines with an empty one behind it.
    private func lines(_ block: [String]) -> String { (block + [""]).map { $0 + "\n" }.joined() }

    private func shown(_ value: Double?, _ metric: KinshipMetric) -> String {
        guard let value else { return "undefined" }
        return metric == .ed ? significant(value, 5) : decimals(value, 4)
    }

    /// One row a pair of models (and group), one column a metric; undefined values are empty.
    public func csv(_ metrics: [KinshipMetric]) -> String {
        var out = csvLine(["group", "model_a", "model_b", "elements"] + metrics.map(\.rawValue))
        for group in [Group(name: "all", sums: total)] + groups {
            for i in models.indices {
                for j in models.indices where j > i {
                    let values = metrics.map { metric in group.sums.value(metric, i, j).map { "\($0)" } ?? "" }
                    out += csvLine([group.name, models[i], models[j], "\(group.sums.elements)"] + values)
                }
            }
        }
        return out
    }

    /// The whole N x N matrix as a heat map.
    public func heatMap(_ metric: KinshipMetric, base: String) -> HeatMap {
        let names = shortNames(models)
        var map = HeatMap(
            title: "Model kinship (\(metric.rawValue))", rows: names, columns: names, values: total.matrix(metric))
        map.subtitle = "changes from \(base), \(counted(total.elements, "weight"))"
        map.dress(for: metric)
        return map
    }

    /// Groups against pairs of models.
    public func heatMap(_ metric: KinshipMetric, by breakdown: Breakdown) -> HeatMap {
        let names = shortNames(models)
        let pairs = models.indices.flatMap { i in models.indices.filter { $0 > i }.map { (i, $0) } }
        var map = HeatMap(
            title: "Model kinship (\(metric.rawValue)) by \(breakdown.rawValue)", rows: groups.map(\.name),
            columns: pairs.map { "\(names[$0.0]) – \(names[$0.1])" },
            values: groups.map { group in pairs.map { group.sums.value(metric, $0.0, $0.1) } })
        map.dress(for: metric)
        return map
    }

    /// Writes `kinship.json`, `kinship.csv` and the heat maps into a new folder, complete or not at all.
    public func write(to folder: String, _ metrics: [KinshipMetric], by breakdown: Breakdown?, base: String) throws {
        try writeFolderAtomically(folder) { folder in
            try writeFileAtomically(
                json(metrics, by: breakdown).serialized(.pretty) + "\n", to: joinPath(folder, "kinship.json"))
            try writeFileAtomically(csv(metrics), to: joinPath(folder, "kinship.csv"))
            for metric in metrics {
                let name = "kinship-\(metric.rawValue)"
                try writeFileAtomically(heatMap(metric, base: base).svg(), to: joinPath(folder, "\(name).svg"))
                if let breakdown {
                    let map = heatMap(metric, by: breakdown)
                    try writeFileAtomically(map.svg(), to: joinPath(folder, "\(name)-by-\(breakdown.rawValue).svg"))
                }
            }
        }
    }
}

extension HeatMap {
    /// Colours and number format that suit a metric: signed values about zero, likenesses from 0 to 1, distances as they
    /// are.
    public mutating func dress(for metric: KinshipMetric) {
        palette = metric.isSigned ? .diverging : .sequential
        range = metric.isDistance ? nil : metric.isSigned ? -1...1 : 0...1
        format = metric.isDistance ? .digits(3) : .places(2)
    }
}

/// The shortest ends of paths that tell them apart.
public func shortNames(_ paths: [String]) -> [String] {
    let parts = paths.map { $0.split(separator: "/").map(String.init) }
    let longest = parts.map(\.count).max() ?? 0
    for length in 1...max(1, longest) {
        let names = parts.map { $0.suffix(length).joined(separator: "/") }
        if Set(names.map { ExactString($0) }).count == names.count { return names }
    }
    return paths
}
