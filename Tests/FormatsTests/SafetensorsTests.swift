// safetensors: byte equality with the `safetensors` package in both directions, shards and their index.
import Formats
import Testing

@Suite struct SafetensorsTests {
    @Test func readsWhatThePackageWrote() throws {
        let file = try SafetensorsFile(path: fixture("golden.safetensors"))
        #expect(file.tensors.count == 10 && file.metadata("format") == "pt")
        #expect(file["b.weight"]?.shape == [2, 3] && file["b.weight"]?.elementType == .f32)
        #expect(file["scalar"]?.shape == [] && file["empty"]?.shape == [0, 4])
        let bytes = try file.bytes(of: "b.weight")
        #expect((0..<6).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) } == [0, 1, 2, 3, 4, 5])
        #expect(Array(try file.bytes(of: "half")) == [0x00, 0x38, 0xFF, 0x7B])
        #expect { try file.bytes(of: "a.wieght") } throws: { "\($0)".contains("did you mean \"a.weight\"") }
    }

    @Test func writesTheSameBytesAsThePackage() throws {
        let file = try SafetensorsFile(path: fixture("golden.safetensors"))
        let tensors = try file.tensors.shuffled().map {
            SafetensorsWriter.Tensor(
                name: $0.name, elementType: $0.elementType, shape: $0.shape, bytes: try file.bytes(of: $0.name))
        }
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "out.safetensors")
            try SafetensorsWriter.write(path: path, tensors: tensors, metadata: file.metadata)
            #expect(try readFile(path) == readFile(fixture("golden.safetensors")))
            #expect(try listFolder(folder) == ["out.safetensors"])
        }
    }
}
