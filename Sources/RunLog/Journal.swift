// What a long job has finished, one line of JSON each: appended, never rewritten, so that a kill loses the line under
// way and nothing else.
internal import Diagnostics
public import Formats

/// An append-only file of JSON values, one a line.
public final class Journal {
    public let path: String
    private let file: Appender

    /// Opens or makes the file; a last line that a kill cut short is taken off.
    ///
    /// - Parameter read: gets each earlier row, in order; false for one that is not of this kind of journal.
    /// - Throws: `UserError` for a file that cannot be read or written; (65) for a damaged line, with its number.
    public init(_ path: String, read: (JSONValue) throws -> Bool) throws {
        self.path = path
        var whole = 0
        if fileExists(path) {
            let mapped = try MappedFile(path: path)
            whole = withExtendedLifetime(mapped) { (mapped.bytes.lastIndex(of: lineBreak) ?? -1) + 1 }
        }
        file = try Appender(path, cutTo: whole)
        try forEach(read)
    }

    /// Every row in the order of the file.
    ///
    /// - Parameter body: false for a row that is not of this kind of journal.
    public func forEach(_ body: (JSONValue) throws -> Bool) throws {
        try forEachRow(of: path, remedy: "delete this line, and what it recorded is computed again", body)
    }

    /// Adds a row.
    ///
    /// - Parameter waitsForDisk: whether it survives a power cut as well as a kill; takes milliseconds.
    public func append(_ row: JSONValue, waitsForDisk: Bool = true) throws {
        try file.append(Array(row.serialized().utf8) + [lineBreak])
        if waitsForDisk { try file.sync() }
    }
}

/// The whole lines of a file of JSON values, in order; one without a line break at its end is left out.
///
/// - Parameters:
///   - remedy: what to do about a damaged line.
///   - body: false for a value that has no place in this file.
/// - Throws: `UserError` (65) with path and line, for what is not JSON and where `body` says false.
public func forEachRow(of path: String, remedy: String, _ body: (JSONValue) throws -> Bool) throws {
    let mapped = try MappedFile(path: path)
    defer { withExtendedLifetime(mapped) {} }
    var rest = mapped.bytes[...], number = 0
    while let end = rest.firstIndex(of: lineBreak) {
        number += 1
        guard let row = try? JSONValue.parse(UnsafeRawBufferPointer(rebasing: rest[..<end])), try body(row) else {
            throw UserError("\(path), line \(number): damaged; \(remedy)")
        }
        rest = rest[(end + 1)...]
    }
}

private let lineBreak: UInt8 = 0x0A
