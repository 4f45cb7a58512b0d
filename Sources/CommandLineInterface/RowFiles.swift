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
            if line.text.utf8.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) { continue }
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
        if let file { try file.append(line + "\n") } else { try StandardOutput.write(line + "\n") }
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
    func convert(_ transform: (JSONValue, RowPlace) throws -> String) throws {
        let rows = try JSONLinesInput(input)
        let lines = try LinesOutput(output)
        while let (line, row) = try rows.next() {
            try lines.write(try transform(row, RowPlace(file: rows.name, line: line)))
        }
        try lines.finish()
    }
}
