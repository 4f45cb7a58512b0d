// What a family leaves behind for people: tables, curves, the scatter of gain against kinship, the tree, heat maps.
internal import Diagnostics
internal import Formats
internal import Glibc
internal import Merging
internal import RunLog

extension Family {
    static let modelsName = "models.jsonl"

    /// Writes what follows from the scores so far; called after every generation, each file complete at any moment.
    public func writeReport() throws {
        let models = evolution.models
        try write(Self.modelsName, models.map { JSONValue.object(row($0)).serialized() + "\n" }.joined())
        try write("models.csv", csv(models))
        try write("generations.csv", generationsCSV())
        try write("plots/best-by-generation.svg", bestChart().svg())
        try write("plots/kinship-and-score.svg", kinshipChart().svg())
        try write("plots/gain-and-kinship.svg", scatter().svg())
        try write("plots/family-tree.svg", tree().svg())
    }

    /// Writes what needs the weights: the kinship of all models and the map of weight changes; called at the end.
    public func writeWeightReport() throws {
        let kinship = try finalKinship()
        var map = kinship.heatMap(metric, base: "\(base)")
        let names = evolution.models.filter(hasWeights).map(\.name)
        (map.rows, map.columns) = (names, names)
        try write("plots/kinship.svg", map.svg())
        let json = kinship.json(KinshipMetric.allCases)
        guard case .object(var object) = json else { return }
        object["models"] = .array(names.map { .string($0) })
        try write("kinship.json", JSONValue.object(object).serialized(.pretty) + "\n")
        try writeChangeMaps()
    }

    func write(_ name: String, _ text: String) throws {
        let path = joinPath(folder, name)
        try createDirectories(parentFolder(of: path))
        try writeFileAtomically(text, to: path)
    }

    // MARK: tables

    private func row(_ model: EvolvedModel) -> JSONObject {
        func optional(_ value: Double?) -> JSONValue { value.map { .init($0) } ?? .null }
        return JSONObject([
            ("name", .string(model.name)), ("generation", .init(model.generation)),
            ("parents", .array(model.parents.map { .string($0) })),
            ("scores", .object(JSONObject(zip(tasks, model.scores).map { ($0, .init($1)) }))),
            ("average", .init(model.average)), ("gain", optional(model.gain)),
            ("delta_to_top", optional(model.deltaToTop)),
            ("kinship", optional(model.kinship)), ("metric", .string(metric.rawValue)),
            ("parents_atpd", optional(model.parentsDifference)),
            ("is_exploration", .init(model.isExploration)), ("seconds", optional(seconds[model.name])),
        ])
    }

    private func csv(_ models: [EvolvedModel]) -> String {
        func shown(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
        let header =
            ["name", "generation", "parent_a", "parent_b"] + tasks
            + [
                "average", "gain", "delta_to_top", "kinship_\(metric.rawValue)", "parents_atpd", "is_exploration",
                "seconds",
            ]
        return csvLine(header)
            + models.map { model in
                csvLine(
                    [model.name, "\(model.generation)", model.parents.first ?? "", model.parents.last ?? ""]
                        + model.scores.map { "\($0)" }
                        + ["\(model.average)", shown(model.gain), shown(model.deltaToTop), shown(model.kinship)]
                        + [
                            shown(model.parentsDifference), model.isExploration ? "true" : "false",
                            shown(seconds[model.name]),
                        ])
            }.joined()
    }

    private func generationsCSV() -> String {
        csvLine(["generation", "top", "top_kinship_\(metric.rawValue)", "best", "mean_gain_of_three", "stage"])
            + evolution.generations.map { g in
                csvLine([
                    "\(g.number)", g.top.joined(separator: " "), g.topKinship.map { "\($0)" } ?? "", "\(g.best)",
                    g.meanGain.map { "\($0)" } ?? "", g.isImproving ? "improving" : "saturated",
                ])
            }.joined()
    }

    // MARK: curves

    private func bestChart() -> LineChart {
        let models = evolution.models
        let foundations = models.filter { $0.generation == 0 }.map(\.average).max() ?? 0
        let best = [(x: 0.0, y: foundations)] + evolution.generations.map { (Double($0.number), $0.best) }
        let means = evolution.generations.compactMap { g -> (x: Double, y: Double)? in
            let children = models.filter { $0.generation == g.number }.map(\.average)
            return children.isEmpty ? nil : (Double(g.number), children.reduce(0, +) / Double(children.count))
        }
        let explored = models.filter(\.isExploration).map { (x: Double($0.generation), y: $0.average) }
        return LineChart(
            title: "Best average score by generation (\(evolution.settings.strategy.rawValue))", xLabel: "generation",
            yLabel: "average task score",
            series: [
                .init(name: "best so far", points: best, style: .dots, color: 0),
                .init(name: "mean of the children", points: means, style: .dots, color: 2),
            ] + (explored.isEmpty ? [] : [.init(name: "explorations", points: explored, style: .scatter, color: 1)]))
    }

    /// Kinship of the best models and their score, brought to 0...1, on one axis.
    private func kinshipChart() -> LineChart {
        let generations = evolution.generations
        let best = generations.map(\.best), low = best.min() ?? 0, high = best.max() ?? 1
        let kinship = generations.compactMap { g in g.topKinship.map { (x: Double(g.number), y: $0) } }
        let scores = generations.map { (x: Double($0.number), y: high > low ? ($0.best - low) / (high - low) : 1) }
        return LineChart(
            title: "Kinship of the best models and their score", xLabel: "generation",
            yLabel: "kinship; score from 0 to 1",
            series: [
                .init(name: "mean pairwise \(metric.rawValue)", points: kinship, style: .dots, color: 0),
                .init(name: "best score, normalised", points: scores, style: .dots, color: 1),
            ])
    }

    private func scatter() -> LineChart {
        let pairs = Self.gains(evolution.models)
        func named(_ name: String, _ values: [Double]) -> String {
            guard let found = Correlation(pairs.map(\.kinship), values) else { return "\(name): N \(pairs.count)" }
            return "\(name): r \(decimals(found.r, 3)), p \(significant(found.p, 2)), N \(found.count)"
        }
        let gains = pairs.map(\.gain)
        return LineChart(
            title: "Gain of a merge against its parents' kinship", xLabel: "kinship (\(metric.rawValue))",
            yLabel: "gain",
            series: [
                .init(
                    name: named("gain", gains), points: pairs.map { ($0.kinship, $0.gain) }, style: .scatter, color: 0),
                .init(
                    name: named("|gain|", gains.map(abs)), points: pairs.map { ($0.kinship, abs($0.gain)) },
                    style: .scatter,
                    color: 1),
            ])
    }

    /// Kinship of the parents, gain, and how far apart the parents' scores are, of the children that have a kinship.
    public static func gains(_ models: [EvolvedModel]) -> [(kinship: Double, gain: Double, parentsDifference: Double)] {
        models.compactMap { model in
            guard let kinship = model.kinship, let gain = model.gain, let apart = model.parentsDifference else {
                return nil
            }
            return (kinship, gain, apart)
        }
    }

    private func tree() -> FamilyTree {
        FamilyTree(
            title: "Family of \(counted(evolution.models.count, "model"))",
            members: evolution.models.map { model in
                .init(
                    name: model.name, generation: model.generation, parents: model.parents,
                    isMarked: model.isExploration,
                    value: model.average, note: model.gain.map { ($0 < 0 ? "" : "+") + decimals($0, 2) } ?? "")
            }, markLegend: evolution.models.contains(where: \.isExploration) ? "exploration" : "",
            best: evolution.top.first?.name)
    }
}
