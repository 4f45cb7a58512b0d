// Counts as people read them.

/// "28,614".
public func grouped(_ count: Int) -> String {
    let digits = String(count.magnitude)
    var out = ""
    for (i, digit) in digits.enumerated() {
        if i > 0, (digits.count - i) % 3 == 0 { out += "," }
        out.append(digit)
    }
    return (count < 0 ? "-" : "") + out
}

/// "1 row", "28,614 rows", "0 rows".
///
/// - Parameter noun: the singular of one whose plural only adds an s to its end.
public func counted(_ count: Int, _ noun: String) -> String { "\(grouped(count)) \(noun)\(count == 1 ? "" : "s")" }
