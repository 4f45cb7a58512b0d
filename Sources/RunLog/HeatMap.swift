// Heat maps as SVG: a table of numbers as coloured cells, with labels, the numbers themselves and a colour bar.

internal import Glibc

/// A table of numbers drawn as coloured cells.
public struct HeatMap: Sendable {
    /// What colours stand for.
    public enum Palette: Sendable {
        /// From pale to dark: amounts.
        case sequential
        /// Blue below zero, orange above, pale at zero; the range is symmetric: signed values.
        case diverging
    }
    /// How a number is written into its cell.
    public enum Format: Sendable {
        case places(Int)
        case digits(Int)

        func callAsFunction(_ value: Double) -> String {
            switch self {
            case .places(let places): decimals(value, places)
            case .digits(let digits): significant(value, digits)
            }
        }
    }

    public var title: String
    /// A line below the title.
    public var subtitle = ""
    public var xLabel = ""
    public var yLabel = ""
    public var rows: [String]
    public var columns: [String]
    /// By row; nil and values that are not finite leave their cell empty, with a dash.
    public var values: [[Double?]]
    public var palette = Palette.sequential
    /// Values at the ends of the colour bar; nil takes those of the table.
    public var range: ClosedRange<Double>?
    public var format = Format.places(2)

    /// - Precondition: `values` has `rows.count` rows of `columns.count` values.
    public init(title: String, rows: [String], columns: [String], values: [[Double?]]) {
        precondition(
            values.count == rows.count && values.allSatisfy { $0.count == columns.count },
            "heat map \(title): labels and values")
        (self.title, self.rows, self.columns, self.values) = (title, rows, columns, values)
    }

    /// The map as an SVG document.
    public func svg() -> String {
        let layout = Layout(self)
        var out = [SVG.text(title, 20, 28, size: 17, weight: "600")]
        if !subtitle.isEmpty { out.append(SVG.text(subtitle, 20, 48)) }
        let range = colorRange
        for (i, row) in values.enumerated() {
            for (j, value) in row.enumerated() { out += cell(value, i, j, layout, range) }
        }
        out += labels(layout)
        out += colorBar(layout, range)
        return SVG.document(width: layout.width, height: layout.height, title: title, out)
    }

    // MARK: layout

    private struct Layout {
        let left, top, cellWidth, cellHeight, plotWidth, plotHeight, width, height: Double
        let showsNumbers, slantsColumns: Bool
        /// Only every so many labels are written where cells are too small for all.
        let rowStep, columnStep: Int

        init(_ map: HeatMap) {
            let R = max(1, map.rows.count), C = max(1, map.columns.count)
            let widest =
                map.values.joined().compactMap { $0 }.map { SVG.width(of: map.format($0), size: 12) }.max() ?? 10
            let columnLabel = map.columns.map { SVG.width(of: $0) }.max() ?? 10
            showsNumbers = C <= 24 && R <= 64
            cellWidth = showsNumbers ? max(44, widest + 14) : max(6, 760 / Double(C))
            cellHeight = R <= 24 ? 30 : max(6, min(20, 640 / Double(R)))
            slantsColumns = columnLabel > cellWidth - 6
            let rowLabel = map.rows.map { SVG.width(of: $0) }.max() ?? 10
            left = 20 + (map.yLabel.isEmpty ? 0 : 22) + min(320, rowLabel) + 10
            top = (map.subtitle.isEmpty ? 46 : 66) + (slantsColumns ? min(220, columnLabel * 0.72) + 14 : 22)
            (plotWidth, plotHeight) = (cellWidth * Double(C), cellHeight * Double(R))
            let titleEnd = 40 + max(SVG.width(of: map.title, size: 17), SVG.width(of: map.subtitle))
            let slant = slantsColumns ? columnLabel * 0.72 : 0
            width = max(titleEnd, left + plotWidth + max(110, slant))
            height = top + max(plotHeight, 120) + (map.xLabel.isEmpty ? 24 : 46)
            rowStep = max(1, Int((14 / cellHeight).rounded(.up)))
            columnStep = max(1, Int((16 / cellWidth).rounded(.up)))
        }
    }

    private func cell(_ value: Double?, _ i: Int, _ j: Int, _ layout: Layout, _ range: ClosedRange<Double>) -> [String]
    {
        let x = layout.left + Double(j) * layout.cellWidth, y = layout.top + Double(i) * layout.cellHeight
        let gap = layout.cellWidth > 12 && layout.cellHeight > 8 ? 1.0 : 0
        let finite = value.flatMap { $0.isFinite ? $0 : nil }
        let tip = "\(rows[i]), \(columns[j]): \(finite.map { format($0) } ?? "undefined")"
        let color = finite.map { self.color($0, range) }
        var out = [
            SVG.rectangle(
                x, y, layout.cellWidth - gap, layout.cellHeight - gap, fill: color?.hex ?? "none",
                stroke: color == nil ? SVG.ink : nil, title: tip)
        ]
        if layout.showsNumbers, layout.cellHeight >= 13 {
            let ink = color.map { $0.luminance > 0.36 ? "#111111" : "#ffffff" } ?? SVG.ink
            out.append(
                SVG.text(
                    finite.map { format($0) } ?? "–", x + layout.cellWidth / 2, y + layout.cellHeight / 2 + 4,
                    anchor: "middle",
                    size: 12, color: ink))
        }
        return out
    }

