// Metrics rows, TensorBoard's bytes, and both files after a resume.

import Diagnostics
import Formats
import RunLog
import Testing

private let fixture: JSONValue = {
    let folder = #filePath.split(separator: "/").dropLast().joined(separator: "/")
    guard let json = try? JSONValue.parse(text("/\(folder)/Fixtures/tensorboard.json")) else { return nil }
    return json
}()

private func hex(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

@Suite struct TensorBoard {
    @Test func checksumsEqualThePackages() throws {
        let cases = try #require(fixture["crc32c"]?.array)
        #expect(cases.count == 5)
        for item in cases {
            let row = try #require(item.array), digits = Array(try #require(row[0].string).utf8)
            let data = stride(from: 0, to: digits.count, by: 2).map {
                UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)!
            }
            #expect(Int(CRC32C.checksum(data)) == row[1].int)
            #expect(Int(CRC32C.masked(data)) == row[2].int)
        }
        // The check value of the polynomial (RFC 3720, and every catalogue of CRCs).
        #expect(CRC32C.checksum(Array("123456789".utf8)) == 0xE306_9283)
    }

    @Test func fileEqualsThePackages() throws {
        let values = [("train/loss", 2.125), ("train/grad_norm", 0.1), ("peak_memory_bytes", 1_234_567_890.0)]
        var file = TensorBoardEvents.header(time: 1_700_000_000.25)
        for step in [1, 300, 1 << 40] {
            file += TensorBoardEvents.scalars(
                values.map { (tag: $0.0, value: $0.1) }, step: step, time: 1_700_000_001.5)
        }
        #expect(hex(file) == fixture["file"]?.string)
    }
}

@Suite struct Metrics {
    private func open(_ folder: String, _ position: JSONValue? = nil) throws -> MetricsLog {
        try MetricsLog(folder: folder, resumingAt: position, clock: { 1_700_000_000.5 })
    }

    @Test func rowsAreOneObjectALine() throws {
        let scratch = Scratch(), log = try open(scratch.path)
        try log.write(step: 1, [("train/loss", 2.5), ("train/tokens", 1024), ("train/grad_norm", .nan)])
        try log.write(step: 2, [], texts: [("sample", "a \"b\"\n")])
        #expect(
            text("\(scratch.path)/metrics.jsonl") == """
                {"step":1,"time":1700000000.5,"train/loss":2.5,"train/tokens":1024,"train/grad_norm":null}
                {"step":2,"time":1700000000.5,"sample":"a \\"b\\"\\n"}

                """)
        #expect(names(scratch.path).count == 2)
    }

    @Test func aResumedRunLeavesTheSameFiles() throws {
        let straight = Scratch(), resumed = Scratch()
        let log = try open(straight.path)
        for step in 1...5 { try log.write(step: step, [("train/loss", 1 / Double(step))]) }

        let first = try open(resumed.path)
        for step in 1...3 { try first.write(step: step, [("train/loss", 1 / Double(step))]) }
        let position = try JSONValue.parse(try first.position().serialized())
        for step in 4...5 { try first.write(step: step, [("train/loss", 7)]) }
        write(bytes("\(resumed.path)/metrics.jsonl") + Array("{\"torn".utf8), "\(resumed.path)/metrics.jsonl")
        let second = try open(resumed.path, position)
        for step in 4...5 { try second.write(step: step, [("train/loss", 1 / Double(step))]) }

        #expect(names(straight.path) == names(resumed.path))
        for name in names(straight.path) {
            #expect(bytes("\(straight.path)/\(name)") == bytes("\(resumed.path)/\(name)"), "\(name)")
        }
    }

    @Test func startingAnewLeavesNothingOld() throws {
        let scratch = Scratch()
        try open(scratch.path).write(step: 9, [("a", 1)])
        write([1], "\(scratch.path)/events.out.tfevents.1.old")
        _ = try open(scratch.path)
        #expect(bytes("\(scratch.path)/metrics.jsonl").isEmpty)
        #expect(names(scratch.path).filter { $0.hasPrefix("events") }.count == 1)
    }

    @Test func aFileShorterThanTheCheckpointSaysIsRefused() throws {
        let scratch = Scratch(), log = try open(scratch.path)
        try log.write(step: 1, [("a", 1)])
        let position = try log.position()
        write([], "\(scratch.path)/metrics.jsonl")
        let error = #expect(throws: UserError.self) { try open(scratch.path, position) }
        #expect(error?.exitStatus == .badData)
    }

    @Test func readingSkipsATornLastLineOnly() throws {
        let scratch = Scratch(), path = "\(scratch.path)/m.jsonl"
        write(Array("{\"step\":1,\"x\":1}\n{\"step\":2,\"x\":null}\n{\"step\":3,\"x\":3}\n{\"st".utf8), path)
        let series = try readMetrics(path)
        #expect(series["x"]?.map(\.step) == [1, 3] && series["x"]?.map(\.value) == [1, 3])
        write(Array("{\"step\":1}\nnot\n{\"step\":2}\n".utf8), path)
        #expect(throws: UserError.self) { try readMetrics(path) }
    }
}
