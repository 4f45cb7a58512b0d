// What a run has finished, one line of JSON each: appended, never rewritten, so that a kill loses the line under way
// and nothing else.
public import Formats

/// An append-only file of JSON objects.
public final class Journal {
    /// What earlier starts wrote.
    public let earlier: [JSONValue]
    private let file: OutputFile

    /// Opens or makes the file; a last line that a kill cut short is taken off.
    ///
    /// - Throws: `UserError` for a file that cannot be read or written, or one with a damaged line inside.
    public init(_ path: String) throws {
        var whole = 0
        var rows: [JSONValue] = []
        if fileExists(path) {
            let bytes = try readFile(path, maxBytes: 1 << 30)
            var start = 0
            for (i, byte) in bytes.enumerated() where byte == 0x0A {
                rows.append(try JSONValue.parse(Array(bytes[start..<i])))
                (start, whole) = (i + 1, i + 1)
            }
        }
        earlier = rows
        file = try OutputFile(appendingTo: path, keeping: fileExists(path) ? whole : nil)
    }

    /// Writes a row and waits until it is on the disk.
    public func append(_ row: JSONObject) throws {
        try file.append(JSONValue.object(row).serialized() + "\n")
        try file.sync()
    }
}
