// Which tokenizer a folder has, and what is said where none can be read.
import Diagnostics
import Formats
import Testing
import Tokenizers

/// A rank file of that many tokens: every byte, then twos and threes of bytes.
private func rankFile(_ count: Int, without gap: Int? = nil) -> [UInt8] {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var lines: [UInt8] = []
    for line in 0..<count {
        let rank = gap.map { line < $0 ? line : line + 1 } ?? line, size = rank < 256 ? 1 : rank < 65_792 ? 2 : 3
        let number = rank - [0, 256, 65_792][size - 1], bits = number << (24 - 8 * size)
        for place in 0..<4 {
            lines.append(place > size ? UInt8(ascii: "=") : digits[bits >> (18 - 6 * place) & 63])
        }
        lines += Array(" \(rank)\n".utf8)
    }
    return lines
}

/// A new folder with files, which `body` is given.
private func withFolder(_ files: [(String, [UInt8])], _ body: (String) throws -> Void) throws {
    let folder = "/tmp/needletail-tokenizer-\(UInt64.random(in: 0 ... .max))"
    defer { try? removeTree(folder) }  // a leftover in /tmp harms nobody
    try createDirectories(folder)
    for (name, bytes) in files { try writeFileAtomically(bytes, to: folder + "/" + name) }
    try body(folder)
}

@Suite struct FolderTests {
    /// Special tokens and sizes as tiktoken 0.14 and Qwen's own code (tokenization_qwen.py) have them.
    @Test(
        arguments: [
            (50_280, 50_256, "<|endoftext|>", 50_256, 50_281), (100_256, nil, "<|endofprompt|>", 100_276, 100_277),
            (151_643, nil, "<|extra_204|>", 151_850, 151_851), (151_643, nil, "<|im_end|>", 151_645, 151_851),
        ] as [(Int, Int?, String, Int32, Int)])
    func rankFilesOfKnownSizes(_ count: Int, _ gap: Int?, _ special: String, _ id: Int32, _ size: Int) throws {
        try withFolder([("x.tiktoken", rankFile(count, without: gap))]) { folder in
            let tokenizer = try Tokenizer(modelPath: folder)
            #expect(tokenizer.vocabularySize == size && tokenizer.id(of: special) == id && tokenizer.isSpecial(id))
            #expect(tokenizer.encode("a" + special) == [97, id])
            guard count == 50_280 else { return }
            // The gap is left in what is written, too.
            let again = try Tokenizer(tokenizerJSON: tokenizer.tokenizerJSON)
            #expect(again.vocabularySize == size && again.addedTokens == tokenizer.addedTokens)
            for text in ["a" + special, "~}| ab"] { #expect(again.encode(text) == tokenizer.encode(text)) }
        }
    }

    @Test(arguments: [
        ([], "a model folder has one, or tekken.json, tokenizer.model"),
        (["a.tiktoken", "b.tiktoken"], "of its rank files (a.tiktoken, b.tiktoken) give the one that the model uses"),
        (["vocab.json", "merges.txt"], "how texts are split is not said by vocab.json and merges.txt; transformers"),
        (["vocab.txt", "config.json"], "how texts are split is not said by vocab.txt; transformers"),
        (["model-Q8_0.gguf"], "give the path of a .gguf file in it, like model-Q8_0.gguf"),
    ])
    func foldersWithoutOne(_ names: [String], _ reason: String) throws {
        try withFolder(names.map { ($0, [0x20]) }) { folder in
            #expect {
                try Tokenizer(modelPath: folder)
            } throws: { error in
                guard let error = error as? UserError else { return false }
                return error.message.hasPrefix(folder + ": no tokenizer.json in this folder; ")
                    && error.message.contains(reason) && !error.message.contains("\n")
            }
        }
    }
}
