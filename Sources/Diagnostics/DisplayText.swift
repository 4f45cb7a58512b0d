// Data shown to people: nothing in it may steer a terminal or hide.

/// `text` with every control, format and separator character that a terminal would act on or hide spelled `\u{...}`.
///
/// - Parameter keepsNewlines: leaves line feeds and tabs as they are.
public func escapedForDisplay(_ text: String, keepsNewlines: Bool = false) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
        if keepsNewlines, scalar == "\n" || scalar == "\t" {
            result.append(scalar)
            continue
        }
        switch scalar {
        case "\n": "\\n".unicodeScalars.forEach { result.append($0) }
        case "\t": "\\t".unicodeScalars.forEach { result.append($0) }
        case "\r": "\\r".unicodeScalars.forEach { result.append($0) }
        case " "..."~": result.append(scalar)
        default:
            if isHidden(scalar) {
                "\\u{\(String(scalar.value, radix: 16))}".unicodeScalars.forEach { result.append($0) }
            } else {
                result.append(scalar)
            }
        }
    }
    return String(result)
}

/// A JSON text whose strings spell such characters as escapes: the same value, and nothing that a terminal would act on.
public func escapedForDisplay(json: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in json.unicodeScalars {
        guard isHidden(scalar), scalar != "\n" else {
            result.append(scalar)
            continue
        }
        for unit in UTF16.encode(scalar)! {
            let digits = String(unit, radix: 16)
            result.append(contentsOf: "\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".unicodeScalars)
        }
    }
    return String(result)
}

/// Control characters, bidirectional overrides, zero-width characters and the like. The zero-width joiner stays: emoji
/// and several scripts need it.
private func isHidden(_ scalar: Unicode.Scalar) -> Bool {
    if scalar == "\u{200D}" { return false }
    return switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator: true
    default: false
    }
}

/// A word as a shell takes it: in quotes where it has characters that a shell may take for its own.
public func shellWord(_ text: String) -> String {
    let plain = text.utf8.allSatisfy { ($0 | 0x20) &- 0x61 < 26 || $0 &- 0x30 < 10 || "-_./=,:@%+".utf8.contains($0) }
    if plain, !text.isEmpty { return text }
    return "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
