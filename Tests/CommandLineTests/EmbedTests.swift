// embed, from the command line, on a BERT of two thousand weights.
import Formats
import Testing

@Suite struct EmbedTests {
    /// A safetensors file of fp32 tensors, each number another.
    private func weights(_ shapes: [(String, [Int])]) -> [UInt8] {
        var header = JSONObject(), data: [UInt8] = []
        for (k, (name, shape)) in shapes.enumerated() {
            let begin = data.count, isNorm = name.hasSuffix("LayerNorm.weight")
            for i in 0..<shape.reduce(1, *) {
                let value = Float((i * 37 + k * 11) % 101 - 50) / 250 + (isNorm ? 1 : 0)
                withUnsafeBytes(of: value.bitPattern.littleEndian) { data += $0 }
            }
            header[name] = [
                "dtype": "F32", "shape": .array(shape.map { .init($0) }),
                "data_offsets": [.init(begin), .init(data.count)],
            ]
        }
        let text = Array(JSONValue.object(header).serialized().utf8)
        return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text + data
    }

    private func writeModel(_ folder: String) throws {
        let D = 8, F = 16
        let config: JSONValue = [
            "model_type": "bert", "vocab_size": 258, "hidden_size": .init(D), "intermediate_size": .init(F),
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 12, "type_vocab_size": 2,
        ]
        var shapes: [(String, [Int])] = [
            ("word_embeddings.weight", [258, D]), ("position_embeddings.weight", [12, D]),
            ("token_type_embeddings.weight", [2, D]), ("LayerNorm.weight", [D]), ("LayerNorm.bias", [D]),
        ].map { ("embeddings." + $0, $1) }
        let maps = [
            ("attention.self.query", D, D), ("attention.self.key", D, D), ("attention.self.value", D, D),
            ("attention.output.dense", D, D), ("intermediate.dense", F, D), ("output.dense", D, F),
        ]
        for (name, outputs, inputs) in maps {
            shapes += [
                ("encoder.layer.0.\(name).weight", [outputs, inputs]), ("encoder.layer.0.\(name).bias", [outputs]),
            ]
        }
        for name in ["attention.output", "output"] {
            shapes += ["weight", "bias"].map { ("encoder.layer.0.\(name).LayerNorm.\($0)", [D]) }
        }
        try writeFileAtomically(config.serialized(), to: joinPath(folder, "config.json"))
        try writeFileAtomically(weights(shapes), to: joinPath(folder, "model.safetensors"))
    }

    @Test func textsBecomeVectors() throws {
        try withTemporaryFolder { folder in
            #expect(try shell("needletail data tiny-model bert --layers 1 --width 8 --heads 2", in: folder).status == 0)
            try writeModel(joinPath(folder, "bert"))
            let rows = #"{"text":"one"}\n{"text":"two"}\n{"text":"a text of more than twelve bytes"}\n{"text":"one"}"#
            let embed = "needletail embed bert --input - --output - --threads 1 --dtype fp32"
            let outcome = try shell("printf '\(rows)\\n' | \(embed) --batch 3", in: folder)
            #expect(outcome.status == 0, "\(outcome.errors)")
            let lines = try outcome.output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
            try #require(lines.count == 4)
            let vectors = lines.map { $0["embedding"]!.array!.map { $0.double! } }
            #expect(
                vectors.allSatisfy { $0.count == 8 } && zip(vectors[0], vectors[3]).allSatisfy { abs($0 - $1) < 1e-5 })
            #expect(zip(vectors[0], vectors[1]).contains { abs($0 - $1) > 1e-3 })
            #expect(lines.map { $0["tokens"]?.int } == [3, 3, 12, 3])
            #expect(outcome.errors == "1 of 4 texts had more than 12 tokens and were cut\n")

            let unit = try shell("printf '{\"text\":\"one\"}\\n' | \(embed) --normalize --pooling cls", in: folder)
            let numbers = try JSONValue.parse(unit.output)["embedding"]!.array!.map { $0.double! }
            #expect(abs(numbers.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)

            let asked = #"{"prompt":"ONE","completion":"1"}\n{"prompt":"quite other","completion":"x"}\n"#
            let decontaminate = "needletail data decontaminate a.jsonl --test t.jsonl --output -"
            let close = try shell(
                "printf '\(asked)' > a.jsonl; head -1 a.jsonl > t.jsonl; \(decontaminate) --match vector --encoder bert --threshold 0.9999",
                in: folder)
            #expect(
                close.status == 0 && close.output.contains("quite other") && !close.output.contains("ONE"), "\(close)")
            let alone = try shell("\(decontaminate) --match vector", in: folder)
            #expect(alone.status == 64 && alone.errors.contains("--match vector and --encoder go together"), "\(alone)")

            for (words, row, status, message) in [
                ("", #"{"prompt":"a"}"#, 65, #"standard input line 1: a string under "text" is needed"#),
                (
                    "--pooling pooler", #"{"text":"a"}"#, 64,
                    "bert: has no pooler (pooler.dense.weight); use mean or cls"
                ),
                ("--batch 0", #"{"text":"a"}"#, 64, "--batch is 1 or more, not 0 (see 'needletail embed --help')"),
            ] {
                let outcome = try shell("printf '\(row)\\n' | \(embed) \(words)", in: folder)
                #expect(outcome.status == Int32(status) && outcome.errors == "error: \(message)\n", "\(outcome)")
            }
        }
    }
}
