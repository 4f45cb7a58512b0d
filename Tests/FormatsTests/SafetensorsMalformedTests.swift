// safetensors files that must be refused, one fault each, and broken shard indexes.
import Formats
import Testing

/// One malformed file: a header, the bytes after it, and the length that is announced.
struct SafetensorsCase: Sendable, CustomTestStringConvertible {
    let name: String, reason: String, bytes: [UInt8]
    var testDescription: String { name }

    init(_ name: String, _ reason: String, _ header: String, data: Int = 8, announced: UInt64? = nil) {
        (self.name, self.reason) = (name, reason)
        bytes = safetensors(header, data: data, announced: announced)
    }

    init(_ name: String, _ reason: String, bytes: [UInt8]) {
        (self.name, self.reason, self.bytes) = (name, reason, bytes)
    }
}

func safetensors(_ header: String, data: Int, announced: UInt64? = nil) -> [UInt8] {
    littleEndian(announced ?? UInt64(header.utf8.count)) + Array(header.utf8) + Array(repeating: 0, count: data)
}

/// The header entry of a tensor.
private func entry(_ dtype: String = "F32", _ shape: String = "[2]", _ offsets: String = "[0,8]") -> String {
    #"{"dtype":"\#(dtype)","shape":\#(shape),"data_offsets":\#(offsets)}"#
}

