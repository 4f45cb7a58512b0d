// Pickles are refused by name and by content, whatever they are called, and nothing in them is interpreted.
import Formats
import Testing

@Suite struct PickleTests {
    private static let zip: [UInt8] = [0x50, 0x4B, 0x03, 0x04] + Array(repeating: 0, count: 26)
    private static func archive(_ names: String..., holding content: [UInt8] = Array(repeating: 0, count: 64))
        -> [UInt8]
    {
        names.flatMap { zip + Array($0.utf8) + content }
    }

    /// `os.system("touch canary")` as Python's pickle writes it, by protocol.
    private static let evil: [[UInt8]] = {
        let old = "cposix\nsystem\n", command = Array("touch canary".utf8)
        let counted = [0x58, 12, 0, 0, 0] + command
        let tail: [UInt8] = [0x71, 1, 0x85, 0x71, 2, 0x52, 0x71, 3, 0x2E]
        let framed =
            [0x95, 0x27, 0, 0, 0, 0, 0, 0, 0, 0x8C, 5] + Array("posix".utf8) + [0x94, 0x8C, 6]
            + Array("system".utf8) + [0x94, 0x93, 0x94, 0x8C, 12] + command + [0x94, 0x85, 0x94, 0x52, 0x94, 0x2E]
        return [
            Array("\(old)p0\n(Vtouch canary\np1\ntp2\nRp3\n.".utf8),
            Array(old.utf8) + [0x71, 0, 0x28] + counted + [0x71, 1, 0x74, 0x71, 2, 0x52, 0x71, 3, 0x2E],
            [0x80, 2] + Array(old.utf8) + [0x71, 0] + counted + tail,
            [0x80, 3] + Array(old.utf8) + [0x71, 0] + counted + tail,
            [0x80, 4] + framed, [0x80, 5] + framed,
        ]
    }()

    /// The magic number of torch.save before it wrote archives, itself a pickle, and what follows.
    private static let legacyTorch: [UInt8] =
        [
            0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E, 0x80, 2, 0x4D, 0xE9, 3,
            0x2E,
        ]

    /// numpy.save of an array of objects: a header, then a pickle.
    private static let numpyObjects: [UInt8] =
        [0x93] + Array("NUMPY".utf8) + [1, 0, 0x76, 0]
        + Array("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".utf8)
        + evil[4]

    @Test(arguments: [
        ("protocol 0", "x", evil[0]), ("protocol 1", "x", evil[1]), ("protocol 2", "x", evil[2]),
        ("protocol 3", "x", evil[3]), ("protocol 4", "x", evil[4]), ("protocol 5", "x", evil[5]),
        ("protocol 0 renamed", "model.safetensors", evil[0]), ("protocol 5 renamed", "model.safetensors", evil[5]),
        ("renamed to GGUF", "model.gguf", evil[4]),
        ("torch.save", "model.pt", archive("archive/data.pkl")),
        ("torch.save renamed", "model.safetensors", archive("archive/data.pkl", "archive/byteorder")),
        ("torch.save without an ending", "model", archive("model/data.pkl")),
        ("torch.save before archives", "model.safetensors", legacyTorch),
        ("TorchScript", "model.safetensors", archive("m/constants.pkl", "m/code/__torch__.py")),
        ("TorchScript's code first", "model", archive("m/code/__torch__.py", "m/attributes.pkl")),
        (
            "archive in an archive", "model.safetensors",
            archive("inner/pytorch_model.bin", holding: archive("a/data.pkl"))
        ),
        ("objects of numpy", "array.npy", numpyObjects),
        ("objects of numpy renamed", "model.safetensors", numpyObjects),
        ("transformers' name", "pytorch_model.bin", evil[2]), ("in capitals", "A.BIN", evil[2]),
        (".pth", "a.pth", evil[3]), (".ckpt", "a.ckpt", evil[4]), (".pkl", "a.pkl", evil[5]),
        (".pickle", "a.pickle", evil[0]),
        ("joblib, compressed", "a.joblib", [0x78, 0x9C, 0x6B, 0x60]), (".dill", "a.dill", evil[4]),
        ("an empty file", "a.pt", []), ("no pickle at all", "pytorch_model.bin", Array("anything".utf8)),
    ])
    func refuses(_ kind: String, _ name: String, _ content: [UInt8]) throws {
        try withTemporaryFile(content, name) { path in
            for open in [{ _ = try SafetensorsFile(path: $0) }, { _ = try GGUFFile(path: $0) }]
                as [(String) throws -> Void]
            {
                let error = try #require(throws: (any Error).self, "\(kind)") { try open(path) }
                #expect("\(error)".contains("pickle files are never read") && "\(error)".contains("save_file"))
                #expect(!"\(error)".contains("canary") && !"\(error)".contains("\n"))
            }
            #expect(try listFolder(parentFolder(of: path)) == [name] && !fileExists("canary"))
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
