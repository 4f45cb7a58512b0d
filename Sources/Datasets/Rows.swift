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
    /// Also takes rows that no recipe imitates: to look at them or to turn them into others.
    public var takesEveryKind: Bool
    /// Of folders: only the files of this split (`train`), or of a configuration's (`main:train`).
    public var split: String?
    /// Done to every row after it is read, in this order.
    public var transforms: [RowTransform]

    public init(
        _ paths: [String], name: String = "", kind: RowKind? = nil, columnMap: [String: String] = [:],
        badRows: BadRowPolicy = .stop, deduplicate: Bool = false, textUnit: TextUnit = .file,
        takesEveryKind: Bool = false, split: String? = nil,
        transforms: [RowTransform] = []
    ) {
        (self.paths, self.name, self.kind, self.columnMap) = (paths, name, kind, columnMap)
        (self.badRows, self.deduplicate, self.textUnit) = (badRows, deduplicate, textUnit)
        (self.takesEveryKind, self.split, self.transforms) = (takesEveryKind, split, transforms)
    }

    /// How messages call the source of a file: with its position where there are several paths.
    func name(of file: DataFile) -> String { paths.count > 1 ? "\(name)[\(file.sourceIndex)]" : name }

    func files() throws -> [DataFile] { try dataFiles(paths: paths, source: name, split: split) }

    /// Whether all files hold rows that are trained by imitation.
    public func isImitated() throws -> Bool {
        let columns = try ColumnMap(columnMap, source: name)
        return try files().allSatisfy { file in
            try RowFile(
                file, source: name(of: file), kind: kind, columns: columns, textUnit: textUnit, transforms: transforms
            ).kind.isImitated
        }
    }

    /// Whether any file is plain text, whose rows are what `textUnit` says.
    public func hasPlainText() throws -> Bool {
        try files().contains { $0.format == .text }
    }
}

/// The usable rows of a source, by index. Only their places are kept in memory (24 bytes a row); the files stay mapped.
public struct Rows: Sendable {
    private let files: [RowFile]
    private let places: [Place]
    /// Rows read, dropped and doubled.
    public let statistics: RowStatistics
    /// Things to tell the person once: folders in folders, columns that nothing uses, keys that rows have twice.
    public let warnings: [String]
    /// What the warnings say of rows, each with the first row that it is said of.
    let remarks: [RowRemark]

    private struct Place { var file: Int32, number: Int32, start: Int, end: Int }

    /// Reads every row once and checks it.
    ///
    /// - Parameter threads: rows are checked on so many; what comes out does not depend on it.
    /// - Throws: `UserError` for files that cannot be read; `BadRow` for the first bad row under `.stop`, and for one that
    ///   hides those behind it; `UserError` when no row is left.
    public init(_ source: DataSource, threads: Int = 1) throws {
        try self.init(source, source.files(), threads: threads)
    }

