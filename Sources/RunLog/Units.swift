// Bytes, durations and numbers as people read them; no locale, no Foundation. Counts: Diagnostics.

internal import Diagnostics

/// "512 B", "1.5 GiB": three digits at most, powers of 1,024.
public func byteSize(_ bytes: Int) -> String {
    var value = Double(bytes), unit = 0
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while abs(value) >= 999.5, unit < units.count - 1 {
        value /= 1024
        unit += 1
    }
    return "\(unit == 0 ? "\(bytes)" : decimals(value, value < 9.95 ? 1 : 0)) \(units[unit])"
}

/// "0.4 s", "59 s", "3 min 05 s", "2 h 07 min", "3 d 04 h".
public func duration(seconds: Double) -> String {
    guard seconds.isFinite, seconds >= 0, seconds < 1e11 else { return "unknown" }
    if seconds < 9.95 { return decimals(seconds, 1) + " s" }
    let whole = Int(seconds.rounded())
    func pair(_ a: Int, _ x: String, _ b: Int, _ y: String) -> String { "\(a) \(x) \(b < 10 ? "0" : "")\(b) \(y)" }
    switch whole {
    case ..<60: return "\(whole) s"
    case ..<3600: return pair(whole / 60, "min", whole % 60, "s")
    case ..<86400: return pair(whole / 3600, "h", whole % 3600 / 60, "min")
    default: return pair(whole / 86400, "d", whole % 86400 / 3600, "h")
    }
}

/// "431 GFLOP", "1.20 PFLOP": three digits, powers of 1,000.
public func operationCount(_ operations: Double) -> String {
    var value = operations, unit = 0
    let units = ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP"]
    while value >= 999.5, unit < units.count - 1 { (value, unit) = (value / 1000, unit + 1) }
    return "\(significant(value, 3)) \(units[unit])"
}

/// A number with a fixed count of decimals, rounded half away from zero; "nan", "inf" as they are.
public func decimals(_ value: Double, _ places: Int) -> String {
    guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<places { scale *= 10 }
    let scaled = (abs(value) * scale).rounded()
    guard scaled < 9e15 else { return "\(value)" }
    let whole = Int(scaled), divisor = Int(scale)
    let sign = value < 0 && whole > 0 ? "-" : ""
    guard places > 0 else { return "\(sign)\(whole)" }
    let fraction = String(whole % divisor)
    return "\(sign)\(whole / divisor).\(String(repeating: "0", count: places - fraction.count))\(fraction)"
}

/// `digits` significant digits, scientific where that is shorter: "0.000123", "1.2e-07".
public func significant(_ value: Double, _ digits: Int) -> String {
    guard value.isFinite, value != 0 else { return value == 0 ? "0" : "\(value)" }
    var exponent = 0, mantissa = abs(value)
    while mantissa >= 10 { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
    while mantissa < 1 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
    var scale = 1.0
    for _ in 1..<max(digits, 2) where digits > 1 { scale *= 10 }
    if (mantissa * scale).rounded() >= 10 * scale { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
    if exponent >= -4, exponent < 6 { return decimals(value, max(0, digits - 1 - exponent)) }
    let sign = value < 0 ? "-" : "", power = abs(exponent)
    return "\(sign)\(decimals(mantissa, digits - 1))e\(exponent < 0 ? "-" : "+")\(power < 10 ? "0" : "")\(power)"
}
