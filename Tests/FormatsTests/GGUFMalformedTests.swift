// GGUF files that must be refused, one fault each, and that nothing is allocated on the word of a file.
import Formats
import Testing

/// The parts of a small valid file; each case below spoils one.
struct GGUFParts {
    var magic = "GGUF"
    var version: UInt32 = 3
    var tensorCount: UInt64?
    var pairCount: UInt64?
    var keyLength: UInt64?
    var tensorNameLength: UInt64?
    var pairs: [(key: [UInt8], type: UInt32, value: [UInt8])] = [
        (Array("general.architecture".utf8), 8, string("llama")),
        (Array("list".utf8), 9, littleEndian(UInt32(8)) + littleEndian(UInt64(2)) + string("a") + string("b")),
        (Array("count".utf8), 4, littleEndian(UInt32(7))),
    ]
    var tensors: [(name: [UInt8], dimensions: [UInt64], type: UInt32, offset: UInt64)] = [
        (Array("a".utf8), [4, 2], 0, 0), (Array("b".utf8), [32], 8, 32),
    ]
    var alignment = 32
    var dataBytes = 32 + 34
    var length: Int?

    static func string(_ text: String) -> [UInt8] { littleEndian(UInt64(text.utf8.count)) + Array(text.utf8) }

    mutating func add(_ key: String, _ type: UInt32, _ value: [UInt8]) { pairs.append((Array(key.utf8), type, value)) }

    func bytes() -> [UInt8] {
        var out = Array(magic.utf8) + littleEndian(version)
        out += littleEndian(tensorCount ?? UInt64(tensors.count)) + littleEndian(pairCount ?? UInt64(pairs.count))
        for (i, pair) in pairs.enumerated() {
            out += littleEndian((i == 0 ? keyLength : nil) ?? UInt64(pair.key.count)) + pair.key
            out += littleEndian(pair.type) + pair.value
        }
        for (i, tensor) in tensors.enumerated() {
            out += littleEndian((i == 0 ? tensorNameLength : nil) ?? UInt64(tensor.name.count)) + tensor.name
            out += littleEndian(UInt32(tensor.dimensions.count)) + tensor.dimensions.flatMap { littleEndian($0) }
            out += littleEndian(tensor.type) + littleEndian(tensor.offset)
        }
        out += repeatElement(0, count: (alignment - out.count % alignment) % alignment)
        out += repeatElement(1, count: dataBytes)
        return Array(out.prefix(length ?? out.count))
    }
}

struct GGUFCase: Sendable, CustomTestStringConvertible {
    let name: String, reason: String
    let spoil: @Sendable (inout GGUFParts) -> Void
    var testDescription: String { name }

    init(_ name: String, _ reason: String, _ spoil: @escaping @Sendable (inout GGUFParts) -> Void) {
        (self.name, self.reason, self.spoil) = (name, reason, spoil)
    }
}

