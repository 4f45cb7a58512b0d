// Where in the model a family's last steps went: norms of weight changes and their cosines, layer by module.
internal import Formats
internal import Merging
internal import RunLog

/// Three steps around one parent: how it came about, and two of its children.
private struct Steps {
    let parent: EvolvedModel
    /// The parent's own better parent; nil for a foundation, or one whose weights are gone.
    let before: EvolvedModel?
    let greedy: EvolvedModel
    /// The exploration, or where there is none another child.
    let other: EvolvedModel

    /// The steps of the last exploration, else of the last child; nil where they have no sibling of the same parent.
    init?(_ models: [EvolvedModel]) {
        guard let other = models.last(where: \.isExploration) ?? models.last,
            let parent = models.first(where: { $0.name == other.parents.first })
        else { return nil }
        let siblings = models.filter {
            $0.generation == other.generation && $0.name != other.name && $0.parents.contains(parent.name)
        }
        guard let greedy = siblings.max(by: { $0.average < $1.average }) else { return nil }
        (self.parent, self.greedy, self.other) = (parent, greedy, other)
        before = models.first { $0.name == parent.parents.first }
    }
}

extension Family {
    /// Layer by module, with P the better parent, B its own, G and E children of P (E the exploration):
    ///
    ///     v_pre = P - B, v_greedy = G - P, v_exp = E - P: the norm of each and the cosine of each two
    ///
    /// as heat maps, and as numbers in `weight-changes.csv`.
    func writeChangeMaps() throws {
        guard let steps = Steps(evolution.models.filter(hasWeights)) else { return }
        let ends = [steps.greedy, steps.other] + (steps.before.map { [$0] } ?? [])
        let changes = try changes(of: ends.map(\.name), from: steps.parent.name)
        let titles =
            ["\(steps.greedy.name) - \(steps.parent.name)", "\(steps.other.name) - \(steps.parent.name)"]
            + (steps.before.map { ["\(steps.parent.name) - \($0.name)"] } ?? [])
        let files = [steps.greedy.name, steps.other.name, steps.parent.name].prefix(ends.count).map { name in
            String(name.map { $0 == "/" ? "-" : $0 })  // a foundation may be named by the end of its path
        }
        // Measured from P, the step before is B - P: its norm is that of P - B, its cosines have the other sign.
        func cosine(_ sums: KinshipSums, _ i: Int, _ j: Int) -> Double? {
            sums.value(.cs, i, j).map { j == 2 ? -$0 : $0 }
        }
        let pairs = ends.indices.flatMap { i in ends.indices.filter { $0 > i }.map { (i, $0) } }
        for i in ends.indices {
            var map = Self.layerMap("Norm of the weight change \(titles[i])", changes) { $0.norm(i) }
            map.format = .digits(2)
            try write("plots/weight-change-\(files[i]).svg", map.svg())
        }
        for (i, j) in pairs {
            var map = Self.layerMap("Cosine of \(titles[i]) and \(titles[j])", changes) { cosine($0, i, j) }
            map.dress(for: .cs)
            try write("plots/weight-change-cosine-\(files[i])-\(files[j]).svg", map.svg())
        }
        func shown(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
        let header =
            ["tensor", "layer", "module"] + titles.map { "norm \($0)" }
            + pairs.map { "cosine \(titles[$0]), \(titles[$1])" }
        let rows = changes.groups.map { group in
            csvLine(
                [group.name, group.place.layer, group.place.module]
                    + ends.indices.map { "\(group.sums.norm($0))" }
                    + pairs.map { shown(cosine(group.sums, $0, $1)) })
        }
        try write("weight-changes.csv", csvLine(header) + rows.joined())
    }

    private static func layerMap(_ title: String, _ changes: Kinship, _ value: (KinshipSums) -> Double?) -> HeatMap {
        var layers: [String] = [], modules: [String] = [], values: [String: [String: Double?]] = [:]
        for group in changes.groups {
            let (layer, module) = group.place
            if !layers.contains(layer) { layers.append(layer) }
            if !modules.contains(module) { modules.append(module) }
            values[layer, default: [:]][module] = .some(value(group.sums))
        }
        return HeatMap(
            title: title, rows: layers, columns: modules,
            values: layers.map { layer in modules.map { values[layer]?[$0] ?? nil } })
    }
}
