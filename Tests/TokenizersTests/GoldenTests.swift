// Ids, offsets and texts against golden files that the `tokenizers` package made (Fixtures/make_goldens.py).
import Formats
import Testing
import Tokenizers

let fixtures = #filePath.prefix(through: #filePath.lastIndex(of: "/")!) + "Fixtures/"

func golden(_ kind: String) throws -> JSONValue { try readJSONFile(fixtures + "goldens/\(kind).json") }

extension JSONValue {
    var ids: [Int32] { array!.map { Int32($0.int!) } }
    var ranges: [Range<Int>] {
        let flat = array!.map { $0.int! }
        return stride(from: 0, to: flat.count, by: 2).map { flat[$0]..<flat[$0 + 1] }
    }
}

@Suite struct GoldenTests {
    @Test(arguments: [
        "gpt2", "gpt2_prefix", "smollm", "digits_prefix", "llama3", "qwen2", "qwen35", "tekken", "o200k", "added",
        "partial_unk",
        "partial_fused", "partial_dropped", "no_decoder",
    ])
    func equalsTheReference(_ kind: String) throws {
        let golden = try golden(kind)
        let tokenizer = try Tokenizer(tokenizerJSON: golden["tokenizer"]!)
        for example in golden["cases"]!.array! {
            let ids = example["ids"]!.ids
            if let text = example["text"]?.string {
                let encoding = tokenizer.encoding(of: text)
                #expect(encoding.ids == ids, "\(text.debugDescription)")
                #expect(encoding.offsets == example["offsets"]!.ranges, "\(text.debugDescription)")
                #expect(tokenizer.encode(text) == ids)
                #expect(tokenizer.encode(text, addSpecialTokens: false) == example["plain"]?.ids ?? ids)
            }
            for (skip, key) in [(false, "decoded"), (true, "visible")] {
                let expected = ExactString((example[key] ?? example["decoded"]!).string!)
                #expect(ExactString(tokenizer.decode(ids, skipSpecialTokens: skip)) == expected)
                var stream = tokenizer.streamingDecoder(skipSpecialTokens: skip), streamed = ""
                for id in ids { streamed += stream.push(id) }
                streamed += stream.finish()
                #expect(ExactString(streamed) == expected)
            }
        }
    }
}
