// One file with its meaning settled: format, header, kind of rows. Turns extents of bytes into rows.
import Diagnostics
import Formats

struct RowFile: Sendable {
    let file: DataFile
    /// What rows are read from.
    private let unpacked: MappedFile
    /// Name of the source in messages: `data.train[1]`.
    let source: String
    private(set) var kind: RowKind
    /// Column names of a CSV file.
    private let header: [String]
    let columnMap: ColumnMap
    private let transforms: [RowTransform]
    private let textUnit: TextUnit

    /// How many rows are looked at to recognise the kind.
    private static let rowsToRecognise = 20

    /// - Parameter kind: nil to recognise it by the columns of the first rows.
    init(
        _ file: DataFile, source: String, kind: RowKind?, columns: ColumnMap, textUnit: TextUnit,
        transforms: [RowTransform]
    ) throws {
        (self.file, self.source, columnMap, self.textUnit) = (file, source, columns, textUnit)
        self.transforms = transforms
        unpacked = try file.content.get()
        header = try Self.header(of: file, unpacked, source)
        self.kind = kind ?? .chat
        try refuseSpreadObject()
        let first = firstObjects()
        if kind == nil { self.kind = try recognisedKind(first) }
        try checkColumnMap(first)
    }

    var rowSource: RowSource { RowSource(path: file.path, unit: file.format.rowUnit, name: source) }

    func location(_ number: Int) -> RowLocation { rowSource.location(number) }

    func scanner() -> RowScanner {
        var scanner = RowScanner(unpacked.bytes, file.format, textUnit: textUnit, separator: file.separator)
        if !header.isEmpty { _ = scanner.next() }
        return scanner
    }

    /// The columns of the row that fills `range`. Of a key that an object has twice the last value counts, as in Python's
    /// programs, which data was made for; `repeatedKey` gets the first such key, so that it can be told.
    ///
    /// - Parameter keepsEmpty: also those that are empty and may be missing; CSV cannot say that a field is missing.
    func object(
        _ range: Range<Int>, keepsEmpty: Bool = false, repeatedKey: inout String?
    ) throws(RowFault) -> JSONObject {
        let bytes = UnsafeRawBufferPointer(rebasing: unpacked.bytes[range])
        switch file.format {
        case .jsonl, .json, .parquet, .arrow:
            let value: JSONValue
            do throws(JSONError) {
                do throws(JSONError) {
                    value = try .parse(bytes)
                } catch {
                    guard let key = error.repeatedKey else { throw error }
                    value = try .parse(bytes, takesRepeatedKeys: true)
                    repeatedKey = key
                }
            } catch {
                throw jsonFault(error, bytes)
            }
            guard let object = value.object else {
                throw RowFault(
                    .notAnObject,
                    "a row must be an object like {\"\(kind.requiredColumns[0])\": ...}; found \(value.kind)")
            }
            return object
        case .csv, .tsv:
            let fields = try csvFields(bytes, separator: file.separator)
            guard fields.count == header.count else {
                throw RowFault(
                    .unevenColumns, "has \(counted(fields.count, "column")) where the header has \(header.count)")
            }
            return JSONObject(
                zip(header, fields.map { JSONValue.string($0) }).filter { name, value in
                    keepsEmpty || value != "" || isRequired(name)
                })
        case .text:
            return JSONObject([("text", .string(try validText(bytes)))])
        }
    }

    func content(_ range: Range<Int>) throws(RowFault) -> RowContent {
        var told: String?  // when the row was checked
        return try content(try object(range, repeatedKey: &told))
    }

    /// What a row of these columns says, after the transforms.
    func content(_ object: JSONObject) throws(RowFault) -> RowContent {
        var content = try RowParser(kind: kind, columns: columnMap).parse(object)
        for transform in transforms { content = try transform.apply(content) }
        return content
    }

    private func isRequired(_ column: String) -> Bool {
        kind.requiredColumns.contains { ExactString(columnMap.column(of: $0)) == ExactString(column) }
    }

    /// Columns of `object` that nothing reads.
    func unusedColumns(_ object: JSONObject) -> [String] {
        let used = kind.columns.map(columnMap.column)
        return object.keys.filter { key in
            !kind.takes(key) && !used.contains { ExactString($0) == ExactString(key) }
        }
    }

    // MARK: settling

    private static func header(of file: DataFile, _ content: MappedFile, _ source: String) throws -> [String] {
        guard file.format == .csv || file.format == .tsv else { return [] }
        func fault(_ fault: RowFault) -> UserError {
            UserError(prefixed(source, "\(escapedForDisplay(file.path)) header: \(fault.detail)"))
        }
        var scanner = RowScanner(content.bytes, file.format, textUnit: .file, separator: file.separator)
        if !content.bytes.contains(0x0A), content.bytes.contains(0x0D) {
            throw fault(RowFault(.empty, "lines end with a carriage return alone; save the file with line feeds"))
        }
        guard let row = scanner.next() else {
            throw fault(RowFault(.empty, "the file is empty; it should begin with the names of its columns"))
        }
        if let found = row.fault { throw fault(found) }
        let bytes = UnsafeRawBufferPointer(rebasing: content.bytes[row.bytes])
        let names: [String]
        do { names = try csvFields(bytes, separator: file.separator) } catch { throw fault(error) }
        var seen: Set<ExactString> = []
        for (i, name) in names.enumerated() {
            // Spreadsheets and pandas number their rows in a first column without a name.
            if name.isEmpty, i > 0 { throw fault(RowFault(.empty, "column \(i + 1) has no name")) }
            if !seen.insert(ExactString(name)).inserted {
                throw fault(RowFault(.duplicateKey, "column \(quoted(name)) appears twice"))
            }
        }
        return names
    }

