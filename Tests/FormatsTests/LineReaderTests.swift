// Lines of text files: ends, marks, limits and faults.
import Formats
import Testing

@Suite struct LineReaderTests {
    private func lines(_ bytes: [UInt8], maxLineBytes: Int = 1 << 20) throws -> [LineReader.Line] {
        try withTemporaryFile(bytes, "x.jsonl") { path in
            let reader = try LineReader(path: path, maxLineBytes: maxLineBytes)
            var lines: [LineReader.Line] = []
            while let line = try reader.next() { lines.append(line) }
            return lines
        }
    }

    @Test(arguments: [
        ("", []), ("a", ["a"]), ("a\n", ["a"]), ("a\nb", ["a", "b"]), ("a\r\nb\r\n", ["a", "b"]), ("\n\n", ["", ""]),
        ("\u{FEFF}a\n\u{FEFF}b", ["a", "\u{FEFF}b"]), ("a\rb\n", ["a\rb"]), ("\u{FEFF}", [""]),
        ("x\u{2028}y\n", ["x\u{2028}y"]),
    ])
    func splits(_ text: String, _ expected: [String]) throws {
        #expect(try lines(Array(text.utf8)).map { ExactString($0.text) } == expected.map { ExactString($0) })
    }

    @Test func countsAcrossBufferBoundaries() throws {
        let texts = (0..<3000).map { String(repeating: "é", count: ($0 * 7919) % 700) }
        let lines = try lines(Array(texts.joined(separator: "\n").utf8))
        #expect(lines.map(\.text) == texts && lines.map(\.number) == Array(1...3000))
        #expect(lines[2].offset == texts[0].utf8.count + texts[1].utf8.count + 2)
        let long = String(repeating: "x", count: 900_000)
        #expect(try self.lines(Array("a\n\(long)\nb".utf8)).map(\.text) == ["a", long, "b"])
    }

    @Test(arguments: [
        (Array("a\nb".utf8) + [0xC3, 0x28], "line 2: not UTF-8 at byte 2"),
        (Array("a\n\nx\0".utf8), "line 3: contains a NUL"),
        ([0xFF, 0xFE, 0x61, 0x00], "UTF-16"), (Array("a\nbbbbbbbbbb\nc".utf8), "line 2: longer than 8 bytes"),
        (Array("a\nbbbbbbbbbb".utf8), "line 2: longer"), ([0xED, 0xA0, 0x80], "line 1: not UTF-8"),
    ])
    func refuses(_ bytes: [UInt8], _ reason: String) throws {
        let error = try #require(throws: (any Error).self) { try lines(bytes, maxLineBytes: 8) }
        #expect("\(error)".contains(reason), "said: \(error)")
    }
}
