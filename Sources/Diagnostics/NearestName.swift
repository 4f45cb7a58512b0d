// "Did you mean": the nearest of the names that exist.

/// The candidate with the smallest edit distance (insert, delete, replace, swap of neighbours) to `name`, if it is
/// near enough to be meant: at most two fifths of the longer name, at least one edit allowed.
public func nearestName(to name: String, among candidates: some Sequence<String>) -> String? {
    let ranked = candidates.map { (editDistance(Array(name.utf8), Array($0.utf8)), $0) }
    guard let best = ranked.min(by: { ($0.0, $0.1) < ($1.0, $1.1) }) else { return nil }
    return best.0 <= max(1, 2 * max(name.utf8.count, best.1.utf8.count) / 5) ? best.1 : nil
}

/// Optimal string alignment distance of two byte strings.
func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var beforePrevious = [Int](), previous = Array(0...b.count), row = previous
    for i in 0..<a.count {
        row[0] = i + 1
        for j in 0..<b.count {
            row[j + 1] = min(previous[j + 1] + 1, row[j] + 1, previous[j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
                row[j + 1] = min(row[j + 1], beforePrevious[j - 1] + 1)
            }
        }
        (beforePrevious, previous) = (previous, row)
    }
    return previous[b.count]
}