    /// - Parameter files: those that `source` names.
    init(_ source: DataSource, _ files: [DataFile], threads: Int) throws {
        let columns = try ColumnMap(source.columnMap, source: source.name)
        self.files = try files.map { file in
            try RowFile(
                file, source: source.name(of: file), kind: source.kind, columns: columns, textUnit: source.textUnit,
                transforms: source.transforms)
        }
        if !source.takesEveryKind, let file = self.files.first(where: { !$0.kind.isImitated }) {
            throw notImitated(file)
        }
        var pass = Pass(source)
        for (i, file) in self.files.enumerated() { try pass.read(file, Int32(i), threads: threads) }
        if pass.places.isEmpty {
            let why =
                DatasetStatistics(pass.statistics).whyNoneIsLeft
                ?? "no rows in \(source.paths.map { escapedForDisplay($0) }.joined(separator: ", "))"
            throw UserError(prefixed(source.name, why))
        }
        (places, statistics, remarks) = (pass.places, pass.statistics, pass.remarks)
        warnings = try source.folderRemarks() + remarks.map { $0.warning(source.name) }
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

    /// Which of the paths in the list of sources the row comes from.
    public func source(_ index: Int) -> Int { files[Int(places[index].file)].file.sourceIndex }

    /// Kinds of rows in the files, each once.
    public var kinds: Set<RowKind> { Set(files.map(\.kind)) }

    /// Which of the files the row stands in, and its number there.
    func place(_ index: Int) -> (file: Int, number: Int) { (Int(places[index].file), Int(places[index].number)) }

    /// The source's name with its position when there are several: for messages about this row.
    public func sourceName(_ index: Int) -> String { files[Int(places[index].file)].source }

    /// The files with what was recognised in them.
    public var fileDescriptions: [(path: String, format: FileFormat, kind: RowKind)] {
        files.map { ($0.file.path, $0.file.format, $0.kind) }
    }

    /// The pass over all rows: scanned in one go, checked on several threads, counted in their order.
    private struct Pass {
        var places: [Place] = []
        var statistics = RowStatistics()
        var remarks: [RowRemark] = []
        private let source: DataSource
        private var seen: Set<SIMD2<UInt64>> = []
        private var told: Set<RowRemark.Subject> = []

        init(_ source: DataSource) { self.source = source }

        mutating func read(_ file: RowFile, _ index: Int32, threads: Int) throws {
            var scanner = file.scanner()
            let size = 256, deduplicates = source.deduplicate
            while true {
                // So many at a time: a small packed file may hold a billion rows, none of which is good.
                let rows = scanner.next(1 << 16)
                if rows.isEmpty { return }
                try runInOrder((rows.count + size - 1) / size, threads: threads) { part in
                    rows[part * size..<min((part + 1) * size, rows.count)].map { CheckedRow($0, file, deduplicates) }
                } consume: { part in
                    for row in part { try count(row, file, index) }
                }
            }
        }

        private mutating func count(_ row: CheckedRow, _ file: RowFile, _ index: Int32) throws {
            statistics.read(source: file.file.sourceIndex)
            if let fault = row.scanned.fault {
                let bad = BadRow(fault, source: file.source, location: file.location(row.scanned.number))
                // Under `.drop` too, where rows would be lost that nobody has looked at.
                if source.badRows == .stop || row.scanned.hidesOthers, fault.reason != .filtered { throw bad }
                return statistics.drop(bad, stage: fault.stage, source: file.file.sourceIndex)
            }
            for subject in row.remarks where told.insert(subject).inserted {
                remarks.append(RowRemark(subject: subject, place: file.location(row.scanned.number)))
            }
            if let digest = row.digest, !seen.insert(digest).inserted {
                statistics.duplicates += 1
                return
            }
            statistics.keep(source: file.file.sourceIndex)
            let bytes = row.scanned.bytes
            guard let number = Int32(exactly: row.scanned.number) else {
                throw UserError(
                    "\(escapedForDisplay(file.file.path)): has more than \(Int32.max) lines; split the file")
            }
            places.append(Place(file: index, number: number, start: bytes.lowerBound, end: bytes.upperBound))
        }
    }
}

/// Rows of a kind that is not trained by imitation, where rows to imitate are wanted.
private func notImitated(_ file: RowFile) -> UserError {
    let hint =
        switch file.kind {
        case .unpaired, .scored: "to imitate every completion set kind: prompt_completion"
        case .classification: "to imitate the texts set kind: text"
        case .preference, .autotrainPreference: "`needletail data convert --to chat` makes chats of the chosen answers"
        default: "give rows with answers"
        }
    return UserError(
        prefixed(
            file.source,
            "\(escapedForDisplay(file.file.path)): rows of kind \(file.kind.rawValue) cannot be imitated; \(hint)"))
}

/// What is told of rows once, and the first row that it is told of.
struct RowRemark: Equatable {
    struct Subject: Hashable {
        enum Kind: String { case unusedColumn = "unused_column", repeatedKey = "repeated_key" }

