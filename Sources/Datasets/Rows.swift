// All rows of a data source: checked once, then read again from the mapped files whenever they are wanted.
import Crypto
import Diagnostics
import Formats

/// What happens to a row that cannot be used.
public enum BadRowPolicy: String, Sendable, Codable, CaseIterable {
    /// The command ends and names the row.
    case stop
    /// The row is left out and counted under its reason.
    case drop
}

/// Where rows come from and how they are read.
public struct DataSource: Sendable {
    /// Files and folders.
    public var paths: [String]
    /// How the configuration calls this source, for messages: `data.train`.
    public var name: String
    /// nil: recognised by the columns of each file's first rows.
    public var kind: RowKind?
    /// Field to column of the file.
    public var columnMap: [String: String]
    public var badRows: BadRowPolicy
    /// Leaves out rows equal to an earlier one in everything that is trained or read.
    public var deduplicate: Bool
    public var textUnit: TextUnit

    public init(
        _ paths: [String], name: String = "", kind: RowKind? = nil, columnMap: [String: String] = [:],
        badRows: BadRowPolicy = .stop, deduplicate: Bool = false, textUnit: TextUnit = .file
    ) {
        (self.paths, self.name, self.kind, self.columnMap) = (paths, name, kind, columnMap)
        (self.badRows, self.deduplicate, self.textUnit) = (badRows, deduplicate, textUnit)
    }
}

/// The usable rows of a source, by index. Only their places are kept in memory (24 bytes a row); the files stay mapped.
public struct Rows: Sendable {
    private let files: [RowFile]
    private let places: [Place]
    /// Rows read, dropped and doubled.
    public let statistics: RowStatistics
    /// Things to tell the person once: columns that nothing uses.
    public let warnings: [String]

    private struct Place { var file: Int32, number: Int32, start: Int, end: Int }

    /// Reads every row once and checks it.
    ///
    /// - Throws: `UserError` for files that cannot be read; `BadRow` for the first bad row under `.stop`; `UserError`
    ///   when no row is left.
    public init(_ source: DataSource) throws {
        let columns = try ColumnMap(source.columnMap, source: source.name)
        files = try dataFiles(paths: source.paths, source: source.name).map { file in
            let name = source.paths.count > 1 ? "\(source.name)[\(file.sourceIndex)]" : source.name
            return try RowFile(file, source: name, kind: source.kind, columns: columns, textUnit: source.textUnit)
        }
        var pass = Pass(source)
        for (i, file) in files.enumerated() { try pass.read(file, Int32(i)) }
        if pass.places.isEmpty {
            let dropped = pass.statistics.dropped.map { "\($0.key.rawValue) \($0.value)" }.sorted().joined(
                separator: ", ")
            let why =
                dropped.isEmpty
                ? "no rows in \(source.paths.map { escapedForDisplay($0) }.joined(separator: ", "))"
                : "all rows dropped: \(dropped)"
            throw UserError(prefixed(source.name, why))
        }
        (places, statistics, warnings) = (pass.places, pass.statistics, pass.warnings)
    }

    public var count: Int { places.count }
    public var indices: Range<Int> { places.indices }

    /// Reads a row again from its file.
    ///
    /// - Throws: `UserError` when another program has written into the file since the rows were checked.
    public subscript(index: Int) -> DataRow {
        get throws {
            let place = places[index]
            let file = files[Int(place.file)]
            do {
                return DataRow(try file.content(place.start..<place.end), location: location(index))
            } catch {
                throw UserError("\(location(index)): changed while it was in use; another program is writing the file")
            }
        }
    }

    public func location(_ index: Int) -> RowLocation {
        files[Int(places[index].file)].location(Int(places[index].number))
    }

    /// The source's name with its position when there are several: for messages about this row.
    public func sourceName(_ index: Int) -> String { files[Int(places[index].file)].source }

    /// The files with what was recognised in them.
    public var fileDescriptions: [(path: String, format: FileFormat, kind: RowKind)] {
        files.map { ($0.file.path, $0.file.format, $0.kind) }
    }

    /// Whether any file is plain text, whose rows are what `textUnit` says.
    public var hasPlainText: Bool { files.contains { $0.file.format == .text } }

    /// The pass over all rows.
    private struct Pass {
        var places: [Place] = []
        var statistics = RowStatistics()
        var warnings: [String] = []
        private let source: DataSource
        private var seen: Set<SIMD2<UInt64>> = []
        private var warned: Set<ExactString> = []

        init(_ source: DataSource) { self.source = source }

        mutating func read(_ file: RowFile, _ index: Int32) throws {
            var scanner = file.scanner()
            while let row = scanner.next() {
                statistics.rows += 1
                do {
                    if let fault = row.fault { throw fault }
                    let object = try file.object(row.bytes)
                    let content = try RowParser(kind: file.kind, columns: file.columnMap).parse(object)
                    warnOfUnusedColumns(file, object, row.number)
                    if source.deduplicate, !seen.insert(digest(content)).inserted {
                        statistics.duplicates += 1
                        continue
                    }
                } catch let fault as RowFault {
                    let bad = BadRow(fault, source: file.source, location: file.location(row.number))
                    if source.badRows == .stop { throw bad }
                    statistics.drop(bad)
                    continue
                }
                places.append(
                    Place(
                        file: index, number: Int32(row.number), start: row.bytes.lowerBound, end: row.bytes.upperBound))
            }
        }

        private mutating func warnOfUnusedColumns(_ file: RowFile, _ object: JSONObject, _ number: Int) {
            guard object.count > file.kind.requiredColumns.count || !file.columnMap.isEmpty else { return }
            for column in file.unusedColumns(object) where warned.insert(ExactString(column)).inserted {
                let text = "column \(quoted(column)) is not used (first in \(file.location(number)))"
                warnings.append(prefixed(source.name, text))
            }
        }

        /// 128 bits of SHA-256 over the row's plainest spelling: two different rows that meet are not to be expected.
        private func digest(_ content: RowContent) -> SIMD2<UInt64> {
            var text = JSONValue.object(content.json).serialized(.compact)
            var hash = SHA256()
            text.withUTF8 { hash.update(bufferPointer: UnsafeRawBufferPointer($0)) }
            return hash.finalize().withUnsafeBytes { $0.loadUnaligned(as: SIMD2<UInt64>.self) }
        }
    }
}

/// Counts of the pass over all rows.
public struct RowStatistics: Sendable, Equatable {
    /// Rows in the files, good and bad.
    public var rows = 0
    /// Rows equal to an earlier one.
    public var duplicates = 0
    public private(set) var dropped: [BadRowReason: Int] = [:]
    /// The first row dropped for each reason, as a line for people.
    public private(set) var examples: [BadRowReason: String] = [:]

    public init() {}

    public mutating func drop(_ row: BadRow) {
        dropped[row.reason, default: 0] += 1
        if examples[row.reason] == nil { examples[row.reason] = row.message }
    }
}
