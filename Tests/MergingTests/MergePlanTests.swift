// Whole merges of tiny folders: structure, files, threads and shards, and what is refused with which words.
import Diagnostics
import Formats
import Merging
import Testing

private let pair = """
    merge_method: linear
    models:
      - {model: DIR/a, parameters: {weight: 1}}
      - {model: DIR/b, parameters: {weight: 3}}
    dtype: float32

    """
private let ties = """
    merge_method: dare_ties
    base_model: DIR/base
    models:
      - {model: DIR/a, parameters: {weight: 1}}
      - {model: DIR/b, parameters: {weight: 0.5}}
    parameters: {density: 0.5}

    """

struct MergePlanTests {
    /// A base and two fine-tunes of it.
    private func write(_ folder: String, _ change: (inout TinyModel) -> Void = { _ in }) throws {
        for (name, seed, parent) in [("base", 9, nil), ("a", 1, 9), ("b", 2, 9)] as [(String, UInt32, UInt32?)] {
            var model = TinyModel(seed: seed, parent: parent)
            change(&model)
            try model.write(to: joinPath(folder, name))
        }
    }

    private func values(_ name: String, _ count: Int, _ seed: UInt32) -> [Float] {
        TinyModel.values(name, count, seed, 9)
    }

    @Test func linearIsTheWeightedMean() throws {
        try withFolder { folder in
            try write(folder)
            let merged = try merge(pair, folder)
            let name = "model.layers.2.mlp.up_proj.weight"
            let expected = zip(values(name, 96, 1), values(name, 96, 2)).map { ($0 + 3 * $1) / 4 }
            for (a, b) in zip(try merged.values(name), expected) { #expect(abs(a - b) < 1e-6) }
            #expect(merged.weights.names.count == 39 && merged.config["torch_dtype"] == "float32")
            #expect(merged.config["tie_word_embeddings"] == false)
            for file in ["README.md", "mergekit_config.yml", "merge.json"] {
                #expect(fileExists(joinPath(merged.folder, file)))
            }
        }
    }

    /// Layers by hand: output layers 0-2 from a's 0-2, 3-5 from b's 1-3, head and norm from base.
    @Test func stackedLayersAndDonors() throws {
        try withFolder { folder in
            try write(folder)
            let merged = try merge(
                """
                merge_method: passthrough
                slices:
                  - sources: [{model: DIR/a, layer_range: [0, 3]}]
                  - sources: [{model: DIR/b, layer_range: [1, 4]}]
                  - sources: [{model: DIR/base, layer_range: [4, 4]}]
                """, folder)
            #expect(merged.config["num_hidden_layers"] == 6 && merged.weights.names.count == 57)
            let part = "self_attn.q_proj.weight"
            for (output, source, seed) in [(0, 0, 1), (2, 2, 1), (3, 1, 2), (5, 3, 2)] as [(Int, Int, UInt32)] {
                #expect(
                    try merged.values("model.layers.\(output).\(part)")
                        == values("model.layers.\(source).\(part)", 64, seed))
            }
            #expect(try merged.values("model.embed_tokens.weight") == values("model.embed_tokens.weight", 160, 1))
            #expect(try merged.values("lm_head.weight") == TinyModel.values("lm_head.weight", 160, 9, nil))
            #expect(try merged.values("model.norm.weight") == TinyModel.values("model.norm.weight", 8, 9, nil))
        }
    }

