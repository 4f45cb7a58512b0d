// Line charts as SVG: axes with round ticks, lines and points, a legend; colours that read on white and on black.

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
    public var width = 860.0
    public var height = 460.0

    public init(title: String, xLabel: String, yLabel: String, series: [Series]) {
        (self.title, self.xLabel, self.yLabel, self.series) = (title, xLabel, yLabel, series)
    }

    /// Mid-tones with a contrast of 3 or more against white and against black, told apart by colour-blind readers.
    static let palette = ["#3d8bd9", "#e0752d", "#2f9e75", "#c2579b", "#b08a1e", "#7d74d6"]
    private static let ink = "#808080"

    /// The chart as an SVG document.
    public func svg() -> String {
        let left = 68.0, right = 22.0, top = 74.0, bottom = 52.0
        let plot = Plot(
            left: left, top: top, width: width - left - right, height: height - top - bottom, x: xRange, y: yRange)
        var out = [
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(number(width)) \(number(height))\" role=\"img\" "
                + "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\">",
            "<title>\(escaped(title))</title>",
            "<defs><clipPath id=\"plot\"><rect x=\"\(number(left))\" y=\"\(number(top - 4))\" "
                + "width=\"\(number(plot.width + 4))\" height=\"\(number(plot.height + 8))\"/></clipPath></defs>",
            text(title, left, 28, size: 17, weight: "600"),
        ]
        out += legend(left: left, y: 53)
        out += axes(plot)
        if series.allSatisfy(\.points.isEmpty) {
            out.append(text("no values yet", left + plot.width / 2, top + plot.height / 2, anchor: "middle"))
        }
        out.append("<g clip-path=\"url(#plot)\" fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\">")
        out += series.filter { $0.style == .faint }.map { draw($0, plot) }
        out += series.filter { $0.style != .faint }.map { draw($0, plot) }
        out += ["</g>", "</svg>"]
        return out.joined(separator: "\n") + "\n"
    }

    // MARK: ranges

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
        let yTicks = niceTicks(plot.y, count: 6), xTicks = niceTicks(plot.x, count: 8)
        for (value, label) in yTicks {
            let y = plot.py(value)
            out.append(line(plot.left, y, right, y, opacity: 0.22))
            out.append(text(label, plot.left - 9, y + 4.5, anchor: "end"))
        }
        for (value, label) in xTicks {
            let x = plot.px(value)
            out.append(line(x, bottom, x, bottom + 5, opacity: 0.8))
            out.append(text(label, x, bottom + 20, anchor: "middle"))
        }
        out.append(line(plot.left, bottom, right, bottom, opacity: 0.8))
        out.append(text(xLabel, plot.left + plot.width / 2, bottom + 42, anchor: "middle"))
        let middle = plot.top + plot.height / 2
        out.append(
            "<text x=\"18\" y=\"\(number(middle))\" fill=\"\(Self.ink)\" text-anchor=\"middle\" "
                + "transform=\"rotate(-90 18 \(number(middle)))\">\(escaped(yLabel))</text>")
        return out
    }

    private func legend(left: Double, y: Double) -> [String] {
        var x = left, out: [String] = []
        for one in series where !one.name.isEmpty {
            let color = Self.palette[one.color % Self.palette.count]
            let opacity = one.style == .faint ? 0.35 : 1
            out.append(
                "<line x1=\"\(number(x))\" y1=\"\(number(y - 4.5))\" x2=\"\(number(x + 20))\" "
                    + "y2=\"\(number(y - 4.5))\" stroke=\"\(color)\" stroke-width=\"2.5\" stroke-opacity=\"\(number(opacity))\"/>"
            )
            if one.style == .dots {
                out.append("<circle cx=\"\(number(x + 10))\" cy=\"\(number(y - 4.5))\" r=\"3.6\" fill=\"\(color)\"/>")
            }
            out.append(text(one.name, x + 26, y))
            x += 26 + Double(one.name.count) * 7.4 + 22
        }
        return out
    }

    private func draw(_ one: Series, _ plot: Plot) -> String {
        let color = Self.palette[one.color % Self.palette.count]
        let points = thinned(one.points.map { (plot.px($0.x), plot.py($0.y)) })
        let path = points.map { "\(number($0.0)),\(number($0.1))" }.joined(separator: " ")
        let (stroke, opacity) = one.style == .faint ? (1.2, 0.35) : (2.2, 1.0)
        var out =
            "<polyline points=\"\(path)\" stroke=\"\(color)\" stroke-width=\"\(number(stroke))\" "
            + "stroke-opacity=\"\(number(opacity))\"/>"
        let isDot = one.style == .dots && points.count <= 80 || points.count == 1
        if isDot {
            out += points.map {
                "<circle cx=\"\(number($0.0))\" cy=\"\(number($0.1))\" r=\"3.6\" fill=\"\(color)\"/>"
            }.joined()
        }
        return out
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

    private func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, opacity: Double) -> String {
        "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" "
            + "stroke=\"\(Self.ink)\" stroke-opacity=\"\(number(opacity))\"/>"
    }

    private func text(
        _ content: String, _ x: Double, _ y: Double, anchor: String = "start", size: Double? = nil,
        weight: String? = nil
    ) -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" fill=\"\(Self.ink)\" text-anchor=\"\(anchor)\""
            + (size.map { " font-size=\"\(number($0))\"" } ?? "") + (weight.map { " font-weight=\"\($0)\"" } ?? "")
            + ">\(escaped(content))</text>"
    }

    private func number(_ value: Double) -> String {
        var text = decimals(value, 2)
        while text.hasSuffix("0") && text.contains(".") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }

    /// Markup as text; control characters, which XML forbids, as spaces.
    private func escaped(_ text: String) -> String {
        text.unicodeScalars.map { scalar in
            switch scalar {
            case "&": "&amp;"
            case "<": "&lt;"
            case ">": "&gt;"
            case "\"": "&quot;"
            default: scalar.value < 0x20 ? " " : String(scalar)
            }
        }.joined()
    }
}

/// Round values (1, 2, 5 times a power of ten) inside a range, about `count` of them, with labels of equal precision.
package func niceTicks(_ range: ClosedRange<Double>, count: Int) -> [(value: Double, label: String)] {
    let raw = (range.upperBound - range.lowerBound) / Double(count)
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
        let whole = abs(value - value.rounded()) < slack
        return (value, places == 0 && whole ? grouped(Int(value.rounded())) : decimals(value, places))
    }
}
