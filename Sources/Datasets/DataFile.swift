// Which files a data source is made of and how each is written.
import Diagnostics
import Formats
import Glibc
import Synchronization

/// How the rows of a file are written down.
public enum FileFormat: String, Sendable, Codable, CaseIterable {
    /// One JSON object a line.
    case jsonl
    /// One JSON array of objects.
    case json
    /// Comma-separated records under a header (RFC 4180: quotes, quoted newlines).
    case csv
    /// The same with tabs.
    case tsv
    case parquet
    /// Arrow's file or streaming format.
    case arrow
    /// Plain text or Markdown.
    case text

    /// By the ending of the name; nil for endings that say nothing.
    init?(pathExtension: String) {
        switch pathExtension {
        case "jsonl", "ndjson", "jsonlines": self = .jsonl
        case "json": self = .json
        case "csv": self = .csv
        case "tsv", "tab": self = .tsv
        case "parquet", "pq": self = .parquet
        case "arrow", "feather", "ipc": self = .arrow
        case "txt", "text", "md", "markdown": self = .text
        default: return nil
        }
    }

    var isStructured: Bool { self != .text }
    var rowUnit: RowLocation.Unit {
        switch self {
        case .jsonl, .csv, .tsv: .line
        case .json, .parquet, .arrow: .row
        case .text: .document
        }
    }
}

/// One mapped file of a source.
struct DataFile: Sendable {
    /// As it lies on the disk, perhaps packed.
    let mapped: MappedFile
    /// What rows are read from.
    let content: DataContent
    let format: FileFormat
    /// Between the columns of CSV.
    let separator: UInt8
    /// Position in the list of sources that the person wrote.
    let sourceIndex: Int

    var path: String { mapped.path }

    /// Opens `path` and settles its format: by its ending, else by its first bytes.
    init(path: String, sourceIndex: Int, source: String) throws {
        mapped = try MappedFile(path: path)
        self.sourceIndex = sourceIndex
        func refusal(_ text: String) -> UserError { UserError(prefixed(source, "\(escapedForDisplay(path)): \(text)")) }
        if let columnar = ColumnarFormat(mapped.bytes) {
            content = DataContent(mapped) { try columnar.jsonLines($0) }
            (format, separator) = (columnar == .parquet ? .parquet : .arrow, 0)
            return
        }
        let packing = FilePacking(mapped.bytes)
        let name = packing.map { path.droppingExtension(among: $0.pathExtensions) } ?? path
        let start = try packing?.prefix(of: mapped, count: Self.sample) ?? Array(mapped.bytes.prefix(Self.sample))
        let binary = start.withUnsafeBytes { binaryKind($0) }
        if let binary { throw refusal("is \(binary); give Parquet, Arrow, JSONL, JSON, CSV or text") }
        let first = firstMeaningfulByte(start) ?? (packing == nil ? firstMeaningfulByte(mapped.bytes) : nil)
        guard let first else { throw refusal("is empty; it should hold at least one row") }
        let named = FileFormat(pathExtension: pathExtension(name))
        if named == .parquet || named == .arrow {
            throw refusal(
                "is named as a \(named == .parquet ? "Parquet" : "Arrow") file and is none; get the file again")
        }
        switch (named, first) {
        case (.json?, UInt8(ascii: "{")): format = .jsonl  // lines of JSON are often named .json
        case (let named?, _): format = named
        case (nil, UInt8(ascii: "[")): format = .json
        case (nil, UInt8(ascii: "{")): format = .jsonl
        case (nil, _): format = .text
        }
        // All of a JSON array may stand in one line; elsewhere a longer line is a row too long to be read.
        let longestLine = format == .json ? nil : maxRowBytes
        if let packing {
            content = DataContent(mapped) { try packing.unpacked($0, longestLine: longestLine) }
        } else {
            content = DataContent(mapped, nil)
        }
        separator = format == .csv ? start.withUnsafeBytes { sniffedSeparator($0) } : UInt8(ascii: "\t")
    }

    /// Bytes that are looked at to tell what a file is.
    private static let sample = 1 << 16
}

/// The bytes of a file that rows are read from: unpacked when they are first wanted, which a run whose tokens are kept
/// never does.
final class DataContent: Sendable {
    private let file: MappedFile
    private let unpack: (@Sendable (MappedFile) throws -> MappedFile)?
    private let unpacked = Mutex<MappedFile?>(nil)

    /// - Parameter unpack: nil where rows are read from the file itself.
    init(_ file: MappedFile, _ unpack: (@Sendable (MappedFile) throws -> MappedFile)?) {
        (self.file, self.unpack) = (file, unpack)
    }

    func get() throws -> MappedFile {
        guard let unpack else { return file }
        return try unpacked.withLock { unpacked in
            if let unpacked { return unpacked }
            let made = try unpack(file)
            unpacked = made
            return made
        }
    }
}

func prefixed(_ source: String, _ text: String) -> String { source.isEmpty ? text : "\(source): \(text)" }

