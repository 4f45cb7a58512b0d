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

    @Test func dequantisesEveryTypeBitForBit() throws {
        let expected = try readFile(fixture("types.f32"))
        var offset = 0
        for tensor in file.tensors {
            let got = try [UInt8](unsafeUninitializedCapacity: 4 * tensor.elementCount) { buffer, count in
                try buffer.withMemoryRebound(to: Float.self) { try file.dequantize(tensor, into: $0.baseAddress!) }
                count = 4 * tensor.elementCount
            }
            #expect(got == Array(expected[offset..<offset + got.count]), "\(tensor.type.name)")
            offset += got.count
        }
        #expect(offset == expected.count && file.tensors.count == 13)
    }

    @Test func shapesAreRowMajor() {
        #expect(file["f32"]?.shape == [2, 3] && file["q6_k"]?.shape == [3, 256] && file["none"] == nil)
    }
}
