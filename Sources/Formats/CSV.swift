// Writing CSV (RFC 4180). Reading it is Datasets' work, row by row.

/// Fields with commas between them, quoted where they need it, and a line break.
public func csvLine(_ fields: [String]) -> String { csvLine(fields, separator: ",") }

/// Fields with `separator` between them, quoted where they need it, and a line break.
public func csvLine(_ fields: [String], separator: Unicode.Scalar) -> String {
    fields.map { csvField($0, separator) }.joined(separator: String(separator)) + "\n"
}

/// Looks at scalars: a comma with a combining mark behind it is still a comma to whoever reads the file.
private func csvField(_ text: String, _ separator: Unicode.Scalar) -> String {
    let needsQuotes = text.unicodeScalars.contains { scalar in
        switch scalar {
        case separator, "\"", "\u{0A}"..."\u{0D}", "\u{85}", "\u{2028}", "\u{2029}": true
        default: false
        }
    }
    guard needsQuotes else { return text }
    return "\"" + text.unicodeScalars.map { $0 == "\"" ? "\"\"" : String($0) }.joined() + "\""
}