func pathExtension(_ path: String) -> String {
    let name = path.utf8.lastIndex(of: 0x2F).map { path[path.utf8.index(after: $0)...] } ?? path[...]
    guard let dot = name.utf8.lastIndex(of: 0x2E), dot != name.startIndex else { return "" }
    return name[name.utf8.index(after: dot)...].lowercased()
}

extension String {
    /// Without the part behind the last dot, where that is one of `endings`.
    fileprivate func droppingExtension(among endings: [String]) -> String {
        let ending = pathExtension(self)
        return endings.contains(ending) ? String(decoding: utf8.dropLast(ending.utf8.count + 1), as: UTF8.self) : self
    }
}

/// The format that a file's name tells, packed or not.
private func namedFormat(_ name: String) -> FileFormat? {
    let packed = FilePacking.allCases.flatMap(\.pathExtensions)
    return FileFormat(pathExtension: pathExtension(name.droppingExtension(among: packed)))
}

/// What stands between the columns of a CSV file: of comma, tab, semicolon and bar, the one that gives its first records
/// the most columns, and all of them equally many; a comma where none does.
private func sniffedSeparator(_ bytes: UnsafeRawBufferPointer) -> UInt8 {
    var best: (separator: UInt8, columns: Int) = (UInt8(ascii: ","), 1)
    for separator in [",", "\t", ";", "|"].map(UInt8.init(ascii:)) {
        var scanner = RowScanner(bytes, .csv, textUnit: .file, separator: separator)
        var counts: [Int] = []
        while counts.count < 20, let record = scanner.next() {
            // The last record of the sample may be cut off.
            if record.bytes.upperBound == bytes.count, !counts.isEmpty { break }
            // A record that is no CSV with this separator speaks against it.
            let range = UnsafeRawBufferPointer(rebasing: bytes[record.bytes])
            guard record.fault == nil, let fields = try? csvFields(range, separator: separator) else { break }
            counts.append(fields.count)
        }
        let agreeing = counts.prefix { $0 == counts[0] }.count
        // Rows with a column too many are told of later; the first two decide.
        if let columns = counts.first, columns > best.columns, agreeing >= min(2, counts.count) {
            best = (separator, columns)
        }
    }
    return best.separator
}

/// Bytes of a leading byte order mark: some editors and spreadsheets write one.
func byteOrderMarkLength(_ bytes: UnsafeRawBufferPointer) -> Int {
    bytes.count >= 3 && bytes[0] == 0xEF && bytes[1] == 0xBB && bytes[2] == 0xBF ? 3 : 0
}

private func firstMeaningfulByte(_ bytes: UnsafeRawBufferPointer) -> UInt8? {
    bytes.dropFirst(byteOrderMarkLength(bytes)).first { !isJSONSpace($0) }
}

private func firstMeaningfulByte(_ bytes: [UInt8]) -> UInt8? { bytes.withUnsafeBytes { firstMeaningfulByte($0) } }

@inline(__always)
func isJSONSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 }

/// What a file that is not text is, by its first bytes.
private func binaryKind(_ bytes: UnsafeRawBufferPointer) -> String? {
    func begins(_ magic: [UInt8]) -> Bool { bytes.starts(with: magic) }
    if FilePacking(bytes) != nil { return "packed twice; unpack it first" }
    if let archive = archiveKind(bytes) { return archive }
    if ColumnarFormat(bytes) != nil { return "a packed Parquet or Arrow file; unpack it first" }
    if begins([0x80]), bytes.count > 1, bytes[1] <= 5 { return "a pickle, which is never read because it can run code" }
    if begins([0xFF, 0xFE]) || begins([0xFE, 0xFF]) { return "UTF-16 text; save it as UTF-8" }
    return nil
}

/// What an archive or packed file that is not read is, and what unpacks it.
private func archiveKind(_ bytes: UnsafeRawBufferPointer) -> String? {
    let kinds: [(magic: [UInt8], offset: Int, text: String)] = [
        (Array("PK\u{3}\u{4}".utf8), 0, "a zip archive (or a spreadsheet); unpack it with unzip, or export the sheet"),
        (Array("PK\u{5}\u{6}".utf8), 0, "a zip archive with nothing in it"),
        (Array("ustar\0".utf8), 257, "a tar archive; unpack it with tar -xf and give its files or folder"),
        (Array("ustar  \0".utf8), 257, "a tar archive; unpack it with tar -xf and give its files or folder"),
        (Array("1AY&SY".utf8), 4, "bzip2-compressed; unpack it with bunzip2"),
        ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0], 0, "xz-compressed; unpack it with unxz"),
        ([0x37, 0x7A, 0xBC, 0xAF, 0x27, 0x1C], 0, "a 7-Zip archive; unpack it with 7z x"),
        (Array("Rar!\u{1A}\u{7}".utf8), 0, "a RAR archive; unpack it with unrar x"),
        ([0x04, 0x22, 0x4D, 0x18], 0, "lz4-compressed; unpack it with unlz4"),
    ]
    return kinds.first { bytes.dropFirst($0.offset).starts(with: $0.magic) }?.text
}