    /// One object over several lines where each line should be one.
    private func refuseSpreadObject() throws {
        guard file.format == .jsonl else { return }
        var scanner = scanner()
        guard let first = scanner.next(), let second = scanner.next(),
            unpacked.bytes[second.bytes].first(where: { !isJSONSpace($0) }) != UInt8(ascii: "{")
        else { return }
        let bytes = UnsafeRawBufferPointer(rebasing: unpacked.bytes[first.bytes])
        do throws(JSONError) { _ = try JSONValue.parse(bytes) } catch {
            guard error.offset == bytes.count else { return }
            throw UserError(
                prefixed(
                    source,
                    "\(location(first.number)): an object over several lines; give one object a line, or an array of "
                        + "objects in a .json file"))
        }
    }

    private func firstObjects() -> [JSONObject] {
        var scanner = scanner()
        var objects: [JSONObject] = []
        for _ in 0..<Self.rowsToRecognise {
            guard let row = scanner.next() else { break }
            if row.fault != nil { continue }
            // Faulty rows are reported by the pass over all rows; here they only do not help.
            var told: String?
            if let object = try? object(row.bytes, keepsEmpty: true, repeatedKey: &told) { objects.append(object) }
        }
        return objects
    }

    private func recognisedKind(_ first: [JSONObject]) throws -> RowKind {
        if file.format == .text { return .text }
        for object in first {
            if let kind = columnMap.kind(of: object) { return kind }
        }
        guard let object = first.first else { return .chat }  // no readable row: the pass over all rows says why
        // A column that is nearly one of ours: the row is meant as that kind, and is told what it lacks.
        for kind in RowKind.byPrecedence where kind.isImitated {
            for name in kind.requiredColumns
            where nearestName(to: columnMap.column(of: name), among: object.keys) != nil {
                return kind
            }
        }
        if let key = object.keys.first(where: { holdsRows(object[$0]) }) {
            throw UserError(
                prefixed(
                    source,
                    "\(escapedForDisplay(file.path)): the rows seem to be inside \(quoted(key)); give a file of that "
                        + "list alone"))
        }
        let found = object.keys.prefix(8).map { quoted($0) }.joined(separator: ", ")
        throw UserError(
            prefixed(
                source,
                "\(escapedForDisplay(file.path)): columns \(found) are no known kind of row (messages; conversations; "
                    + "instruction, output; prompt, completion; input, ideal; text; chosen, rejected; ground_truth, dataset; "
                    + "completion, score; text, target; tokens, tags; context, question, answers; sentence1, sentence2); name them with data.column_map or --column"
            ))
    }

    /// Whether a column is a list whose first entry is a row itself.
    private func holdsRows(_ column: JSONValue?) -> Bool {
        guard let entry = column?.array?.first?.object else { return false }
        return columnMap.kind(of: entry) != nil
    }

    /// A mapped column that the first rows do not have is a typing mistake, unless its field is optional.
    private func checkColumnMap(_ first: [JSONObject]) throws {
        guard !first.isEmpty else { return }
        for (field, column) in columnMap.entries where kind.requiredColumns.contains(field) {
            let columns = [column] + (kind.alternative(to: field).map { [columnMap.column(of: $0)] } ?? [])
            if first.contains(where: { row in columns.contains { row.position(of: $0) != nil } }) { continue }
            let near = nearestName(to: column, among: first[0].keys).map { "; did you mean \(quoted($0))?" } ?? ""
            let text = "\(escapedForDisplay(file.path)): column_map \(field)=\(column): no such column\(near)"
            throw UserError(prefixed(source, text))
        }
    }
}

/// What a JSON error comes from, coarse causes first: a NUL or a bad byte makes the parser stumble over something else.
private func jsonFault(_ error: JSONError, _ bytes: UnsafeRawBufferPointer) -> RowFault {
    if bytes.contains(0) { return RowFault(.nulByte, "contains a NUL byte; is this a text file?") }
    let place = error.line > 1 ? "line \(error.line) of it, column \(error.column)" : "column \(error.column)"
    if String(validating: bytes, as: UTF8.self) == nil {
        return RowFault(.invalidUTF8, "not valid UTF-8 (\(place)); save the file as UTF-8")
    }
    return RowFault(.invalidJSON, "not JSON (\(place)): \(escapedForDisplay(error.reason))")
}
