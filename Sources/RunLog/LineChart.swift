// Line charts as SVG: axes with round ticks, lines and points, a legend; colours that read on white and on black.

internal import Diagnostics
internal import Glibc

/// A chart of lines over one horizontal axis.
public struct LineChart: Sendable {
    /// How a series is drawn.
    public enum Style: Sendable {
        /// A line.
        case line
        /// A line in the background: raw values behind their smoothed line.
        case faint
        /// A line with a dot at each value: few values, each measured.
        case dots
        /// A dot at each value and no line: values in no order.
        case scatter

        var hasDots: Bool { self == .dots || self == .scatter }
    }

    public struct Series: Sendable {
        public var name: String
        public var points: [(x: Double, y: Double)]
        public var style: Style
        /// Index into the palette; a faint series shares that of the line it belongs to.
        public var color: Int

        /// - Parameter points: in order of x; values that are not finite are left out.
        public init(name: String, points: [(x: Double, y: Double)], style: Style = .line, color: Int) {
            self.name = name
            self.points = points.filter { $0.x.isFinite && $0.y.isFinite }
            self.style = style
            self.color = color
        }
    }

    public var title: String
    public var xLabel: String
    public var yLabel: String
    public var series: [Series]
    /// Values at the ends of the vertical axis; nil takes those of the lines.
    public var range: ClosedRange<Double>?
    public var width = 860.0
    public var height = 460.0

    public init(title: String, xLabel: String, yLabel: String, series: [Series]) {
        (self.title, self.xLabel, self.yLabel, self.series) = (title, xLabel, yLabel, series)
    }

    /// The chart as an SVG document.
    public func svg() -> String { SVG.document(width: width, height: height, title: title, parts(clip: "plot")) }

    /// What the document holds.
    ///
    /// - Parameter clip: a name that nothing else in the document has.
    func parts(clip: String) -> [String] {
        let left = 68.0, right = 22.0, top = 74.0, bottom = 52.0
        let plot = Plot(
            left: left, top: top, width: width - left - right, height: height - top - bottom, x: xRange,
            y: range ?? yRange)
        var out = [
            "<defs><clipPath id=\"\(clip)\"><rect x=\"\(SVG.number(left - 4))\" y=\"\(SVG.number(top - 4))\" "
                + "width=\"\(SVG.number(plot.width + 8))\" height=\"\(SVG.number(plot.height + 8))\"/></clipPath></defs>",
            SVG.text(title, left, 28, size: 17, weight: "600"),
        ]
        out += legend(left: left, y: 53)
        out += axes(plot)
        if series.allSatisfy(\.points.isEmpty) {
            out.append(SVG.text("no values yet", left + plot.width / 2, top + plot.height / 2, anchor: "middle"))
        }
        out.append("<g clip-path=\"url(#\(clip))\" fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\">")
        out += series.filter { $0.style == .faint }.map { draw($0, plot) }
        out += series.filter { $0.style != .faint }.map { draw($0, plot) }
        out.append("</g>")
        return out
    }

    // MARK: ranges

    private var xIsWhole: Bool { series.allSatisfy { $0.points.allSatisfy { $0.x == $0.x.rounded() } } }

    private var xRange: ClosedRange<Double> {
        let values = series.flatMap { $0.points.map(\.x) }
        return widened(values.min() ?? 0, values.max() ?? 1, by: 0)
    }

    /// All of the lines; of faint ones the middle 98 %, so that one wild step does not flatten the rest.
    private var yRange: ClosedRange<Double> {
        var low = Double.infinity, high = -Double.infinity
        for one in series where !one.points.isEmpty {
            let sorted = one.points.map(\.y).sorted()
            let cut = one.style == .faint && series.contains { $0.style != .faint } ? sorted.count / 100 : 0
            low = min(low, sorted[cut])
            high = max(high, sorted[sorted.count - 1 - cut])
        }
        return low <= high ? widened(low, high, by: 0.05) : 0...1
    }

    private func widened(_ low: Double, _ high: Double, by share: Double) -> ClosedRange<Double> {
        guard high > low else {
            let margin = low == 0 ? 1 : abs(low) * 0.1
            return (low - margin)...(low + margin)
        }
        return (low - (high - low) * share)...(high + (high - low) * share)
    }

    // MARK: parts

    private struct Plot {
        let left, top, width, height: Double
        let x, y: ClosedRange<Double>

        func px(_ value: Double) -> Double { left + (value - x.lowerBound) / (x.upperBound - x.lowerBound) * width }
        func py(_ value: Double) -> Double {
            top + height - (value - y.lowerBound) / (y.upperBound - y.lowerBound) * height
        }
    }