@Suite struct SafetensorsMalformedTests {
    static let valid = #"{"a":\#(entry())}"#
    static let cases: [SafetensorsCase] = [
        .init("empty file", "too few", bytes: []),
        .init("seven bytes", "7 bytes, too few", bytes: [1, 0, 0, 0, 0, 0, 0]),
        .init("header beyond 25 MB", "at most 25000000", valid, announced: 25_000_001),
        .init("header length negative", "at most 25000000", valid, announced: .max),
        .init("header longer than the file", "ends inside its header", valid, announced: 10_000),
        .init("header of no bytes", "does not begin with {", "", data: 0),
        .init("leading space", "does not begin with {", " " + valid),
        .init("a list", "does not begin with {", "[]", data: 0),
        .init("byte order mark", "does not begin with {", "\u{FEFF}" + valid),
        .init("not JSON", "header not JSON", "{,}", data: 0),
        .init("cut JSON", "header not JSON", String(valid.dropLast())),
        .init("text after the header", "something follows", valid + "x"),
        .init("NUL padding", "something follows", valid + "\0"),
        .init("comment", "header not JSON", #"{/**/"a":\#(entry())}"#),
        .init(
            "key not UTF-8", "invalid UTF-8",
            bytes: littleEndian(UInt64(8)) + Array("{\"".utf8) + [0xC3, 0x28] + Array("\":1}".utf8)),
        .init("lone surrogate", "lone surrogate", #"{"\ud800":\#(entry())}"#),
        .init("name twice", "appears twice", #"{"a":\#(entry()),"a":\#(entry())}"#),
        .init("name twice by escape", "appears twice", #"{"a":\#(entry()),"\u0061":\#(entry())}"#),
        .init("field twice", "appears twice", #"{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#),
        .init("metadata twice", "appears twice", #"{"__metadata__":{},"__metadata__":{}}"#, data: 0),
        .init("metadata a list", "not an object", #"{"__metadata__":[]}"#, data: 0),
        .init("metadata null", "not an object", #"{"__metadata__":null}"#, data: 0),
        .init("metadata number", "only strings", #"{"__metadata__":{"step":3}}"#, data: 0),
        .init("metadata nested", "only strings", #"{"__metadata__":{"x":{"y":"z"}}}"#, data: 0),
        .init("nested deeper than a header is", "nested deeper", #"{"a":"# + String(repeating: "[", count: 1000)),
        .init("tensor not an object", "is a number, not an object", #"{"a":1}"#),
        .init("no dtype", "no \"dtype\"", #"{"a":{"shape":[2],"data_offsets":[0,8]}}"#),
        .init("no shape", "\"shape\" is not", #"{"a":{"dtype":"F32","data_offsets":[0,8]}}"#),
        .init("no offsets", "\"data_offsets\" is not", #"{"a":{"dtype":"F32","shape":[2]}}"#),
        .init("unknown dtype", "unknown dtype \"F31\"", #"{"a":\#(entry("F31"))}"#),
        .init("dtype in lower case", "unknown dtype \"f32\"", #"{"a":\#(entry("f32"))}"#),
        .init(
            "dtype not supported here", "x.safetensors: tensor \"a\" has dtype F8_E4M3, which is not read; convert",
            #"{"a":\#(entry("F8_E4M3", "[8]"))}"#),
        .init("dtype a number", "no \"dtype\"", #"{"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}}"#),
        .init("shape a number", "\"shape\" is not", #"{"a":\#(entry("F32", "2"))}"#),
        .init("negative size", "\"shape\" is not", #"{"a":\#(entry("F32", "[-2]"))}"#),
        .init("size minus zero", "\"shape\" is not", #"{"a":\#(entry("F32", "[-0]", "[0,0]"))}"#, data: 0),
        .init("fractional size", "\"shape\" is not", #"{"a":\#(entry("F32", "[2.0]"))}"#),
        .init("size with exponent", "\"shape\" is not", #"{"a":\#(entry("F32", "[2e0]"))}"#),
        .init("size as text", "\"shape\" is not", #"{"a":\#(entry("F32", "[\"2\"]"))}"#),
        .init("size beyond 64 bits", "\"shape\" is not", #"{"a":\#(entry("F32", "[18446744073709551618]"))}"#),
        .init("product overflows", "larger than any file", #"{"a":\#(entry("F32", "[4294967296,4294967296]"))}"#),
        .init("bytes overflow", "larger than any file", #"{"a":\#(entry("F64", "[2305843009213693952]"))}"#),
        .init("one offset", "list of two", #"{"a":\#(entry("F32", "[2]", "[0]"))}"#),
        .init("three offsets", "list of two", #"{"a":\#(entry("F32", "[2]", "[0,8,8]"))}"#),
        .init("negative offset", "list of two", #"{"a":\#(entry("F32", "[2]", "[-8,0]"))}"#),
        .init("offsets reversed", "are not a range", #"{"a":\#(entry("F32", "[2]", "[8,0]"))}"#),
        .init(
            "offsets at the end of numbers", "are not a range",
            #"{"a":\#(entry("F32", "[2]", "[9223372036854775799,9223372036854775807]"))}"#),
        .init("fewer bytes than the shape", "needs 12 bytes", #"{"a":\#(entry("F32", "[3]"))}"#),
        .init("more bytes than the shape", "needs 4 bytes", #"{"a":\#(entry("F32", "[1]"))}"#),
        .init("hole at the beginning", "leaves a hole", #"{"a":\#(entry("F32", "[2]", "[8,16]"))}"#, data: 16),
        .init("hole between", "leaves a hole", #"{"a":\#(entry()),"b":\#(entry("F32", "[1]", "[12,16]"))}"#, data: 16),
        .init("same place", "overlaps", #"{"a":\#(entry()),"b":\#(entry())}"#),
        .init("overlap", "overlaps", #"{"a":\#(entry()),"b":\#(entry("F32", "[2]", "[4,12]"))}"#, data: 12),
        .init("one byte short", "1 byte missing", valid, data: 7),
        .init("one byte more", "1 byte after", valid, data: 9),
        .init("bytes without tensors", "8 bytes after", "{}"),
    ]

    @Test(arguments: cases) func refuses(_ malformed: SafetensorsCase) throws {
        try withTemporaryFile(malformed.bytes, "x.safetensors") { path in
            let error = try #require(throws: (any Error).self) { try SafetensorsFile(path: path) }
            let text = "\(error)"
            #expect(text.hasPrefix(path) && text.contains(malformed.reason) && !text.contains("\n"), "said: \(text)")
        }
    }

    @Test(arguments: [
        (valid, 8), (valid + "    ", 8), ("{}", 0), (#"{"__metadata__":{}}"#, 0),
        (#"{"a":\#(entry("F32", "[2]", "[0,8]")),"z":\#(entry("U8", "[0]", "[0,0]"))}"#, 8),
        (#"{"b":\#(entry("U8", "[1]", "[8,9]")),"a":\#(entry())}"#, 9), (#"{"a":\#(entry("F64", "[]"))}"#, 8),
    ])
    func accepts(_ header: String, _ data: Int) throws {
        try withTemporaryFile(safetensors(header, data: data), "x.safetensors") { path in
            #expect(throws: Never.self) { try SafetensorsFile(path: path) }
        }
    }

    @Test func tooManyTensorsAreRefused() throws {
        let names = (0...100_000).map { #""\#($0)":\#(entry("U8", "[0]", "[0,0]"))"# }
        try withTemporaryFile(safetensors("{" + names.joined(separator: ",") + "}", data: 0), "x.safetensors") { path in
            #expect { try SafetensorsFile(path: path) } throws: { "\($0)".contains("more than 100000") }
        }
    }

    @Test func everyTruncationIsRefused() throws {
        let whole = try readFile(fixture("golden.safetensors"))
        try withTemporaryFolder { folder in
            for length in 0..<whole.count {
                let path = joinPath(folder, "x.safetensors")
                try writeAnew(Array(whole.prefix(length)), to: path)
                #expect(throws: (any Error).self, "\(length) bytes") { try SafetensorsFile(path: path) }
            }
        }
    }
}
