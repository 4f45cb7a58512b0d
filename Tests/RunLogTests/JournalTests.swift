// Journals: what a kill leaves behind is taken up, what is damaged is named.
import Diagnostics
import Formats
import RunLog
import Testing

@Suite struct JournalTests {
    private let scratch = Scratch()
    private var path: String { scratch.path + "/journal.jsonl" }

    /// Opens the journal; rows without a number are none of its kind.
    private func open() throws -> (journal: Journal, rows: [Int]) {
        var rows: [Int] = []
        let journal = try Journal(path) { row in row["row"]?.int.map { rows.append($0) } != nil }
        return (journal, rows)
    }

    @Test(arguments: [true, false]) func rowsComeBack(_ waitsForDisk: Bool) throws {
        for count in 0..<4 {
            let (journal, rows) = try open()
            #expect(rows == Array(0..<count))
            try journal.append(["row": .init(count)], waitsForDisk: waitsForDisk)
            var again: [Int] = []
            try journal.forEach {
                again.append($0["row"]!.int!)
                return true
            }
            #expect(again == Array(0...count))
        }
        #expect(text(path) == "{\"row\":0}\n{\"row\":1}\n{\"row\":2}\n{\"row\":3}\n")
    }

    /// Whatever a kill leaves of the last line: half an object, a whole one without its break, half a character, zeros.
    @Test(arguments: ["{\"row\":3", "{\"row\":3}", "{\"\u{C3}", "\0\0\0"]) func aCutLineIsTakenOff(_ tail: String)
        throws
    {
        let whole = "{\"row\":0}\n{\"row\":1}\n"
        // The first byte of two, where the text ends with a character of two.
        write(Array(whole.utf8) + (tail.utf8.last! >= 0x80 ? Array(tail.utf8.dropLast()) : Array(tail.utf8)), path)
        let (journal, rows) = try open()
        #expect(rows == [0, 1])
        try journal.append(["row": 4])
        #expect(text(path) == whole + "{\"row\":4}\n")
    }

    @Test(arguments: ["{\"ro", "", "{\"line\":1}", "\0\0", "{\"row\":1}{\"row\":2}"])
    func aDamagedLineIsNamed(_ line: String) throws {
        let content = Array("{\"row\":0}\n\(line)\n{\"row\":2}\n".utf8)
        write(content, path)
        let error = #expect(throws: UserError.self) { try open() }
        #expect(
            error?.message == "\(path), line 2: damaged; delete this line, and what it recorded is computed again"
                && error?.exitStatus == .badData)
        #expect(bytes(path) == content, "nothing is changed")
    }
}
