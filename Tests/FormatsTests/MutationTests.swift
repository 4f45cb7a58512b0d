// Thousands of small lies in valid files, the same ones every time: each file is read or refused in one line, never a
// crash, and what is read stays in the file.
import Formats
import Glibc
import Testing

/// SplitMix64: small, seeded, the same everywhere.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}

@Suite(.serialized) struct MutationTests {
    /// `FUZZ_ROUNDS=1000` makes an afternoon of it.
    private static let rounds = getenv("FUZZ_ROUNDS").flatMap { Int(String(cString: $0)) } ?? 1

    /// One to three changes: a bit flipped, a byte or eight replaced by a telling value, a piece removed, doubled, cut off.
    private func mutate(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var out = bytes
        for _ in 0..<Int.random(in: 1...3, using: &random) where !out.isEmpty {
            let at = Int.random(in: 0..<out.count, using: &random)
            switch Int.random(in: 0..<7, using: &random) {
            case 0, 1: out[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: out[at] = [0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x7B].randomElement(using: &random)!
            case 3:
                let telling: [UInt64] = [0, 1, .max, 1 << 63, 1 << 32, 0x7FFF_FFFF, UInt64(out.count), 1 << 62]
                let value = littleEndian(telling.randomElement(using: &random)!)
                for i in 0..<min(8, out.count - at) { out[at + i] = value[i] }
            case 4: out.removeSubrange(at..<min(out.count, at + Int.random(in: 1...16, using: &random)))
            case 5: out.insert(contentsOf: out[at..<min(out.count, at + 16)], at: at)
            default: out.removeLast(out.count - at)
            }
        }
        return out
    }

    /// Most address space this process ever had: reservations count, touched or not.
    private func peakAddressSpace() throws -> Int {
        let reader = try LineReader(path: "/proc/self/status")
        while let line = try reader.next() {
            if line.text.hasPrefix("VmPeak:") { return Int(line.text.filter(\.isNumber))! << 10 }
        }
        return 0
    }

    /// - Returns: how many of the files were still readable.
    private func run(_ valid: [UInt8], count: Int, _ read: (String) throws -> Void) throws -> Int {
        var random = SeededGenerator(state: 20_261_123), readable = 0
        let before = try peakAddressSpace()
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "x")
            for round in 0..<count {
                try writeAnew(mutate(valid, &random), to: path)
                do {
                    try read(path)
                    readable += 1
                } catch {
                    let text = "\(error)"
                    #expect(
                        text.hasPrefix(path) && !text.contains("\n") && text.utf8.count < 1500,
                        "round \(round): \(text)")
                }
            }
        }
        // Tests beside this one take some; a count of 2^31 believed would take 8 GB or more.
        let grown = try peakAddressSpace() - before
        #expect(before > 0 && grown < 4 << 30, "address space grew by \(grown) bytes")
        return readable
    }

    @Test func mutatedGGUF() throws {
        for (valid, count) in [(GGUFParts().bytes(), 2000), (try readFile(fixture("types.gguf")), 200)] {
            let readable = try run(valid, count: count * Self.rounds) { path in
                let file = try GGUFFile(path: path)
                for tensor in file.tensors {
                    let room = UnsafeMutablePointer<Float>.allocate(capacity: tensor.elementCount)
                    defer { room.deallocate() }
                    try file.dequantize(tensor, into: room)
                }
            }
            #expect((1..<count * Self.rounds).contains(readable))
        }
    }

    @Test func mutatedSafetensors() throws {
        let small = safetensors(SafetensorsMalformedTests.valid, data: 8)
        for (valid, count) in [(small, 2000), (try readFile(fixture("golden.safetensors")), 400)] {
            let readable = try run(valid, count: count * Self.rounds) { path in
                let file = try SafetensorsFile(path: path)
                for tensor in file.tensors { _ = Array(try file.bytes(of: tensor.name)) }
            }
            #expect((1..<count * Self.rounds).contains(readable))
        }
    }

    @Test func mutatedJSON() throws {
        let valid = Array(#"{"a":[1,-2.5e3,true,null,"é\u00e9\ud83d\ude00\n"],"b":{"c":{},"d":[[]]},"e":"😀"}"#.utf8)
        var random = SeededGenerator(state: 7)
        for _ in 0..<3000 * Self.rounds {
            let bytes = mutate(valid, &random)
            guard let value = try? JSONValue.parse(bytes) else { continue }
            #expect(try JSONValue.parse(value.serialized()) == value)
        }
    }
}