@Suite struct GGUFMalformedTests {
    static let cases: [GGUFCase] = [
        .init("empty file", "does not begin") { $0.length = 0 },
        .init("three bytes", "does not begin") { $0.length = 3 },
        .init("old magic", "does not begin") { $0.magic = "GGJT" },
        .init("version 0", "version 0") { $0.version = 0 },
        .init("version 1", "version 1") { $0.version = 1 },
        .init("future version", "version 4") { $0.version = 4 },
        .init("big-endian", "big-endian") { $0.version = UInt32(3).byteSwapped },
        .init("ends in the version", "ends inside version") { $0.length = 6 },
        .init("ends in the counts", "ends inside number of tensors") { $0.length = 14 },
        .init("too many tensors", "tensors cannot be in") { $0.tensorCount = .max },
        .init("more tensors than there are", "empty tensor name") {
            $0.tensorCount = 3; $0.dataBytes = 0
        },
        .init("too many pairs", "metadata entries cannot be in") { $0.pairCount = 1 << 60 },
        .init("more pairs than there are", "not a valid GGUF") { $0.pairCount = 4 },
        .init("counts beyond Int64", "tensors cannot be in") { $0.tensorCount = 1 << 63 },
        .init("count that overflows with its items", "metadata entries cannot be in") { $0.pairCount = .max / 14 + 2 },
        .init("key length beyond Int64", "65535") { $0.keyLength = 1 << 63 },
        .init("key longer than the file", "65535") { $0.keyLength = .max },
        .init("key beyond 64 KB", "at most 65535") { $0.pairs[0].key = Array(repeating: 97, count: 65_536) },
        .init("empty key", "empty metadata key") { $0.pairs[0].key = [] },
        .init("key not UTF-8", "key is not UTF-8") { $0.pairs[0].key = [0xC3, 0x28] },
        .init("unknown value type", "unknown type 13") { $0.pairs[2].type = 13 },
        .init("key twice", "\"count\" appears twice") { $0.add("count", 4, littleEndian(UInt32(7))) },
        .init("boolean 2", "boolean 2") { $0.add("x", 7, [2]) },
        .init("value not UTF-8", "is not UTF-8") { $0.add("x", 8, littleEndian(UInt64(1)) + [0xFF]) },
        .init("string longer than the file", "at most") { $0.add("x", 8, littleEndian(UInt64.max)) },
        .init("string length beyond Int64", "at most") { $0.add("x", 8, littleEndian(UInt64(1) << 63)) },
        .init("list count beyond Int64", "cannot be in") {
            $0.add("x", 9, littleEndian(UInt32(0)) + littleEndian(UInt64(1) << 63))
        },
        .init("list count that overflows with its items", "cannot be in") {
            $0.add("x", 9, littleEndian(UInt32(10)) + littleEndian((UInt64(1) << 61) + 1))
        },
        .init("list of lists", "list of lists") { $0.add("x", 9, littleEndian(UInt32(9)) + littleEndian(UInt64(0))) },
        .init("list of an unknown type", "unknown type 99") { $0.add("x", 9, littleEndian(UInt32(99))) },
        .init("list longer than the file", "cannot be in") {
            $0.add("x", 9, littleEndian(UInt32(0)) + littleEndian(UInt64(1) << 40))
        },
        .init("list of strings longer than the file", "cannot be in") {
            $0.add("x", 9, littleEndian(UInt32(8)) + littleEndian(UInt64(1) << 61))
        },
        .init("u64 too large in a list", "beyond") {
            $0.add("x", 9, littleEndian(UInt32(10)) + littleEndian(UInt64(1), UInt64.max))
        },
        .init("alignment 0", "power of two") { $0.add("general.alignment", 4, littleEndian(UInt32(0))) },
        .init("alignment 13", "power of two") { $0.add("general.alignment", 4, littleEndian(UInt32(13))) },
        .init("alignment of 2 GB", "power of two") { $0.add("general.alignment", 4, littleEndian(UInt32(1) << 31)) },
        .init("alignment beyond Int64", "power of two") {
            $0.add("general.alignment", 10, littleEndian(UInt64(1) << 63))
        },
        .init("negative alignment", "power of two") { $0.add("general.alignment", 5, littleEndian(Int32.min)) },
        .init("alignment is text", "power of two") { $0.add("general.alignment", 8, GGUFParts.string("32")) },
        .init("alignment not kept", "begins at 32, not at 64") {
            $0.add("general.alignment", 4, littleEndian(UInt32(64)))
        },
        .init("tensor name beyond the file", "at most 1024") { $0.tensorNameLength = 1 << 40 },
        .init("long tensor name", "at most 1024") { $0.tensors[0].name = Array(repeating: 97, count: 1025) },
        .init("empty tensor name", "empty tensor name") { $0.tensors[0].name = [] },
        .init("tensor name not UTF-8", "tensor name is not UTF-8") { $0.tensors[0].name = [0x80] },
        .init("tensor twice", "\"a\" appears twice") { $0.tensors[1].name = [97] },
        .init("five dimensions", "5 dimensions") { $0.tensors[0].dimensions = [4, 2, 1, 1, 1] },
        .init("dimension 0", "dimension of 0") { $0.tensors[0].dimensions = [4, 0] },
        .init("negative dimension", "dimension of") { $0.tensors[0].dimensions = [4, .max] },
        .init("product overflows", "larger than any file") { $0.tensors[0].dimensions = [1 << 32, 1 << 32] },
        .init("bytes overflow", "larger than any file") { $0.tensors[0].dimensions = [1 << 31, 1 << 31] },
        .init("product beyond Int64 only", "larger than any file") { $0.tensors[0].dimensions = [1 << 31, 1 << 32] },
        .init("product of four overflows", "larger than any file") {
            $0.tensors[0].dimensions = Array(repeating: 1 << 16, count: 4)
        },
        .init("product of three overflows to a small number", "larger than any file") {
            // 2^64 + 2^33: 2^33 where the overflow is not seen.
            $0.tensors[0].dimensions = [1 << 33, (1 << 31) + 1, 1]
        },
        .init("bytes of one dimension overflow", "larger than any file") { $0.tensors[0].dimensions = [1 << 62] },
        .init("bytes overflow to a number that fits", "larger than any file") {
            // 4 bytes times 2^62 + 8: 32 where the overflow is not seen, which the first tensor has.
            $0.tensors[0].dimensions = [(1 << 62) + 8]
        },
        .init("as many bytes as Int64 counts", "ends inside tensor \"a\"") {
            $0.tensors[0] = ($0.tensors[0].name, [UInt64(Int64.max)], 24, 0)  // I8: a byte each
        },
        .init("blocks of as many bytes as nearly Int64 counts", "ends inside tensor \"b\"") {
            $0.tensors[1].dimensions = [1 << 62]
        },
        .init("half a block", "whole Q8_0 blocks") { $0.tensors[1].dimensions = [33] },
        .init("removed type", "unknown type 4") { $0.tensors[0].type = 4 },
        .init("unknown type", "unknown type 1000") { $0.tensors[0].type = 1000 },
        .init("offset not aligned", "begins at 31, not at 32") { $0.tensors[1].offset = 31 },
        .init("overlap", "begins at 0, not at 32") { $0.tensors[1].offset = 0 },
        .init("hole", "begins at 64, not at 32") { $0.tensors[1].offset = 64 },
        .init("offset beyond Int64", "offset too large") { $0.tensors[1].offset = 1 << 63 },
        .init("offset of Int64's end", "not at 32") { $0.tensors[1].offset = UInt64(Int64.max) },
        .init("offset too large", "offset too large") { $0.tensors[1].offset = .max },
        .init("one byte short", "ends inside tensor \"b\"") { $0.dataBytes -= 1 },
        .init("no tensor data", "ends inside tensor \"a\"") { $0.dataBytes = 0 },
    ]