    @Test func shardsAndThreadsChangeNoByte() throws {
        try withFolder { folder in
            try write(folder)
            let one = try merge(ties, folder, name: "one") { $0.threads = 1 }
            let contents = try one.contents()
            for (size, threads) in [(7_000, 2), (3_000, 3), (5_000_000_000, 2)] {
                let other = try merge(ties, folder, name: "s\(size)-\(threads)") {
                    ($0.maxShardBytes, $0.threads) = (size, threads)
                }
                #expect(try other.contents() == contents, "shards of \(size), \(threads) threads")
                #expect((other.weights.files.count > 1) == (size < 5_000_000_000))
            }
            #expect(
                try readFile(joinPath(one.folder, "model.safetensors"))
                    == readFile(joinPath(folder, "s5000000000-2/model.safetensors")))
            let seeded = try merge(ties + "seed: 1", folder, name: "seeded")
            #expect(try seeded.contents() != contents)
        }
    }

    /// A tensor opens a new shard when it does not fit; the index and the names are Hugging Face's.
    @Test func shardsFollowTheRule() throws {
        try withFolder { folder in
            try write(folder)
            let merged = try merge(pair, folder) { $0.maxShardBytes = 3_000 }
            let index = try readJSONFile(joinPath(merged.folder, "model.safetensors.index.json"))
            let total = merged.weights.names.reduce(0) { $0 + merged.weights.info($1)!.byteRange.count }
            #expect(index["metadata"]?["total_size"]?.int == total)
            for file in merged.weights.files {
                #expect(file.metadata("format") == "pt")
                #expect(file.tensors.count == 1 || file.tensors.reduce(0) { $0 + $1.byteRange.count } <= 3_000)
            }
            // By name over all shards, as mergekit writes: the head before the layers.
            let names = merged.weights.files.map { $0.tensors.map(\.name) }
            for (shard, next) in zip(names, names.dropFirst()) { #expect(shard.max()! < next.min()!) }
            let count = merged.weights.files.count
            #expect(
                fileName(of: merged.weights.files[0].path)
                    == "model-00001-of-\(String(repeating: "0", count: 5 - "\(count)".count))\(count).safetensors")
        }
    }

    @Test func tiedTablesAreDescribedAsWritten() throws {
        try withFolder { folder in
            try write(folder) { $0.tied = $0.seed != 2 }
            // a is tied, b is not: a's embedding serves as its head.
            let mixed = try merge(pair, folder, name: "mixed"), head = "lm_head.weight",
                table = "model.embed_tokens.weight"
            #expect(mixed.config["tie_word_embeddings"] == false)
            let expected = zip(values(table, 160, 1), values(head, 160, 2)).map { ($0 + 3 * $1) / 4 }
            for (a, b) in zip(try mixed.values(head), expected) { #expect(abs(a - b) < 1e-6) }
            let tied = try merge(
                "merge_method: linear\nmodels: [{model: DIR/a}, {model: DIR/base}]\nparameters: {weight: 1}", folder,
                name: "tied")
            #expect(tied.config["tie_word_embeddings"] == true && tied.weights.info(head) == nil)
        }
    }

    @Test func typesAreRoundedOnce() throws {
        try withFolder { folder in
            try write(folder) { $0.type = $0.seed == 1 ? .bf16 : .f16 }
            let name = "model.layers.0.mlp.up_proj.weight"
            // Without a type the inputs' common one; with out_dtype rounded from the same f32 values.
            let wide = try merge(String(pair.dropLast("dtype: float32\n\n".count)), folder, name: "wide")
            #expect(wide.weights.info(name)?.elementType == .f32)
            let narrow = try merge(pair + "out_dtype: bfloat16", folder, name: "narrow")
            #expect(narrow.config["dtype"] == "bfloat16")
            for (a, b) in zip(try narrow.values(name), try wide.values(name)) {
                #expect(a == floatFromBF16(bf16FromFloat(b)))
            }
        }
    }

    @Test func wholeNumbersAreCopiedWhenEqual() throws {
        try withFolder { folder in
            for (name, first) in [("a", 0), ("b", 0), ("c", 1)] {
                let ids = [Int64(first), 5, 7]
                try createDirectories(joinPath(folder, name))
                try ids.withUnsafeBytes { ids in
                    try SafetensorsWriter.write(
                        path: joinPath(folder, "\(name)/model.safetensors"),
                        tensors: [.init(name: "embeddings.position_ids", elementType: .i64, shape: [3], bytes: ids)])
                }
                try writeFileAtomically("{\"model_type\": \"x\"}", to: joinPath(folder, "\(name)/config.json"))
            }
            let yaml =
                "merge_method: linear\nmodels: [{model: DIR/a}, {model: DIR/b}]\nparameters: {weight: 1}\ndtype: float16"
            let merged = try merge(yaml, folder)
            #expect(merged.weights.info("embeddings.position_ids")?.elementType == .i64)
            let found = complaint { _ = try merge(yaml.replacing("DIR/b", with: "DIR/c"), folder, name: "other") }
            #expect(found.contains("hold different whole numbers") && !pathExists(joinPath(folder, "other")))
        }
    }

    @Test func bareFilesMergeIntoAFile() throws {
        try withFolder { folder in
            try write(folder)
            let yaml = pair.replacing("DIR/a", with: "DIR/a/model.safetensors").replacing(
                "DIR/b", with: "DIR/b/model.safetensors")
            let plan = try MergePlan(try parseMerge(yaml, folder), opened: MergeModels())
            var options = MergeOptions()
            options.showsProgress = false
            try plan.write(to: joinPath(folder, "out.safetensors"), nil, options)
            let merged = try merge(pair, folder, name: "folder")
            #expect(
                try readFile(joinPath(folder, "out.safetensors"))
                    == readFile(joinPath(merged.folder, "model.safetensors")))
            #expect(try listFolder(folder).count == 5)
        }
    }

    /// For those who want no files: the same bytes as in the file.
    @Test func tensorsWithoutFiles() throws {
        try withFolder { folder in
            try write(folder)
            let plan = try MergePlan(try parseMerge(ties, folder), opened: MergeModels())
            var found: [String: [UInt8]] = [:]
            try plan.forEachTensor { tensor, produce in
                var bytes: [UInt8] = []
                try produce { bytes += $0 }
                found["\(tensor.name) \(tensor.elementType) \(tensor.shape)"] = bytes
            }
            #expect(found == (try merge(ties, folder).contents()))
        }
    }

    /// `path+adapter`: W + (alpha / r) B A in the place of W.
    @Test func adaptersAreAdded() throws {
        try withFolder { folder in
            try write(folder)
            let map = "model.layers.1.self_attn.q_proj", name = "\(map).weight"
            let a = TinyModel.values("A", 8, 3, nil), b = TinyModel.values("B", 8, 4, nil)
            try createDirectories(joinPath(folder, "adapter"))
            try a.withUnsafeBytes { a in
                try b.withUnsafeBytes { b in
                    try SafetensorsWriter.write(
                        path: joinPath(folder, "adapter/adapter_model.safetensors"),
                        tensors: [
                            .init(
                                name: "base_model.model.\(map).lora_A.weight", elementType: .f32, shape: [1, 8],
                                bytes: a),
                            .init(
                                name: "base_model.model.\(map).lora_B.weight", elementType: .f32, shape: [8, 1],
                                bytes: b),
                        ])
                }
            }
            try writeFileAtomically(
                "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 2, \"target_modules\": [\"q_proj\"]}",
                to: joinPath(folder, "adapter/adapter_config.json"))
            let merged = try merge("merge_method: passthrough\nmodels: [{model: DIR/a+DIR/adapter}]", folder)
            let w = values(name, 64, 1)
            for (i, value) in try merged.values(name).enumerated() {
                #expect(abs(value - (w[i] + 2 * b[i / 8] * a[i % 8])) < 1e-6)
            }
            let other = "model.layers.0.self_attn.q_proj.weight"
            #expect(try merged.values(other) == values(other, 64, 1))
        }
    }

    /// What is planned is what is written, tensor by tensor and in all; planning and measuring write nothing.
    @Test(arguments: [pair, ties, pair + "out_dtype: bfloat16", pair + "out_dtype: float16"])
    func aPlanIsWhatIsWritten(_ yaml: String) throws {
        try withFolder { folder in
            try write(folder)
            let plan = try MergePlan(try parseMerge(yaml, folder), opened: MergeModels())
            let json = plan.json(try plan.estimate(threads: 1, secondsOfSample: 0.05))
            #expect(try listFolder(folder) == ["a", "b", "base"])
            let merged = try merge(yaml, folder), weights = merged.weights
            #expect(json["output_bytes"]?.int == weights.names.reduce(0) { $0 + weights.info($1)!.byteRange.count })
            let planned = json["tensors"]!.array!
            #expect(
                planned.count == weights.names.count && Set(planned.map { $0["name"]!.string! }) == Set(weights.names))
            for tensor in planned {
                let info = try #require(weights.info(tensor["name"]!.string!))
                #expect(tensor["shape"]!.array!.map { $0.int! } == info.shape)
                #expect(tensor["dtype"]!.string! == info.elementType.rawValue)
            }
            #expect(json["elements"]?.int == plan.tensors.reduce(0) { $0 + $1.elementCount })
            #expect(json["working_memory_bytes"]!.int! >= 0 && json["seconds"]!.double! > 0)
        }
    }

    /// A model of three parts, each merged in its own way: text layers 0, 1 and 3 with weights 1 and 3, a vision tower
    /// with equal weights, a projector of b and the base. By elementary arithmetic.
    @Test func everyModuleIsMergedByItsOwnSettings() throws {
        try withFolder { folder in
            try write(folder) { model in
                model.prefix = "language_model."
                model.more =
                    (0..<2).map { ("vision_tower.encoder.layers.\($0).fc.weight", [6, 6]) }
                    + [
                        ("vision_tower.patch_embedding.weight", [6, 3]),
                        ("multi_modal_projector.linear.weight", [8, 6]),
                    ]
                model.moreConfig["text_config"] = ["num_hidden_layers": 4, "vocab_size": 20]
                model.moreConfig["vision_config"] = ["num_hidden_layers": 2]
                model.moreConfig["num_hidden_layers"] = .null
            }
            let merged = try merge(
                """
                merge_method: linear
                modules:
                  text_decoder:
                    slices:
                      - sources: [{model: DIR/a, layer_range: [0, 2]}, {model: DIR/b, layer_range: [0, 2], parameters: {weight: 3}}]
                      - sources: [{model: DIR/a, layer_range: [3, 4]}, {model: DIR/b, layer_range: [3, 4], parameters: {weight: 3}}]
                  vision_tower:
                    models: [{model: DIR/a}, {model: DIR/b}]
                    parameters: {weight: 2}
                  multi_modal_projector:
                    models: [{model: DIR/b}, {model: DIR/base, parameters: {weight: 4}}]
                parameters: {weight: 1}
                """, folder)
            func expect(
                _ output: String, _ shape: [Int], from input: String? = nil, _ mean: (Float, Float, Float) -> Float
            ) throws {
                let name = input ?? output, count = shape.reduce(1, *)
                let base = TinyModel.values(name, count, 9, nil)
                let expected = zip(zip(values(name, count, 1), values(name, count, 2)), base).map {
                    mean($0.0, $0.1, $1)
                }
                #expect(merged.weights.info(output)?.shape == shape)
                for (a, b) in zip(try merged.values(output), expected) { #expect(abs(a - b) < 1e-6, "\(output)") }
            }
            for (output, input) in [(0, 0), (1, 1), (2, 3)] {
                let part = "self_attn.q_proj.weight", stack = "language_model.model.layers"
                try expect("\(stack).\(output).\(part)", [8, 8], from: "\(stack).\(input).\(part)") { a, b, _ in
                    (a + 3 * b) / 4
                }
            }
            for name in ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"] {
                try expect(name, [20, 8]) { a, b, _ in (a + 3 * b) / 4 }
            }
            for layer in 0..<2 {
                try expect("vision_tower.encoder.layers.\(layer).fc.weight", [6, 6]) { a, b, _ in (a + b) / 2 }
            }
            try expect("vision_tower.patch_embedding.weight", [6, 3]) { a, b, _ in (a + b) / 2 }
            try expect("multi_modal_projector.linear.weight", [8, 6]) { _, b, base in (b + 4 * base) / 5 }
            #expect(merged.weights.names.count == 39 - 9 + 4)
            #expect(merged.config["text_config"]?["num_hidden_layers"] == 3)
            #expect(merged.config["vision_config"]?["num_hidden_layers"] == 2)
        }
    }

    @Test func laterDocumentsUseEarlierResults() throws {
        try withFolder { folder in
            try write(folder)
            let yaml = """
                name: needletail-first
                merge_method: linear
                models: [{model: DIR/a, parameters: {weight: 1}}, {model: DIR/b, parameters: {weight: 3}}]
                ---
                merge_method: linear
                models: [{model: needletail-first}, {model: DIR/base}]
                parameters: {weight: 1}
                """.replacing("DIR", with: folder)
            func run(_ yaml: String, _ output: String) throws -> [String] {
                var lines: [String] = [], options = MergeOptions()
                options.showsProgress = false
                try MergeDocuments(MergeConfig.parse(yaml, source: "m.yaml")).write(
                    to: joinPath(folder, output), intermediates: joinPath(folder, "parts"), opened: MergeModels(),
                    options
                ) { lines.append($0) }
                return lines
            }
            #expect(try run(yaml, "one")[0].contains("wrote"))
            #expect(try run(yaml, "two")[0].contains("used again"))
            #expect(try run(yaml.replacing("weight: 3", with: "weight: 4"), "three")[0].contains("made anew"))
            #expect(
                try MergedModel(joinPath(folder, "one")).contents() == MergedModel(joinPath(folder, "two")).contents())
            #expect(
                try MergedModel(joinPath(folder, "one")).contents() != MergedModel(joinPath(folder, "three")).contents()
            )
            let name = "model.norm.weight", base = TinyModel.values(name, 8, 9, nil)
            let first = zip(values(name, 8, 1), values(name, 8, 2)).map { ($0 + 3 * $1) / 4 }
            for (a, b) in zip(
                try MergedModel(joinPath(folder, "one")).values(name), zip(first, base).map { ($0 + $1) / 2 })
            {
                #expect(abs(a - b) < 1e-6)
            }
        }
    }

    // MARK: refusals

    /// Nothing is left behind by a merge that fails, whenever it does.
    private func refusal(_ yaml: String, _ change: (inout TinyModel) -> Void = { _ in }) throws -> String {
        try withFolder { folder in
            try write(folder, change)
            let found = complaint { _ = try merge(yaml, folder) }
            #expect(try listFolder(folder) == ["a", "b", "base"], "something is left behind")
            #expect(!found.isEmpty && !found.contains("\n"), "one line")
            return found.replacing(folder, with: "DIR")
        }
    }

    @Test func faultyInputsAreNamed() throws {
        func on(_ seed: UInt32, _ tensor: String, _ edit: @escaping ([Int], [Float]) -> ([Int], [Float])?) -> (
            inout TinyModel
        ) -> Void {
            { model in if model.seed == seed { model.edit = { $0 == tensor ? edit($1, $2) : ($1, $2) } } }
        }
        let q = "model.layers.2.self_attn.q_proj.weight"
        #expect(try refusal(pair, on(2, q) { _, _ in nil }).contains("DIR/b: no tensor \(q), which DIR/a has"))
        #expect(
            try refusal(pair, on(2, q) { _, values in ([4, 16], values) })
                == "tensor \(q): shape [8, 8] in DIR/a, [4, 16] in DIR/b")
        let nan = try refusal(pair, on(2, q) { shape, values in (shape, values.dropLast() + [.nan]) })
        #expect(nan.contains("DIR/b: tensor \(q): element 63 is nan"))
        let large = try refusal(
            pair + "out_dtype: float16", on(2, q) { shape, values in (shape, values.map { $0 * 1e6 }) })
        #expect(
            large.hasPrefix("tensor \(q) holds the number ")
                && large.hasSuffix(", which F16 cannot; write bf16 or f32"))
        #expect(
            try refusal(pair) { $0.layers = $0.seed == 2 ? 3 : 4 }.contains("models: DIR/b has 3 layers, DIR/a has 4"))
        let vocabularies = try refusal(pair) { $0.vocabSize = $0.seed == 2 ? 24 : 20 }
        #expect(
            vocabularies.contains(
                "shape [20, 8] in DIR/a, [24, 8] in DIR/b; the vocabularies differ: add tokenizer_source"))
        #expect(
            try refusal(pair) { if $0.seed == 2 { $0.architecture = "MistralForCausalLM" } }.contains(
                "DIR/b: is a MistralForCausalLM, and DIR/a a LlamaForCausalLM"))
        // A base of its own random numbers instead of the one that a and b come from.
        let stranger = try refusal(ties) { if $0.seed == 9 { $0.seed = 77 } }
        #expect(stranger.hasPrefix("DIR/base: not the base that DIR/a was trained from: the cosine"))
    }

    @Test(arguments: [
        (
            "merge_method: slerp\nbase_model: DIR/a\nmodels: [{model: DIR/a}, {model: DIR/b}, {model: DIR/base}]\nparameters: {t: 0.5}",
            "slerp takes two models"
        ),
        ("merge_method: ties\nmodels: [{model: DIR/a, parameters: {weight: 1}}]", "ties needs base_model"),
        (
            "merge_method: linear\nmodels: [{model: DIR/a}, {model: DIR/a}]\nparameters: {weight: 1}",
            "DIR/a is listed twice"
        ),
        (
            "merge_method: linear\nmodels: [{model: DIR/a}, {model: DIR/none}]\nparameters: {weight: 1}",
            "DIR/none: no such file or folder"
        ),
        ("merge_method: linear\nmodels: [{model: DIR/a@main}]\nparameters: {weight: 1}", "a folder has no revisions"),
        (
            "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: [{model: DIR/a, layer_range: [0, 2]}, {model: DIR/b, layer_range: [0, 1]}]}]",
            "slices[0]: DIR/b gives 1 layer, DIR/a 2"
        ),
        (
            "merge_method: passthrough\nslices: [{sources: [{model: DIR/a, layer_range: [3, 5]}]}]",
            "DIR/a has layers 0 to 3; layer_range [3, 5] goes beyond"
        ),
        (
            "merge_method: task_arithmetic\nbase_model: DIR/base\nslices: [{sources: [{model: DIR/a, layer_range: [0, 1], parameters: {weight: 1}}]}]",
            "slices[0]: the base DIR/base is not among its sources"
        ),
        (
            "merge_method: della\nbase_model: DIR/base\nmodels: [{model: DIR/a, parameters: {weight: 1, density: 0.95}}]",
            "density"
        ),
        (
            "merge_method: linear\nmodules: {encoder: {models: [{model: DIR/a}]}, decoder: {models: [{model: DIR/a}]}}\nparameters: {weight: 1}",
            "modules.decoder: no tensor"
        ),
    ])
    func impossibleMergesAreRefused(_ yaml: String, _ message: String) throws {
        let found = try refusal(yaml)
        #expect(found.contains(message), "\(found)")
    }

    @Test func pickleAndExistingOutputAreRefused() throws {
        try withFolder { folder in
            try write(folder)
            try createDirectories(joinPath(folder, "p"))
            try writeFileAtomically("{}", to: joinPath(folder, "p/config.json"))
            try writeFileAtomically([0x80, 0x02], to: joinPath(folder, "p/pytorch_model.bin"))
            let found = complaint {
                _ = try merge("merge_method: linear\nmodels: [{model: DIR/p}]\nparameters: {weight: 1}", folder)
            }
            #expect(found.contains("pickle files are never read"))
            #expect(complaint { _ = try merge(pair, folder, name: "a") }.hasPrefix("cannotWrite: "))
        }
    }
}
