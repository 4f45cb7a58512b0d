// How the text of a scalar is read as a number, a yes or no, a choice, or text: by what the field expects.

internal import Diagnostics

/// A value that is not what its field expects.
package struct Mismatch: Error {
    package let message: String

    package init(message: String) { self.message = message }
}

/// A whole number: digits with an optional sign, or a whole number in scientific spelling (`1e4`). `08` and `010` are
/// refused: YAML 1.1 reads the second as eight, YAML 1.2 as ten.
package func readInteger<I: FixedWidthInteger>(_ tree: ConfigTree, as type: I.Type) throws -> I {
    let expected = "expected a whole number"
    guard case .scalar(let text, false) = tree.kind else { throw Mismatch(message: "\(expected), found \(tree.found)") }
    try refuseLeadingZero(text)
    let digits = text.hasPrefix("+") ? String(text.dropFirst()) : text
    if let value = I(digits), !digits.hasPrefix("+") { return value }
    if text.contains(where: { $0 == "e" || $0 == "E" }), isNumber(text), let value = Double(text),
        let whole = I(exactly: value)
    {
        return whole
    }
    if isNumber(text), I.isSigned == false, text.hasPrefix("-") {
        throw Mismatch(message: "\(expected) that is not negative, found \(text)")
    }
    throw Mismatch(message: "\(expected), found \(tree.found)")
}

/// A finite decimal number: `1`, `0.5`, `.5`, `1e-5`, `1.0E+3`. Hexadecimal, `inf` and `nan` are refused.
package func readNumber(_ tree: ConfigTree) throws -> Double {
    guard case .scalar(let text, false) = tree.kind, isNumber(text), let value = Double(text) else {
        throw Mismatch(message: "expected a number, found \(tree.found)")
    }
    try refuseLeadingZero(text)
    guard value.isFinite else { throw Mismatch(message: "\(text) is larger than a number can be") }
    return value
}

/// `true/false`, `yes/no`, `on/off` in lower, upper or title case.
package func readFlag(_ tree: ConfigTree) throws -> Bool {
    if case .scalar(let text, false) = tree.kind {
        let lower = text.lowercased()
        let usualCase = [lower, text.uppercased(), lower.prefix(1).uppercased() + lower.dropFirst()].contains(text)
        if usualCase, ["true", "yes", "on"].contains(lower) { return true }
        if usualCase, ["false", "no", "off"].contains(lower) { return false }
    }
    throw Mismatch(message: "expected true or false, found \(tree.found)")
}

/// Any scalar as it was written: `no`, `08` and `1e-5` need no quotes where text is expected.
package func readText(_ tree: ConfigTree) throws -> String {
    guard case .scalar(let text, _) = tree.kind else {
        throw Mismatch(message: "expected text, found \(tree.found)")
    }
    return text
}

/// A section whose keys are the user's own words.
func readWords(_ tree: ConfigTree) throws -> [String: String] {
    guard case .map(let entries) = tree.kind else {
        throw Mismatch(message: "expected a section of names, found \(tree.found)")
    }
    return try Dictionary(entries.map { ($0.key, try readText($0.value)) }) { first, _ in first }
}

/// One of a closed list of names.
func readChoice<C: ConfigChoice>(_ type: C.Type, _ tree: ConfigTree) throws -> C {
    let names = C.allCases.map(\.rawValue)
    guard case .scalar(let text, _) = tree.kind else {
        throw Mismatch(message: "expected one of \(names.joined(separator: ", ")), found \(tree.found)")
    }
    if let choice = C(rawValue: text) { return choice }
    let hint = nearestName(to: text, among: names).map { "; did you mean \($0)?" } ?? ""
    throw Mismatch(message: "\"\(text)\" is not one of \(names.joined(separator: ", "))\(hint)")
}

/// True for `[+-]? digits with at most one point, at least one digit, and an optional exponent`.
private func isNumber(_ text: String) -> Bool {
    var bytes = Array(text.utf8)[...]
    if let first = bytes.first, "+-".utf8.contains(first) { bytes = bytes.dropFirst() }
    let mantissa = bytes.prefix { $0 | 0x20 != UInt8(ascii: "e") }
    let exponent = bytes.dropFirst(mantissa.count + 1)
    let points = mantissa.count { $0 == UInt8(ascii: ".") }
    guard points <= 1, mantissa.count > points, mantissa.allSatisfy({ isDigit($0) || $0 == UInt8(ascii: ".") }) else {
        return false
    }
    guard mantissa.count < bytes.count else { return true }
    let unsigned = exponent.first.map { "+-".utf8.contains($0) } == true ? exponent.dropFirst() : exponent
    return !unsigned.isEmpty && unsigned.allSatisfy(isDigit)
}

private func isDigit(_ byte: UInt8) -> Bool { byte >= 0x30 && byte <= 0x39 }

private func refuseLeadingZero(_ text: String) throws {
    let digits = Array(text.utf8.drop { $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "+") })
    if digits.count > 1, digits[0] == UInt8(ascii: "0"), isDigit(digits[1]) {
        throw Mismatch(message: "\(text): write the number without leading zeros (some readers take them for octal)")
    }
}