    @Test(arguments: cases) func refuses(_ malformed: GGUFCase) throws {
        var parts = GGUFParts()
        malformed.spoil(&parts)
        try withTemporaryFile(parts.bytes(), "x.gguf") { path in
            let message = try #require(throws: (any Error).self) { try GGUFFile(path: path) }
            let text = "\(message)"
            #expect(text.hasPrefix(path) && text.contains(malformed.reason) && !text.contains("\n"), "said: \(text)")
        }
    }

    @Test func thePartsMakeAValidFile() throws {
        try withTemporaryFile(GGUFParts().bytes(), "x.gguf") { path in
            let file = try GGUFFile(path: path)
            #expect(file.tensors.map(\.shape) == [[2, 4], [32]] && file.metadata["list"]?.strings == ["a", "b"])
        }
    }

    @Test func acceptsOtherAlignmentAndVersion2() throws {
        var parts = GGUFParts()
        (parts.version, parts.alignment) = (2, 64)
        parts.add("general.alignment", 4, littleEndian(UInt32(64)))
        parts.tensors[1].offset = 64
        parts.dataBytes = 64 + 34
        try withTemporaryFile(parts.bytes(), "x.gguf") { path in
            let file = try GGUFFile(path: path)
            #expect(file.tensors[1].byteRange.lowerBound % 64 == 0)
        }
    }

    @Test func everyTruncationIsRefused() throws {
        let whole = GGUFParts().bytes()
        try withTemporaryFolder { folder in
            for length in 0..<whole.count {
                let path = joinPath(folder, "x.gguf")
                try writeAnew(Array(whole.prefix(length)), to: path)
                #expect(throws: (any Error).self, "\(length) bytes") { try GGUFFile(path: path) }
            }
        }
    }
}
