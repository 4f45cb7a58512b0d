// Tables of text for people.

/// Lines of columns of equal width, two blanks between them.
///
/// - Parameter left: columns whose cells stand to the left; the others stand to the right, as numbers do.
public func aligned(_ rows: [[String]], left: Set<Int> = [0]) -> [String] {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
    return rows.map { row in
        let cells = row.enumerated().map { column, cell in
            let space = String(repeating: " ", count: widths[column] - cell.count)
            return left.contains(column) ? cell + space : space + cell
        }
        var line = cells.joined(separator: "  ")
        while line.last == " " { line.removeLast() }
        return line
    }
}