/// The files that `paths` name, in order; the files of a folder by name.
///
/// A folder gives its Parquet, Arrow, JSONL, JSON, CSV and TSV files, packed or not; only when it has none, its text files (so that a
/// README beside the data is not training data). Hidden files and folders inside are left out.
///
/// - Parameter split: of a folder only the files of this split: those in its folder `split` or `data/split`, else those of
///   the folder or its `data` whose names begin with it (`train.jsonl`, `train-00000-of-00002.csv`). `config:split` looks in
///   the folder `config`.
func dataFiles(paths: [String], source: String, split: String? = nil) throws -> [DataFile] {
    if paths.isEmpty { throw UserError(prefixed(source, "no data file given"), .usage) }
    if let split, !paths.contains(where: folderExists) {
        throw UserError(
            prefixed(source, "split \(quoted(split)) has no effect, as no folder is given; remove it"), .usage)
    }
    var files: [DataFile] = []
    for (i, path) in paths.enumerated() {
        let name = paths.count > 1 ? "\(source)[\(i)]" : source
        let found =
            folderExists(path) ? try split.map { try splitFiles(path, $0, name) } ?? rowFiles(path, name) : [path]
        for file in found { files.append(try DataFile(path: file, sourceIndex: i, source: name)) }
    }
    return files
}

/// Paths of a folder's files of rows; empty when it has none.
private func rowFiles(in folder: String) throws -> [String] {
    // What `datasets` writes beside the rows that it saves.
    let others = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"]
    let names = try listFolder(folder).filter {
        !$0.hasPrefix(".") && !others.contains($0) && !folderExists("\(folder)/\($0)")
    }
    func named(_ accept: (FileFormat) -> Bool) -> [String] {
        names.filter { namedFormat($0).map(accept) ?? false }.map { "\(folder)/\($0)" }
    }
    let structured = named(\.isStructured)
    return structured.isEmpty ? named { _ in true } : structured
}

/// Names of the folders in a folder that hold files of rows, hidden ones left out.
private func folders(in folder: String) throws -> [String] {
    try listFolder(folder).filter {
        let path = joinPath(folder, $0)
        return try !$0.hasPrefix(".") && folderExists(path) && !rowFiles(in: path).isEmpty
    }
}

private func listed(_ names: [String]) -> String {
    names.prefix(6).map { quoted($0) }.joined(separator: ", ") + (names.count > 6 ? ", ..." : "")
}

extension DataSource {
    /// Of each folder among the paths the folders in it, whose files of rows are not read: a line for people where there are
    /// some. A split says itself where it looks.
    public func folderRemarks() throws -> [String] {
        if split != nil { return [] }
        return try paths.compactMap { path in
            let inner = folderExists(path) ? try folders(in: path) : []
            if inner.isEmpty { return nil }
            return prefixed(
                name,
                "\(escapedForDisplay(path)): its own folders \(listed(inner)) are not read; give them as data, too, or name a split"
            )
        }
    }
}

private func rowFiles(_ folder: String, _ source: String) throws -> [String] {
    let files = try rowFiles(in: folder)
    if files.isEmpty {
        let kinds = "no .parquet, .arrow, .jsonl, .json, .csv, .tsv, .txt or .md file in it"
        let inner = try folders(in: folder)
        let hint = inner.isEmpty ? "" : ", but in its folders \(listed(inner)); give one of them, or name a split"
        throw UserError(prefixed(source, "\(escapedForDisplay(folder)): \(kinds)\(hint)"))
    }
    return files
}

private func splitFiles(_ folder: String, _ split: String, _ source: String) throws -> [String] {
    let parts = split.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    let root = parts.count > 1 ? joinPath(folder, parts[0]) : folder, wanted = parts[parts.count - 1]
    for place in [joinPath(root, wanted), joinPath(root, "data/\(wanted)")] where !wanted.isEmpty && folderExists(place)
    {
        let files = try rowFiles(in: place)
        if !files.isEmpty { return files }
    }
    var found: [String] = []
    for place in [root, joinPath(root, "data")] where folderExists(place) {
        let files = try rowFiles(in: place)
        let chosen = files.filter { path in
            let name = fileName(of: path)
            guard name.hasPrefix(wanted), !wanted.isEmpty else { return false }
            return [".", "-", "_"].contains(name.dropFirst(wanted.count).first)
        }
        if !chosen.isEmpty { return chosen }
        found += files.map { fileName(of: $0) }
    }
    let names =
        found.isEmpty ? "no file of rows in it" : "found \(found.prefix(6).map { quoted($0) }.joined(separator: ", "))"
    throw UserError(prefixed(source, "\(escapedForDisplay(root)): no files of the split \(quoted(wanted)); \(names)"))
}
