// Sharded folders: what is written is read back, and every way an index can lie is named.
import Formats
import Testing

@Suite struct SafetensorsFolderTests {
    /// Three tensors of 8 bytes.
    private static let values: [(String, [UInt8])] = ["c", "a", "b"].enumerated().map { i, name in
        (name, Array(repeating: UInt8(i + 1), count: 8))
    }

    private func write(_ folder: String, maxShardBytes: Int) throws {
        let tensors = Self.values.map { name, bytes in
            SafetensorsWriter.Tensor(name: name, elementType: .f32, shape: [2]) { emit in
                try bytes[..<3].withUnsafeBytes { try emit($0) }
                try bytes[3...].withUnsafeBytes { try emit($0) }
            }
        }
        try SafetensorsWriter.write(
            folder: folder, tensors: tensors, metadata: [("format", "pt")], maxShardBytes: maxShardBytes)
    }

    private func index(_ map: String) -> String { #"{"metadata":{},"weight_map":\#(map)}"# }

    @Test(arguments: [(24, 1), (23, 2), (16, 2), (15, 3), (1, 3)])
    func shardsAreReadBack(_ maxShardBytes: Int, _ count: Int) throws {
        try withTemporaryFolder { folder in
            try write(folder, maxShardBytes: maxShardBytes)
            let weights = try SafetensorsFolder(folder: folder)
            #expect(weights.files.count == count)
            for (name, bytes) in Self.values {
                var copy = [UInt8](repeating: 0, count: 8)
                try copy.withUnsafeMutableBytes { try weights.read(name, into: $0) }
                let mapped = Array(try weights.bytes(of: name))
                #expect(mapped == bytes && copy == bytes && weights.info(name)?.shape == [2])
            }
            let names = try listFolder(folder)
            #expect(names.contains("model.safetensors.index.json") == (count > 1))
            #expect(names.contains("model-00001-of-0000\(count).safetensors") == (count > 1))
        }
    }

    @Test func indexIsWrittenAsHuggingFaceDoes() throws {
        try withTemporaryFolder { folder in
            try write(folder, maxShardBytes: 16)
            let expected = """
                {
                  "metadata": {
                    "total_size": 24
                  },
                  "weight_map": {
                    "a": "\(Self.first)",
                    "b": "\(Self.second)",
                    "c": "\(Self.first)"
                  }
                }

                """
            #expect(try readTextFile(joinPath(folder, "model.safetensors.index.json")) == expected)
        }
    }

    @Test func singleFileAndShardsReplaceEachOther() throws {
        try withTemporaryFolder { folder in
            try write(folder, maxShardBytes: 24)
            try write(folder, maxShardBytes: 16)
            #expect(try !listFolder(folder).contains("model.safetensors"))
            try write(folder, maxShardBytes: 24)
            #expect(try !listFolder(folder).contains("model.safetensors.index.json"))
        }
    }

    private static let first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors"

    @Test(arguments: [
        (#"{"c":"\#(first)","a":"\#(first)","b":"../\#(second)"}"#, "not the plain name"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"/etc/\#(second)"}"#, "not the plain name"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"sub\\\#(second)"}"#, "not the plain name"),
        (#"{"c":"\#(first)","a":"\#(first)","b":".."}"#, "not the plain name"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"x\u0000.safetensors"}"#, "not the plain name"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"pytorch_model.bin"}"#, "not the plain name of a .safetensors"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"x.safetensors"}"#, "x.safetensors: shard named in"),
        (#"{"c":"\#(first)","b":"\#(second)"}"#, "tensor \"a\" is not placed here"),
        (#"{"c":"\#(first)","a":"\#(second)","b":"\#(second)"}"#, "tensor \"a\" is not placed here"),
        (#"{"c":"\#(first)","a":"\#(first)","b":"\#(second)","d":"\#(second)"}"#, "tensor \"d\", placed here"),
        (#"{"c":"\#(first)","c":"\#(first)"}"#, "appears twice"), (#"{"c":3}"#, "is mapped to a number"),
        ("{}", "is empty"), ("[]", "no \"weight_map\" object"),
    ])
    func refusesIndexThatLies(_ map: String, _ reason: String) throws {
        try withTemporaryFolder { folder in
            try write(folder, maxShardBytes: 16)
            try writeFileAtomically(index(map), to: joinPath(folder, "model.safetensors.index.json"))
            let error = try #require(throws: (any Error).self) { try SafetensorsFolder(folder: folder) }
            #expect("\(error)".contains(reason), "said: \(error)")
        }
    }

    @Test(arguments: [
        ("pytorch_model.bin", "pickle files are never read"), ("model.gguf", "/model.gguf"),
        ("training_args.bin", "no model.safetensors and no"), ("readme", "no model.safetensors and no"),
    ])
    func folderWithoutWeightsSaysWhatToDo(_ name: String, _ reason: String) throws {
        try withTemporaryFolder { folder in
            try writeFileAtomically("x", to: joinPath(folder, name))
            #expect { try SafetensorsFolder(folder: folder) } throws: { "\($0)".contains(reason) }
        }
    }
}