        let kind: Kind
        /// Of the column or key.
        let name: ExactString

        init(_ kind: Kind, _ name: String) { (self.kind, self.name) = (kind, ExactString(name)) }
    }

    let subject: Subject
    let place: RowLocation

    func warning(_ source: String) -> String {
        let name = quoted(subject.name.string)
        let text =
            switch subject.kind {
            case .unusedColumn: "column \(name) is not used"
            case .repeatedKey: "key \(name) appears twice in an object, and the last counts"
            }
        return prefixed(source, "\(text) (first in \(place))")
    }
}

/// A row after its check, which depends on nothing but the row.
private struct CheckedRow: Sendable {
    /// With the fault that the check found.
    var scanned: ScannedRow
    var remarks: [RowRemark.Subject] = []
    var digest: SIMD2<UInt64>?

    init(_ row: ScannedRow, _ file: RowFile, _ wantsDigest: Bool) {
        scanned = row
        if row.fault != nil { return }
        do throws(RowFault) {
            var repeatedKey: String?
            let object = try file.object(row.bytes, repeatedKey: &repeatedKey)
            let content = try file.content(object)
            if object.count > file.kind.requiredColumns.count || !file.columnMap.isEmpty {
                remarks = file.unusedColumns(object).map { .init(.unusedColumn, $0) }
            }
            if let repeatedKey { remarks.append(.init(.repeatedKey, repeatedKey)) }
            if wantsDigest { digest = Self.digest(content) }
        } catch {
            scanned.fault = error
        }
    }

    /// 128 bits of SHA-256 over the row's plainest spelling: two different rows that meet are not to be expected.
    private static func digest(_ content: RowContent) -> SIMD2<UInt64> {
        var text = JSONValue.object(content.json).serialized(.compact)
        var hash = SHA256()
        text.withUTF8 { hash.update(bufferPointer: UnsafeRawBufferPointer($0)) }
        return hash.finalize().withUnsafeBytes { $0.loadUnaligned(as: SIMD2<UInt64>.self) }
    }
}

/// Counts of the pass over all rows.
public struct RowStatistics: Sendable, Equatable {
    /// Rows in the files, good and bad.
    public var rows = 0
    /// Rows equal to an earlier one.
    public var duplicates = 0
    public private(set) var dropped: [BadRowReason: Int] = [:]
    /// The first row dropped for each reason.
    public private(set) var examples: [BadRowReason: BadRow] = [:]
    /// Rows that each transform left out, by the transform's text.
    public private(set) var filtered: [String: Int] = [:]
    /// By the position of the path in the list of sources.
    public private(set) var sources: [Source] = []

    /// Rows of one path.
    public struct Source: Sendable, Equatable {
        public var rowsIn = 0
        /// Neither bad nor left out nor equal to an earlier row.
        public var rowsOut = 0

        public init(rowsIn: Int = 0, rowsOut: Int = 0) { (self.rowsIn, self.rowsOut) = (rowsIn, rowsOut) }
    }

    public init() {}

    /// As they were counted before.
    init(
        rows: Int, duplicates: Int, dropped: [BadRowReason: Int], examples: [BadRowReason: BadRow],
        filtered: [String: Int], sources: [Source]
    ) {
        (self.rows, self.duplicates, self.dropped, self.examples) = (rows, duplicates, dropped, examples)
        (self.filtered, self.sources) = (filtered, sources)
    }

    /// Counts a row that was read.
    mutating func read(source: Int) {
        rows += 1
        while sources.count <= source { sources.append(Source()) }
        sources[source].rowsIn += 1
    }

    /// Counts a row that can be used.
    mutating func keep(source: Int) { sources[source].rowsOut += 1 }

    mutating func drop(_ row: BadRow, stage: String?, source: Int) {
        dropped[row.reason, default: 0] += 1
        if examples[row.reason] == nil { examples[row.reason] = row }
        if let stage { filtered[stage, default: 0] += 1 }
    }
}
