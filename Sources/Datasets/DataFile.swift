// Which files a data source is made of and how each is written.
import Diagnostics
import Glibc
import Formats

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
    /// Plain text or Markdown.
    case text

    /// By the ending of the name; nil for endings that say nothing.
    init?(pathExtension: String) {
        switch pathExtension {
        case "jsonl", "ndjson", "jsonlines": self = .jsonl
        case "json": self = .json
        case "csv": self = .csv
        case "tsv", "tab": self = .tsv
        case "txt", "text", "md", "markdown": self = .text
        default: return nil
        }
    }

    var isStructured: Bool { self != .text }
    var rowUnit: RowLocation.Unit {
        switch self {
        case .jsonl: .line
        case .json, .csv, .tsv: .row
        case .text: .document
        }
    }
}

/// One mapped file of a source.
struct DataFile: Sendable {
    let mapped: MappedFile
    let format: FileFormat
    /// Position in the list of sources that the person wrote.
    let sourceIndex: Int

    var path: String { mapped.path }

    /// Opens `path` and settles its format: by its ending, else by its first bytes.
    init(path: String, sourceIndex: Int, source: String) throws {
        mapped = try MappedFile(path: path)
        self.sourceIndex = sourceIndex
        let bytes = mapped.bytes
        func refusal(_ text: String) -> UserError { UserError(prefixed(source, "\(escapedForDisplay(path)): \(text)")) }
        if let binary = binaryKind(bytes, path) { throw refusal("is \(binary); give JSONL, JSON, CSV or text") }
        let named = FileFormat(pathExtension: pathExtension(path))
        let first = firstMeaningfulByte(bytes)
        guard let first else { throw refusal("is empty; it should hold at least one row") }
        switch (named, first) {
        case (.json?, UInt8(ascii: "{")): format = .jsonl  // lines of JSON are often named .json
        case (let named?, _): format = named
        case (nil, UInt8(ascii: "[")): format = .json
        case (nil, UInt8(ascii: "{")): format = .jsonl
        case (nil, _): format = .text
        }
    }
}

func prefixed(_ source: String, _ text: String) -> String { source.isEmpty ? text : "\(source): \(text)" }

func pathExtension(_ path: String) -> String {
    let name = path.utf8.lastIndex(of: 0x2F).map { path[path.utf8.index(after: $0)...] } ?? path[...]
    guard let dot = name.utf8.lastIndex(of: 0x2E), dot != name.startIndex else { return "" }
    return name[name.utf8.index(after: dot)...].lowercased()
}

/// Bytes of a leading byte order mark: some editors and spreadsheets write one.
func byteOrderMarkLength(_ bytes: UnsafeRawBufferPointer) -> Int {
    bytes.count >= 3 && bytes[0] == 0xEF && bytes[1] == 0xBB && bytes[2] == 0xBF ? 3 : 0
}

private func firstMeaningfulByte(_ bytes: UnsafeRawBufferPointer) -> UInt8? {
    bytes.dropFirst(byteOrderMarkLength(bytes)).first { !isJSONSpace($0) }
}

@inline(__always)
func isJSONSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 }

/// What a file that is not text is, by its first bytes.
private func binaryKind(_ bytes: UnsafeRawBufferPointer, _ path: String) -> String? {
    func begins(_ magic: [UInt8]) -> Bool { bytes.starts(with: magic) }
    if begins([0x1F, 0x8B]) { return "gzip-compressed; unpack it first" }
    if begins([0x28, 0xB5, 0x2F, 0xFD]) { return "zstd-compressed; unpack it first" }
    if begins(Array("PK\u{3}\u{4}".utf8)) { return "a zip archive (or a spreadsheet); unpack or export it first" }
    if begins(Array("PAR1".utf8)) { return "a Parquet file, which is not read yet" }
    if begins(Array("ARROW1".utf8)) { return "an Arrow file, which is not read yet" }
    if begins([0x80]), bytes.count > 1, bytes[1] <= 5 { return "a pickle, which is never read because it can run code" }
    if begins([0xFF, 0xFE]) || begins([0xFE, 0xFF]) { return "UTF-16 text; save it as UTF-8" }
    return nil
}

/// The files that `paths` name, in order; the files of a folder by name.
///
/// A folder gives its JSONL, JSON, CSV and TSV files; only when it has none, its text files (so that a README beside
/// the data is not training data). Hidden files and folders inside are left out.
func dataFiles(paths: [String], source: String) throws -> [DataFile] {
    if paths.isEmpty { throw UserError(prefixed(source, "no data file given"), .usage) }
    var files: [DataFile] = []
    for (i, path) in paths.enumerated() {
        let name = paths.count > 1 ? "\(source)[\(i)]" : source
        for file in isFolder(path) ? try filesOfFolder(path, name) : [path] {
            files.append(try DataFile(path: file, sourceIndex: i, source: name))
        }
    }
    return files
}

private func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
}

private func filesOfFolder(_ folder: String, _ source: String) throws -> [String] {
    guard let handle = opendir(folder) else {
        throw UserError(prefixed(source, "\(escapedForDisplay(folder)): \(String(cString: strerror(errno)))"))
    }
    defer { closedir(handle) }
    var names: [String] = []
    while let entry = readdir(handle) {
        let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        if !name.hasPrefix("."), !isFolder("\(folder)/\(name)") { names.append(name) }
    }
    names.sort { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    func named(_ accept: (FileFormat) -> Bool) -> [String] {
        names.filter { FileFormat(pathExtension: pathExtension($0)).map(accept) ?? false }.map { "\(folder)/\($0)" }
    }
    let structured = named(\.isStructured)
    let chosen = structured.isEmpty ? named { _ in true } : structured
    if chosen.isEmpty {
        throw UserError(
            prefixed(source, "\(escapedForDisplay(folder)): no .jsonl, .json, .csv, .tsv, .txt or .md file in it"))
    }
    return chosen
}
