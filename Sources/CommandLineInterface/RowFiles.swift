// Rows in, rows out: JSON lines from and to files, or standard input and output for `-`.
internal import ArgumentParser
internal import Diagnostics
public import Formats

/// Reads a file of JSON objects, one a line; blank lines are passed over.
public struct JSONLinesInput {
    private let lines: LineReader
    /// How messages name the file.
    public let name: String

    /// - Parameter path: `-` is standard input.
    public init(_ path: String) throws {
        (lines, name) = (try LineReader(path: path == "-" ? "/dev/stdin" : path), path == "-" ? "standard input" : path)
    }

    /// The next row and its line number (from 1), nil at the end.
    ///
    /// - Throws: `UserError` that names file and line.
    public func next() throws -> (line: Int, row: JSONValue)? {
        while let line = try lines.next() {
            guard line.text.utf8.contains(where: { $0 != 0x20 && $0 != 0x09 && $0 != 0x0D }) else { continue }
            do {
                return (line.number, try JSONValue.parse(line.text))
            } catch {
                throw UserError("\(name), line \(line.number): \(error)")
            }
        }
        return nil
    }
}

/// Writes lines to a file that appears complete or not at all, or to standard output.
public struct LinesOutput {
    private let file: OutputFile?

    /// - Parameter path: `-` is standard output.
    public init(_ path: String) throws { file = path == "-" ? nil : try OutputFile(replacing: path) }

    public func write(_ line: String) throws {
        try write(Array((line + "\n").utf8))
    }

    /// Writes bytes as they are, line break included.
    func write(_ bytes: [UInt8]) throws {
        if let file { try file.append(bytes) } else { try StandardOutput.write(bytes) }
    }

    /// Puts the file in place; without it the file stays as it was.
    public func finish() throws { try file?.close() }
}

/// Where a row stands, for messages.
struct RowPlace: CustomStringConvertible {
    let file: String
    let line: Int

    var description: String { "\(file), line \(line)" }

    func error(_ message: String) -> UserError { UserError("\(self): \(message)") }
    func wants(_ example: String) -> UserError { error("not a row of the form \(example)") }
}

/// `--input` and `--output` of verbs that turn rows into lines.
struct RowFileOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The rows; '-' is standard input.", valueName: "file"), completion: .file())
    var input: String = "-"

    @Option(help: ArgumentHelp("Where the lines go; '-' is standard output.", valueName: "file"), completion: .file())
    var output: String = "-"

    /// Writes one line for each row, in order; the output file appears when all rows are done.
    ///
    /// - Parameter transform: appends the line of a row, without line break.
    func convert(_ transform: (JSONValue, RowPlace, inout [UInt8]) throws -> Void) throws {
        let rows = try JSONLinesInput(input)
        let lines = try LinesOutput(output)
        var line: [UInt8] = []
        while let (number, row) = try rows.next() {
            line.removeAll(keepingCapacity: true)
            try transform(row, RowPlace(file: rows.name, line: number), &line)
            line.append(0x0A)
            try lines.write(line)
        }
        try lines.finish()
    }
}