    private func labels(_ layout: Layout) -> [String] {
        var out: [String] = []
        for (i, row) in rows.enumerated() where i % layout.rowStep == 0 {
            let y = layout.top + (Double(i) + 0.5) * layout.cellHeight + 4.5
            out.append(SVG.text(row, layout.left - 9, y, anchor: "end"))
        }
        for (j, column) in columns.enumerated() where j % layout.columnStep == 0 {
            let x = layout.left + (Double(j) + 0.5) * layout.cellWidth
            out.append(
                layout.slantsColumns
                    ? SVG.text(column, x, layout.top - 8, rotated: -45)
                    : SVG.text(column, x, layout.top - 8, anchor: "middle"))
        }
        if !xLabel.isEmpty {
            out.append(
                SVG.text(
                    xLabel, layout.left + layout.plotWidth / 2, layout.top + layout.plotHeight + 26, anchor: "middle"))
        }
        if !yLabel.isEmpty {
            out.append(SVG.text(yLabel, 24, layout.top + layout.plotHeight / 2, anchor: "middle", rotated: -90))
        }
        return out
    }

    private func colorBar(_ layout: Layout, _ range: ClosedRange<Double>) -> [String] {
        let x = layout.left + layout.plotWidth + 24, steps = 40, height = max(layout.plotHeight, 100)
        let span = range.upperBound - range.lowerBound
        func y(_ value: Double) -> Double { layout.top + height * (range.upperBound - value) / span }
        var out = (0..<steps).map { step in
            let value = range.upperBound - span * (Double(step) + 0.5) / Double(steps)
            let top = layout.top + height * Double(step) / Double(steps)
            return SVG.rectangle(x, top, 14, height / Double(steps) + 0.5, fill: color(value, range).hex)
        }
        for (value, label) in niceTicks(range, count: 5) { out.append(SVG.text(label, x + 20, y(value) + 4.5)) }
        return out
    }

    // MARK: colours

    private var colorRange: ClosedRange<Double> {
        let finite = values.joined().compactMap { $0 }.filter(\.isFinite)
        var low = range?.lowerBound ?? finite.min() ?? 0, high = range?.upperBound ?? finite.max() ?? 1
        if palette == .diverging {
            high = max(abs(low), abs(high))
            low = -high
        }
        return high > low ? low...high : (low - 0.5)...(low + 0.5)
    }

    private struct Color {
        let red, green, blue: Double

        init(_ hex: UInt32) {
            (red, green, blue) = (Double(hex >> 16 & 255), Double(hex >> 8 & 255), Double(hex & 255))
        }
        init(_ red: Double, _ green: Double, _ blue: Double) { (self.red, self.green, self.blue) = (red, green, blue) }

        func mixed(with other: Color, _ share: Double) -> Color {
            Color(
                red + (other.red - red) * share, green + (other.green - green) * share,
                blue + (other.blue - blue) * share)
        }

        var hex: String {
            "#"
                + [red, green, blue].map { channel in
                    let text = String(Int(channel.rounded()), radix: 16)
                    return text.count == 1 ? "0" + text : text
                }.joined()
        }

        /// Relative luminance (WCAG 2), 0...1.
        var luminance: Double {
            let linear = [red, green, blue].map { channel in
                let c = channel / 255
                return c <= 0.04045 ? c / 12.92 : pow((c + 0.055) / 1.055, 2.4)
            }
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        }
    }

    /// Colours in equal steps; both scales stay apart for colour-blind readers and in grey.
    private static let sequential: [Color] = [0xf1f4f8, 0xbcd7ee, 0x7fb3dc, 0x3d8bd9, 0x235f9f, 0x12355f].map {
        Color($0)
    }
    private static let diverging: [Color] = [0x12457f, 0x3d8bd9, 0xa9cdee, 0xf4f3f0, 0xf5c39d, 0xe0752d, 0x8a3d09].map {
        Color($0)
    }

    private func color(_ value: Double, _ range: ClosedRange<Double>) -> Color {
        let colors = palette == .sequential ? Self.sequential : Self.diverging
        let share = min(1, max(0, (value - range.lowerBound) / (range.upperBound - range.lowerBound)))
        let place = share * Double(colors.count - 1), index = min(colors.count - 2, Int(place))
        return colors[index].mixed(with: colors[index + 1], place - Double(index))
    }
}
