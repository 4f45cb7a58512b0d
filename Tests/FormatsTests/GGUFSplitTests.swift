// Models in several GGUF files: all parts are one model, and a part alone is none.
import Formats
import Testing

@Suite struct GGUFSplitTests {
    /// Writes a part: what it says of itself, and tensors of two numbers each, counted on from `start`.
    private func write(
        _ folder: String, _ name: String, _ entries: [GGUFEntry], _ tensors: [String], start: Float = 0
    ) throws {
        let tensors = tensors.enumerated().map { i, name in
            GGUFWriter.Tensor(name: name, type: .f32, shape: [2]) { emit in
                try [start + 2 * Float(i), start + 2 * Float(i) + 1].withUnsafeBytes { try emit($0) }
            }
        }
        try GGUFWriter.write(path: joinPath(folder, name), metadata: entries, tensors: tensors)
    }

    private func split(_ number: Int, of count: Int = 3, tensors: Int = 4) -> [GGUFEntry] {
        [.uint32("split.no", number), .uint32("split.count", count), .uint32("split.tensors.count", tensors)]
    }

    private static let names = (1...3).map { "m-0000\($0)-of-00003.gguf" }

    /// A model of four tensors in three parts, the first without any.
    private func writeAll(_ folder: String) throws {
        try write(folder, Self.names[0], [.string("general.architecture", "llama")] + split(0), [])
        try write(folder, Self.names[1], split(1), ["a", "b"])
        try write(folder, Self.names[2], split(2), ["c", "d"], start: 4)
    }

    /// What opening a part says, without the folder it begins with.
    private func refusal(_ folder: String, _ name: String) -> String {
        do {
            _ = try GGUFFile(path: joinPath(folder, name))
            return "opened"
        } catch { return String("\(error)".dropFirst(folder.count + 1)) }
    }

    @Test func allPartsAreOneModel() throws {
        try withTemporaryFolder { folder in
            try writeAll(folder)
            let file = try GGUFFile(path: joinPath(folder, Self.names[0]))
            #expect(file.tensors.map(\.name) == ["a", "b", "c", "d"] && file.files.count == 3)
            for (i, tensor) in file.tensors.enumerated() {
                var values = [Float](repeating: -1, count: 2)
                try values.withUnsafeMutableBufferPointer { try file.dequantize(tensor, into: $0.baseAddress!) }
                #expect(values == [Float(2 * i), Float(2 * i) + 1])
                var copied = [Float](repeating: -1, count: 2)
                try copied.withUnsafeMutableBytes { try file.read(tensor, into: $0) }
                #expect(copied == values)
            }
            #expect(file["c"]?.shape == [2] && file.metadata["general.architecture"]?.string == "llama")
            // A file written of it is whole.
            #expect(try file.entries().map(\.key) == ["general.architecture"])
        }
    }

    @Test func aPartAloneIsRefused() throws {
        try withTemporaryFolder { folder in
            try writeAll(folder)
            #expect(
                refusal(folder, Self.names[1])
                    == "\(Self.names[1]): part 2 of 3 of a model; give the first: \(folder)/\(Self.names[0])")
            try moveFile(joinPath(folder, Self.names[1]), to: joinPath(folder, "elsewhere.gguf"))
            #expect(
                refusal(folder, Self.names[0])
                    == "\(Self.names[1]): missing, a part of \(folder)/\(Self.names[0]); copy or download it")
            #expect(
                refusal(folder, "elsewhere.gguf")
                    == "elsewhere.gguf: part 2 of 3 of a model; give the first: NAME-00001-of-00003.gguf")
            try moveFile(joinPath(folder, Self.names[0]), to: joinPath(folder, "first.gguf"))
            #expect(refusal(folder, "first.gguf").contains("found by their names; call it NAME-00001-of-00003.gguf"))
        }
    }

    @Test func partsOfOtherModelsAreRefused() throws {
        try withTemporaryFolder { folder in
            try writeAll(folder)
            try write(folder, Self.names[2], split(1), ["c", "d"])
            #expect(refusal(folder, Self.names[0]) == "\(Self.names[2]): is not part 3 of 3, as its name says")
            try write(folder, Self.names[2], [], ["c", "d"])
            #expect(refusal(folder, Self.names[0]) == "\(Self.names[2]): is not part 3 of 3, as its name says")
            try write(folder, Self.names[2], split(2), ["c"])
            #expect(refusal(folder, Self.names[0]).contains("its 3 parts hold 3 tensors, not 4 as it says"))
            try write(folder, Self.names[2], split(2), ["c", "b"])
            #expect(refusal(folder, Self.names[0]).contains("tensor \"b\" is in two of its 3 parts"))
        }
    }

    @Test func whatIsSaidOfPartsIsChecked() throws {
        try withTemporaryFolder { folder in
            try write(folder, "x.gguf", split(0, of: 1, tensors: 1), ["a"])
            #expect(refusal(folder, "x.gguf") == "opened")
            try write(folder, "x.gguf", split(3), ["a"])
            #expect(refusal(folder, "x.gguf") == "x.gguf: metadata split.no is none of the numbers below 3")
            for count in [GGUFEntry.string("split.count", "3"), .uint32("split.count", 70_000)] {
                try write(folder, "x.gguf", [count], ["a"])
                #expect(refusal(folder, "x.gguf") == "x.gguf: metadata split.count is no number of files")
            }
        }
    }
}
