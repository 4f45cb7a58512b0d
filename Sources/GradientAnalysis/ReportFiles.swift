// A study's report as files: CSV, JSON, and pictures of curves and heat maps.
internal import Formats
internal import Glibc
internal import RunLog

extension StudyReport {
    /// Writes `summary.csv`, `layers.csv`, `summary.json` and `plots/*.svg` into the study's folder.
    ///
    /// - Returns: the names written.
    @discardableResult
    public func writeFiles() throws -> [String] {
        var files = [
            ("summary.csv", summaryCSV), ("layers.csv", layersCSV), ("summary.json", json.serialized(.pretty) + "\n"),
        ]
        files += plots.map { ("plots/" + $0.name + ".svg", $0.svg) }
        try createDirectories(joinPath(settings.output, "plots"))
        for (name, text) in files { try writeFileAtomically(text, to: joinPath(settings.output, name)) }
        return files.map(\.0)
    }

    private var plots: [(name: String, svg: String)] {
        var plots: [(name: String, svg: String)] = []
        for pairing in pairings {
            let stem = [pairing.model, pairing.style, pairing.pairing.rawValue].map(fileStem).joined(separator: "-")
            let title = "\(pairing.model), \(pairing.style), \(pairing.pairing.rawValue)"
            plots.append((stem + "-nuclear", nuclearChart(pairing, title).svg()))
            plots.append((stem + "-ratio", ratioChart(pairing, title).svg()))
            plots.append((stem + "-log-nuclear", logMap(pairing, title)))
            if pairing.pairing == .irrelevant, let map = differenceMap(pairing, title) {
                plots.append((stem + "-difference", map))
            }
            let key = PairKey(model: pairing.model, style: pairing.style, pairing: pairing.pairing)
            for (name, matrix) in (cosines[key] ?? [:]).sorted(by: { $0.key < $1.key }) {
                plots.append((stem + "-cosine-" + name, cosineMap(name, matrix.values, title)))
            }
        }
        for (model, _) in settings.models {
            for pairing in Pairing.allCases {
                let styles = pairings.filter { $0.model == model && $0.pairing == pairing }
                guard styles.count > 1 else { continue }
                let stem = [model, "side_by_side", pairing.rawValue].map(fileStem).joined(separator: "-")
                plots.append((stem, sideBySide(styles, "\(model), \(pairing.rawValue) responses")))
            }
        }
        return plots
    }

    /// A name of a file for any name of a model or data set.
    private func fileStem(_ name: String) -> String {
        String(name.map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "." || $0 == "_") ? $0 : "_" })
    }

    // MARK: curves

    /// Colours of `LineChart`: q orange, k green, v blue, o pink, as near to the paper's as the palette has them.
    private func color(_ projection: Projection) -> Int {
        switch projection {
        case .q: 1
        case .k: 2
        case .v: 0
        case .o: 3
        case .gate: 4
        case .up: 5
        case .down: 3
        }
    }

    private func chart(
        _ title: String, _ yLabel: String, _ pairing: PairingReport, _ scalar: MatrixScalar,
        only projections: [Projection] = Projection.allCases
    ) -> LineChart {
        let series = settings.projections.compactMap { projection -> LineChart.Series? in
            guard projections.contains(projection), let values = pairing.projections[projection], values.examples > 0
            else { return nil }
            let points = (values.means[scalar] ?? []).enumerated().map { (x: Double($0.offset), y: $0.element) }
            return .init(name: projection.rawValue, points: points, style: .dots, color: color(projection))
        }
        return LineChart(title: title, xLabel: "layer", yLabel: yLabel, series: series)
    }

    /// One vertical axis for all data sets of a model but one named none, whose gradients are on another scale.
    private func nuclearChart(_ pairing: PairingReport, _ title: String) -> LineChart {
        let label = options.perLoss ? "nuclear norm / loss" : "nuclear norm"
        var chart = chart(title, label, pairing, .nuclear)
        let alike = pairings.filter { $0.model == pairing.model && ($0.style == "none") == (pairing.style == "none") }
        let top = alike.flatMap { $0.projections.values.flatMap(\.curve) }.filter(\.isFinite).max() ?? 0
        if top > 0 { chart.range = 0...(1.05 * top) }
        return chart
    }

    private func ratioChart(
        _ pairing: PairingReport, _ title: String, only projections: [Projection] = Projection.allCases
    ) -> LineChart {
        var chart = chart(title, "largest singular value / nuclear norm", pairing, .ratio, only: projections)
        chart.range = 0...1
        return chart
    }

    /// A column for each data set: nuclear norms above, then the shares of the largest singular values of q and k, and of
    /// v and o (the paper's figure).
    private func sideBySide(_ styles: [PairingReport], _ title: String) -> String {
        var rows = [styles.map { nuclearChart($0, $0.style) }]
        for pair in [[Projection.q, .k], [.v, .o]] where settings.projections.contains(where: { pair.contains($0) }) {
            rows.append(styles.map { ratioChart($0, $0.style, only: pair) })
        }
        for i in rows.indices {
            for j in rows[i].indices { (rows[i][j].width, rows[i][j].height) = (430, 340) }
        }
        return ChartGrid(title: title, rows: rows).svg()
    }

    // MARK: heat maps

    private func map(_ title: String, _ pairing: PairingReport, _ row: (Projection) -> [Double?]?) -> HeatMap? {
        let rows = settings.projections.compactMap { projection in row(projection).map { (projection.rawValue, $0) } }
        guard let count = rows.map(\.1.count).max(), count > 0 else { return nil }
        let values = rows.map { $0.1 + Array(repeating: nil, count: count - $0.1.count) }
        var map = HeatMap(title: title, rows: rows.map(\.0), columns: (0..<count).map(String.init), values: values)
        (map.xLabel, map.yLabel) = ("layer", "projection")
        return map
    }

    private func logMap(_ pairing: PairingReport, _ title: String) -> String {
        var map = map(title, pairing) { projection in
            pairing.projections[projection].map { $0.curve.map { $0 > 0 ? log($0) : nil } }
        }
        map?.subtitle = "natural logarithm of the mean nuclear norm"
        return map?.svg() ?? HeatMap(title: title, rows: [], columns: [], values: []).svg()
    }

    private func differenceMap(_ pairing: PairingReport, _ title: String) -> String? {
        var map = map(title, pairing) { projection in
            relativeDifference(pairing.model, pairing.style, projection)?.byLayer
        }
        map?.subtitle = "relative difference of irrelevant and correct responses"
        map?.palette = .diverging
        return map?.svg()
    }

    /// Pairs of projections in one row a layer, or layers against layers.
    private func cosineMap(_ name: String, _ values: [[Double]], _ title: String) -> String {
        let isPair = values.allSatisfy { $0.count == 1 }
        let table = isPair ? [values.map { $0[0] }] : values
        let layers = (0..<(table.first?.count ?? 0)).map(String.init)
        var map = HeatMap(title: title, rows: isPair ? [name] : layers, columns: layers, values: table)
        map.subtitle =
            isPair ? "cosine of the gradients of two projections" : "cosine of \(name)'s gradients in two layers"
        (map.palette, map.xLabel, map.range) = (.diverging, "layer", -1...1)
        return map.svg()
    }
}
