// Rows into files: JSON lines, a JSON array, CSV.
import Diagnostics
public import Formats

/// Writes a file of rows that appears complete or not at all. The format is the one that the name says.
public final class RowWriter {
    private let format: FileFormat
    /// CSV: names of the columns, in the order of the header.
    private let columns: [String]
    private let write: (String) throws -> Void
    private var rows = 0

    /// Formats that can be written.
    public static let formats: [FileFormat] = [.jsonl, .json, .csv, .tsv]

    /// - Throws: `UserError` for a name whose format is not written.
    public static func format(path: String) throws -> FileFormat {
        if path == "-" { return .jsonl }
        let ending = pathExtension(path)
        if let format = FileFormat(pathExtension: ending), formats.contains(format) { return format }
        if FilePacking.allCases.contains(where: { $0.pathExtensions.contains(ending) }) {
            throw UserError("\(path): packed files are read, not written; write the file, then pack it", .usage)
        }
        throw UserError("\(path): rows are written as .jsonl, .json, .csv or .tsv; give one of these endings", .usage)
    }

    /// - Parameters:
    ///   - columns: of CSV, all columns that any row has.
    ///   - write: takes the text, piece by piece.
    public init(_ format: FileFormat, columns: [String], write: @escaping (String) throws -> Void) throws {
        (self.format, self.columns, self.write) = (format, columns, write)
        if isTable { try write(line(columns)) }
    }

    private var isTable: Bool { format == .csv || format == .tsv }

    public func append(_ row: JSONObject) throws {
        defer { rows += 1 }
        switch format {
        case .csv, .tsv: try write(line(columns.map { row[$0].map(Self.field) ?? "" }))
        case .json: try write((rows == 0 ? "[\n" : ",\n") + JSONValue.object(row).serialized(.compact))
        default: try write(JSONValue.object(row).serialized(.compact) + "\n")
        }
    }

    /// Writes what stands behind the last row.
    public func finish() throws { if format == .json { try write(rows == 0 ? "[]\n" : "\n]\n") } }

    private func line(_ fields: [String]) -> String {
        // A record of one empty field would be a blank line, which readers pass over.
        if fields == [""] { return "\"\"\n" }
        return csvLine(fields, separator: format == .tsv ? "\t" : ",")
    }

    /// Text as it is, nothing for null, JSON of everything else.
    private static func field(_ value: JSONValue) -> String {
        switch value {
        case .string(let text): text
        case .null: ""
        default: value.serialized(.compact)
        }
    }
}
