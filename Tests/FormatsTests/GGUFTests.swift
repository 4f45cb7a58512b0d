// GGUF: what the `gguf` package wrote is read back, and every type becomes the floats that package makes of it.
import Formats
import Testing

@Suite struct GGUFTests {
    let file: GGUFFile
    init() throws { file = try GGUFFile(path: fixture("types.gguf")) }

    @Test func readsMetadataOfEveryKind() {
        let metadata = file.metadata
        #expect(file.version == 3 && metadata["general.architecture"]?.string == "golden")
        let integers = [
            "u8": 255, "i8": -128, "u16": 65535, "i16": -32768, "u32": 4_294_967_295, "i32": -2_147_483_648,
        ]
        for (kind, value) in integers { #expect(metadata["t." + kind]?.int == value) }
        #expect(metadata["t.u64"] == .unsigned(.max) && metadata["t.i64"]?.int == .min)
        #expect(metadata["t.f32"]?.double == Double(Float(0.1)) && metadata["t.f64"]?.double == 0.1)
        #expect(metadata["t.bool"]?.bool == true && metadata["t.string"]?.string == "naïve 🐦")
        #expect(metadata["t.strings"]?.strings?.map { ExactString($0) } == ["a", "", "\u{E9}", "e\u{301}"])
        #expect(metadata["t.ints"]?.ints == [-1, 0, 7] && metadata["t.floats"]?.floats == [0.5, -1.25])
        #expect(metadata["t.bools"]?.bools == [true, false] && metadata["none"] == nil)
        #expect(metadata.keys.first == "general.architecture")
    }

    /// types: from the `gguf` package; ggml: the others, from it or, where it has none, from ggml's C.
    @Test(arguments: [("types", 13), ("ggml", 22)]) func dequantisesEveryTypeBitForBit(_ name: String, count: Int)
        throws
    {
        let file = try GGUFFile(path: fixture("\(name).gguf")), expected = try readFile(fixture("\(name).f32"))
        var offset = 0
        for tensor in file.tensors {
            let got = try floats(file, tensor).withUnsafeBytes { Array($0) }
            let isEqual = got.elementsEqual(expected[offset..<offset + got.count])  // lists would flood the message
            #expect(isEqual, "\(tensor.type.name)")
            offset += got.count
        }
        #expect(offset == expected.count && file.tensors.count == count)
    }

    @Test func goldensHoldEveryType() throws {
        let types = try ["types", "ggml"].flatMap { try GGUFFile(path: fixture("\($0).gguf")).tensors.map(\.type) }
        #expect(Set(types) == Set(GGMLType.allCases) && types.count == GGMLType.allCases.count)
    }

    @Test func quantisesEveryWritableTypeBitForBit() throws {
        let file = try GGUFFile(path: fixture("quantized.gguf"))
        let values = try floats(file, file.tensors[0])
        for type in GGMLType.writable {
            let tensor = try #require(file.tensors.first { $0.type == type })
            let expected = Array(try file.bytes(of: tensor))
            var got = [UInt8](repeating: 0xAA, count: type.byteCount(of: values.count))
            values.withUnsafeBufferPointer { values in
                got.withUnsafeMutableBytes { type.quantize(values, into: $0.baseAddress!) }
            }
            let different = (0..<got.count / type.block.bytes).filter { block in
                let range = block * type.block.bytes..<(block + 1) * type.block.bytes
                return got[range] != expected[range]
            }
            #expect(got.count == expected.count && different.isEmpty, "\(type.name): blocks \(different)")
        }
        #expect(file.tensors.count == GGMLType.writable.count)
    }

    /// Blocks whose scale is so small that its inverse is infinite: all codes are 0, as ggml's and the package's on x86-64
    /// (verify/export.py has them beside ggml).
    @Test(arguments: [GGMLType.q8_0, .q4_0]) func blocksOfNextToNothingHaveNoCodes(_ type: GGMLType) {
        var values = (0..<32).map { Float($0 - 16) * 1e-40 }
        values[0] = -2e-38
        var got = [UInt8](repeating: 0xAA, count: type.byteCount(of: 32))
        values.withUnsafeBufferPointer { values in
            got.withUnsafeMutableBytes { type.quantize(values, into: $0.baseAddress!) }
        }
        #expect(got == [UInt8](repeating: 0, count: type.block.bytes))
    }

    private func floats(_ file: GGUFFile, _ tensor: GGUFTensor) throws -> [Float] {
        try [Float](unsafeUninitializedCapacity: tensor.elementCount) { buffer, count in
            try file.dequantize(tensor, into: buffer.baseAddress!)
            count = tensor.elementCount
        }
    }

    private func copies(_ file: GGUFFile) -> [GGUFWriter.Tensor] {
        file.tensors.map { tensor in
            GGUFWriter.Tensor(name: tensor.name, type: tensor.type, shape: tensor.shape) {
                try $0(try file.bytes(of: tensor))
            }
        }
    }

    /// Byte for byte what the `gguf` package wrote, its padding included.
    @Test func writesWhatThePackageWrites() throws {
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "copy.gguf")
            try GGUFWriter.write(path: path, metadata: file.entries(), tensors: copies(file))
            #expect(try readFile(path) == readFile(fixture("types.gguf")))
        }
    }

    @Test func entriesMadeHaveThePackagesBytes() throws {
        let entries = Dictionary(uniqueKeysWithValues: try file.entries().map { ($0.key, $0) })
        let made: [GGUFEntry] = [
            .string("general.architecture", "golden"), .uint32("t.u32", 4_294_967_295), .float("t.f32", 0.1),
            .bool("t.bool", true), .string("t.string", "naïve 🐦"),
            .strings("t.strings", ["a", "", "\u{E9}", "e\u{301}"]),
            .int32s("t.ints", [-1, 0, 7]), .floats("t.floats", [0.5, -1.25]), .bools("t.bools", [true, false]),
        ]
        try withTemporaryFolder { folder in
            let (one, other) = (joinPath(folder, "one.gguf"), joinPath(folder, "other.gguf"))
            try GGUFWriter.write(path: one, metadata: made, tensors: [])
            try GGUFWriter.write(path: other, metadata: made.map { entries[$0.key]! }, tensors: [])
            #expect(try readFile(one) == readFile(other))
        }
    }

    @Test func aFailedWriteLeavesTheOldFile() throws {
        struct Stop: Error {}
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "x.gguf")
            try writeFileAtomically("old", to: path)
            let tensor = GGUFWriter.Tensor(name: "a", type: .f32, shape: [4]) { _ in throw Stop() }
            #expect(throws: Stop.self) { try GGUFWriter.write(path: path, metadata: [], tensors: [tensor]) }
            #expect(try readFile(path) == Array("old".utf8) && listFolder(folder) == ["x.gguf"])
        }
    }

    @Test func shapesAreRowMajor() {
        #expect(file["f32"]?.shape == [2, 3] && file["q6_k"]?.shape == [3, 256] && file["none"] == nil)
    }
}