    private func axes(_ plot: Plot) -> [String] {
        var out: [String] = []
        let right = plot.left + plot.width, bottom = plot.top + plot.height
        let yTicks = niceTicks(plot.y, count: 6), xTicks = niceTicks(plot.x, count: 8, whole: xIsWhole)
        for (value, label) in yTicks {
            let y = plot.py(value)
            out.append(SVG.line(plot.left, y, right, y, opacity: 0.22))
            out.append(SVG.text(label, plot.left - 9, y + 4.5, anchor: "end"))
        }
        for (value, label) in xTicks {
            let x = plot.px(value)
            out.append(SVG.line(x, bottom, x, bottom + 5, opacity: 0.8))
            out.append(SVG.text(label, x, bottom + 20, anchor: "middle"))
        }
        out.append(SVG.line(plot.left, bottom, right, bottom, opacity: 0.8))
        out.append(SVG.text(xLabel, plot.left + plot.width / 2, bottom + 42, anchor: "middle"))
        let middle = plot.top + plot.height / 2
        out.append(SVG.text(yLabel, 18, middle, anchor: "middle", rotated: -90))
        return out
    }

    private func legend(left: Double, y: Double) -> [String] {
        var x = left, out: [String] = []
        for one in series where !one.name.isEmpty {
            let color = SVG.palette[one.color % SVG.palette.count]
            let opacity = one.style == .faint ? 0.35 : 1
            if one.style != .scatter {
                out.append(SVG.line(x, y - 4.5, x + 20, y - 4.5, color: color, width: 2.5, opacity: opacity))
            }
            if one.style.hasDots { out.append(SVG.circle(x + 10, y - 4.5, radius: 3.6, color: color)) }
            out.append(SVG.text(one.name, x + 26, y))
            x += 26 + Double(one.name.count) * 7.4 + 22
        }
        return out
    }

    private func draw(_ one: Series, _ plot: Plot) -> String {
        let color = SVG.palette[one.color % SVG.palette.count]
        let all = one.points.map { (plot.px($0.x), plot.py($0.y)) }
        if one.style == .scatter { return dots(all, color) }
        let points = thinned(all)
        let path = points.map { "\(SVG.number($0.0)),\(SVG.number($0.1))" }.joined(separator: " ")
        let (stroke, opacity) = one.style == .faint ? (1.2, 0.35) : (2.2, 1.0)
        let line =
            "<polyline points=\"\(path)\" stroke=\"\(color)\" stroke-width=\"\(SVG.number(stroke))\" "
            + "stroke-opacity=\"\(SVG.number(opacity))\"/>"
        let isDotted = one.style == .dots && points.count <= 80 || points.count == 1
        return isDotted ? line + dots(points, color) : line
    }

    private func dots(_ points: [(Double, Double)], _ color: String) -> String {
        points.map { SVG.circle($0.0, $0.1, radius: 3.6, color: color) }.joined()
    }

    /// At most the lowest and highest value of each half pixel column: the picture of a million points in a file of
    /// some kilobytes.
    private func thinned(_ points: [(Double, Double)]) -> [(Double, Double)] {
        guard points.count > 3000 else { return points }
        var out: [(Double, Double)] = [], column = [(Double, Double)]()
        func flush() {
            guard let low = column.min(by: { $0.1 < $1.1 }), let high = column.max(by: { $0.1 < $1.1 }) else { return }
            out += low.0 < high.0 ? [low, high] : low.0 > high.0 ? [high, low] : [low]
            column = []
        }
        for point in points {
            if let first = column.first, (first.0 * 2).rounded(.down) != (point.0 * 2).rounded(.down) { flush() }
            column.append(point)
        }
        flush()
        return out
    }
}

/// Round values (1, 2, 5 times a power of ten) inside a range, about `count` of them, with labels of equal precision.
///
/// - Parameter whole: whole numbers only, for axes that count.
package func niceTicks(_ range: ClosedRange<Double>, count: Int, whole: Bool = false) -> [(
    value: Double, label: String
)] {
    let raw = max((range.upperBound - range.lowerBound) / Double(count), whole ? 1 : 0)
    guard raw > 0, raw.isFinite else { return [] }
    let exponent = floor(log10(raw)), power = pow(10, exponent), mantissa = raw / power
    let factor: Double = mantissa <= 1 ? 1 : mantissa <= 2 ? 2 : mantissa <= 5 ? 5 : 10
    let step = factor * power
    let places = max(0, -Int(floor(log10(step) + 1e-9)))
    let slack = step * 1e-9
    let first = Int((range.lowerBound / step - 1e-9).rounded(.up)),
        last = Int((range.upperBound / step + 1e-9).rounded(.down))
    guard first <= last, places < 12, abs(range.upperBound) < 1e15 else { return [] }
    return (first...last).map { index in
        let value = Double(index) * step
        let isWhole = abs(value - value.rounded()) < slack
        return (value, places == 0 && isWhole ? grouped(Int(value.rounded())) : decimals(value, places))
    }
}
