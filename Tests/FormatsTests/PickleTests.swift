// Pickles are refused by name and by content, whatever they are called, and nothing in them is interpreted.
import Formats
import Testing

@Suite struct PickleTests {
    private static let zip: [UInt8] = [0x50, 0x4B, 0x03, 0x04] + Array(repeating: 0, count: 26)
    private static let torchArchive = zip + Array("archive/data.pkl".utf8) + Array(repeating: 0, count: 64)

    @Test(arguments: [
        ("pytorch_model.bin", Array("anything".utf8)), ("a.pt", []), ("a.pth", [0]), ("a.ckpt", [0]), ("a.pkl", [0]),
        ("A.BIN", [0]), ("model.safetensors", torchArchive), ("model", torchArchive), ("x", [0x80, 0x02, 0x8A]),
        ("x", [0x80, 0x04, 0x95, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("model.safetensors", [0x80, 0x05, 0x2E, 0, 0, 0, 0, 0, 0, 0]),
    ])
    func refuses(_ name: String, _ content: [UInt8]) throws {
        try withTemporaryFile(content, name) { path in
            for open in [{ _ = try SafetensorsFile(path: $0) }, { _ = try GGUFFile(path: $0) }]
                as [(String) throws -> Void]
            {
                let error = try #require(throws: (any Error).self) { try open(path) }
                #expect("\(error)".contains("pickle files are never read") && "\(error)".contains("save_file"))
            }
        }
    }

    @Test func otherFilesAreNotPickles() throws {
        for content in [Self.zip, Array("PK".utf8), [0x80], [0x80, 0x00, 0, 0, 0, 0, 0, 0], Array("{}".utf8)] {
            content.withUnsafeBytes { bytes in #expect(!looksLikePickle(bytes)) }
        }
        try withTemporaryFile(GGUFParts().bytes(), "ggml-model.bin") { path in
            #expect(throws: Never.self) { try GGUFFile(path: path) }
        }
    }

    /// A safetensors file whose header happens to be 640 bytes long begins with 0x80 0x02.
    @Test func headerLengthIsNotMistakenForAPickle() throws {
        for announced in [0x0280, 0x0380, 0x0480, 0x0580] {
            let header = "{}" + String(repeating: " ", count: announced - 2)
            try withTemporaryFile(safetensors(header, data: 0), "x.safetensors") { path in
                #expect(throws: Never.self) { try SafetensorsFile(path: path) }
            }
        }
    }
}
