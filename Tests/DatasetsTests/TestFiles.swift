// Files that tests write, and fixtures that they read.
import Datasets
import Foundation
import Formats

/// A folder that lives as long as its test.
final class TemporaryFolder {
    let path: String

    init() throws {
        let base = FileManager.default.temporaryDirectory.appendingPathComponent("datasets-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: base, withIntermediateDirectories: true)
        path = base.path
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// Writes a file and returns its path.
    func file(_ name: String, _ text: String) throws -> String { try file(name, Array(text.utf8)) }

    func file(_ name: String, _ bytes: [UInt8]) throws -> String {
        try Data(bytes).write(to: URL(fileURLWithPath: "\(path)/\(name)"))
        return "\(path)/\(name)"
    }
}

func fixture(_ name: String, from file: String = #filePath) throws -> JSONValue {
    let url = URL(fileURLWithPath: file).deletingLastPathComponent().appendingPathComponent("Fixtures/\(name)")
    return try JSONValue.parse([UInt8](Data(contentsOf: url)))
}

func fixtureBytes(_ name: String, from file: String = #filePath) throws -> [UInt8] {
    let url = URL(fileURLWithPath: file).deletingLastPathComponent().appendingPathComponent("Fixtures/\(name)")
    return [UInt8](try Data(contentsOf: url))
}

/// The blocks of a file of kept tokens: what stands before its description.
func tokenBlocks(_ path: String) throws -> ArraySlice<UInt8> {
    let bytes = try readFile(path)
    let offset = bytes[(bytes.count - 56)...].prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
    return bytes[16..<offset]
}

func makeFolder(_ folder: TemporaryFolder, _ name: String) throws {
    try FileManager.default.createDirectory(atPath: "\(folder.path)/\(name)", withIntermediateDirectories: true)
}

/// A message without the folder that the test made up.
func withoutFolder(_ text: String, _ folder: TemporaryFolder) -> String {
    text.replacingOccurrences(of: folder.path + "/", with: "")
}

/// Numbers that are the same in every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let x = state ^ (state >> 29)
        return x &* 0x2545_F491_4F6C_DD1D ^ (x >> 32)
    }
}
