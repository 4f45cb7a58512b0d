// Line charts in rows and columns on one page, to be compared at a glance.

/// Charts of one size side by side.
public struct ChartGrid: Sendable {
    public var title: String
    /// From the top; a shorter row leaves its end free.
    public var rows: [[LineChart]]

    public init(title: String, rows: [[LineChart]]) { (self.title, self.rows) = (title, rows) }

    /// The page as an SVG document.
    public func svg() -> String {
        let width = rows.joined().map(\.width).max() ?? 400, height = rows.joined().map(\.height).max() ?? 0
        let top = 44.0
        var out = [SVG.text(title, 22, 30, size: 19, weight: "600")]
        for (i, row) in rows.enumerated() {
            for (j, chart) in row.enumerated() {
                let x = SVG.number(Double(j) * width), y = SVG.number(top + Double(i) * height)
                out.append("<g transform=\"translate(\(x) \(y))\">")
                out += chart.parts(clip: "plot-\(i)-\(j)")
                out.append("</g>")
            }
        }
        let columns = Double(max(1, rows.map(\.count).max() ?? 0))
        return SVG.document(width: columns * width, height: top + Double(rows.count) * height, title: title, out)
    }
}
