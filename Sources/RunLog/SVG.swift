// Pieces of SVG that every picture is made of: numbers, text, lines, the document around them.

/// Building blocks of SVG documents; coordinates in user units, from the top left.
package enum SVG {
    /// Mid-tones with a contrast of 3 or more against white and against black, told apart by colour-blind readers.
    package static let palette = ["#3d8bd9", "#e0752d", "#2f9e75", "#c2579b", "#b08a1e", "#7d74d6"]
    /// Text and axes: reads on white and on black.
    package static let ink = "#808080"

    /// The document with its title for screen readers.
    package static func document(width: Double, height: Double, title: String, _ parts: [String]) -> String {
        let head =
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 \(number(width)) \(number(height))\" role=\"img\" "
            + "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\">"
        return ([head, "<title>\(escaped(title))</title>"] + parts + ["</svg>"]).joined(separator: "\n") + "\n"
    }

    /// - Parameter dashes: lengths of dash and gap; nil for a full line.
    package static func line(
        _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, color: String = ink, width: Double? = nil,
        opacity: Double = 1,
        dashes: String? = nil
    ) -> String {
        "<line x1=\"\(number(x1))\" y1=\"\(number(y1))\" x2=\"\(number(x2))\" y2=\"\(number(y2))\" stroke=\"\(color)\""
            + (width.map { " stroke-width=\"\(number($0))\"" } ?? "")
            + (dashes.map { " stroke-dasharray=\"\($0)\"" } ?? "") + " stroke-opacity=\"\(number(opacity))\"/>"
    }

    package static func text(
        _ content: String, _ x: Double, _ y: Double, anchor: String = "start", size: Double? = nil,
        weight: String? = nil,
        color: String = ink, rotated: Double? = nil
    ) -> String {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" fill=\"\(color)\" text-anchor=\"\(anchor)\""
            + (size.map { " font-size=\"\(number($0))\"" } ?? "") + (weight.map { " font-weight=\"\($0)\"" } ?? "")
            + (rotated.map { " transform=\"rotate(\(number($0)) \(number(x)) \(number(y)))\"" } ?? "")
            + ">\(escaped(content))</text>"
    }

    package static func circle(_ x: Double, _ y: Double, radius: Double, color: String) -> String {
        "<circle cx=\"\(number(x))\" cy=\"\(number(y))\" r=\"\(number(radius))\" fill=\"\(color)\"/>"
    }

    package static func rectangle(
        _ x: Double, _ y: Double, _ width: Double, _ height: Double, fill: String, stroke: String? = nil,
        radius: Double? = nil,
        title: String? = nil
    ) -> String {
        "<rect x=\"\(number(x))\" y=\"\(number(y))\" width=\"\(number(width))\" height=\"\(number(height))\" fill=\"\(fill)\""
            + (stroke.map { " stroke=\"\($0)\"" } ?? "") + (radius.map { " rx=\"\(number($0))\"" } ?? "")
            + (title.map { "><title>\(escaped($0))</title></rect>" } ?? "/>")
    }

    /// At most two decimals, without trailing zeros.
    package static func number(_ value: Double) -> String {
        var text = decimals(value, 2)
        while text.hasSuffix("0") && text.contains(".") { text.removeLast() }
        if text.hasSuffix(".") { text.removeLast() }
        return text
    }

    /// Width that a text takes, estimated: fonts differ between machines.
    package static func width(of text: String, size: Double = 13) -> Double { Double(text.count) * size * 0.57 }

    /// Markup as text; control characters, which XML forbids, as spaces.
    package static func escaped(_ text: String) -> String {
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
