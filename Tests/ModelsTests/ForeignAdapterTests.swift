// Adapters of MLX and torchtune compute what PEFT's do.
import Checkpoints
import Diagnostics
import Formats
import Layers
import Merging
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing

@Suite struct ForeignAdapterTests {
    private let rank = 3

    /// `[O, I]` of the maps adapted, in the last layer alone.
    private let maps = [
        ("self_attn.q_proj", 32, 32), ("self_attn.k_proj", 16, 32), ("self_attn.o_proj", 32, 32),
        ("mlp.down_proj", 32, 48),
    ]

    private func matrices() -> [(module: String, a: Tensor, b: Tensor)] {
        maps.enumerated().map { i, map in
            (map.0, filled([rank, map.2], 2 * i, scale: 1), filled([map.1, rank], 2 * i + 1, scale: 1))
        }
    }

    private func write(_ folder: String, _ file: String, _ tensors: [(String, Tensor)], _ config: JSONValue) throws {
        try createDirectories(folder)
        try SafetensorsWriter.write(
            path: joinPath(folder, file), tensors: tensors.map { .init($0.0, $0.1.contiguous(), nil) })
        try writeFileAtomically(config.serialized(), to: joinPath(folder, "adapter_config.json"))
    }

    private func peftConfig(_ base: String) -> JSONValue {
        [
            "peft_type": "LORA", "r": .init(rank), "lora_alpha": 6, "base_model_name_or_path": .string(base),
            "target_modules": .array(maps.map { .string("model.layers.1." + $0.0) }),
        ]
    }

    private func logits(_ folder: String) throws -> Tensor { try load(folder).model.allLogits(someIDs(9, seed: 1)) }

    /// A base and its PEFT adapter.
    private func prepare(_ folder: TemporaryFolder, _ family: TinyFamily = .llama) throws {
        try writeFolder(folder["base"], family.config, tinyModel(family.config))
        try write(
            folder["peft"], "adapter_model.safetensors",
            matrices().flatMap { module, a, b in
                let name = "base_model.model.model.layers.1.\(module)"
                return [(name + ".lora_A.weight", a), (name + ".lora_B.weight", b)]
            }, peftConfig(folder["base"]))
    }

    @Test func mlx() throws {
        let folder = try TemporaryFolder()
        try prepare(folder)
        let config: JSONValue = [
            "fine_tune_type": "lora", "model": .string(folder["base"]), "num_layers": 1,
            "lora_parameters": ["rank": .init(rank), "scale": 2.0, "dropout": 0.0],
        ]
        let tensors = matrices().flatMap { module, a, b in
            let name = "model.layers.1.\(module)"
            return [(name + ".lora_a", a.transpose(0, 1)), (name + ".lora_b", b.transpose(0, 1))]
        }
        try write(folder["mlx"], "adapters.safetensors", tensors, config)
        let expected = try logits(folder["peft"])
        #expect(relativeDifference(try logits(folder["mlx"]), expected) == 0)
        #expect(relativeDifference(try logits(folder["base"]), expected) > 1e-3)

        let wrong: [(String, KeyValuePairs<String, JSONValue?>, String)] = [
            ("full", ["fine_tune_type": "full"], "\"fine_tune_type\" is full"),
            ("rank", ["lora_parameters": ["rank": 4, "scale": 2.0]], "the rank is 4"),
            ("none", ["lora_parameters": nil], "neither peft_type nor MLX's lora_parameters"),
        ]
        for (name, change, message) in wrong {
            try write(folder[name], "adapters.safetensors", tensors, config.changing(change))
            let error = #expect(throws: UserError.self) { try logits(folder[name]) }
            #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
        }
        try write(folder["odd"], "adapters.safetensors", tensors + [("model.norm.weight", Tensor.zeros([32]))], config)
        #expect(throws: UserError.self) { try logits(folder["odd"]) }
    }

    /// PEFT's ranks, alphas and targets by patterns: one rank and one alpha with the rest in the matrices computes the same.
    @Test func patterns() throws {
        let folder = try TemporaryFolder(), ranks = [3, 2, 3, 1], alphas = [6.0, 6, 5, 9]
        try writeFolder(folder["base"], TinyFamily.llama.config, tinyModel(TinyFamily.llama.config))
        let config = peftConfig(folder["base"]).changing([
            "target_modules": #".*\.1\.(self_attn\.[qko]|mlp\.down)_proj"#, "layers_to_transform": [1],
            "rank_pattern": ["k_proj": 2, "down_proj": 1],
            "alpha_pattern": ["(self_attn|mlp).o_proj": 5, "down_proj": 9],
        ])
        var theirs: [(String, Tensor)] = [], plain = theirs
        for (i, (module, a, b)) in matrices().enumerated() {
            let name = "base_model.model.model.layers.1.\(module)", r = ranks[i]
            theirs.append((name + ".lora_A.weight", a.narrow(0, 0, r)))
            theirs.append((name + ".lora_B.weight", b.narrow(1, 0, r)))
            let rest = Tensor.zeros([b.shape[0], rank - r])
            let filled = r == rank ? b : Tensor.cat([b.narrow(1, 0, r), rest], dim: 1)
            plain.append((name + ".lora_A.weight", a))
            plain.append((name + ".lora_B.weight", filled * (alphas[i] / Double(r) / 2)))
        }
        try write(folder["patterned"], "adapter_model.safetensors", theirs, config)
        try write(folder["plain"], "adapter_model.safetensors", plain, peftConfig(folder["base"]))
        let expected = try logits(folder["plain"])
        #expect(relativeDifference(try logits(folder["patterned"]), expected) < 1e-6)
        #expect(relativeDifference(try logits(folder["base"]), expected) > 1e-3)

        let wrong: [(String, KeyValuePairs<String, JSONValue?>, String)] = [
            ("alpha", ["alpha_pattern": ["q_proj": "much"]], "\"alpha_pattern\" q_proj is no number"),
            ("regex", ["alpha_pattern": ["(q_proj": 5]], "\"alpha_pattern\" (q_proj: "),
            ("bias", ["bias": "lora_only"], "\"bias\""),
            ("saved", ["modules_to_save": ["lm_head"]], "holds no lm_head"),
        ]
        for (name, change, message) in wrong {
            try write(folder[name], "adapter_model.safetensors", theirs, config.changing(change))
            let error = #expect(throws: UserError.self) { try logits(folder[name]) }
            #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
        }
        try write(
            folder["scalar"], "adapter_model.safetensors",
            theirs + [("base_model.model.model.norm.weight", Tensor([Float(1)], []))], config)
        #expect(throws: UserError.self) { try logits(folder["scalar"]) }
        try write(
            folder["zero"], "adapter_model.safetensors", theirs,
            config.changing(["lora_alpha": 0, "alpha_pattern": [:]]))
        #expect(relativeDifference(try logits(folder["zero"]), try logits(folder["base"])) < 1e-6)
    }

    /// A base with tied tables in `tied`, the same with two tables in `two`, and an adapter's linear maps.
    private func prepareTables(_ folder: TemporaryFolder) throws -> (table: Tensor, maps: [(String, Tensor)]) {
        try prepare(folder)
        let config = TinyFamily.llama.config, tied = config.changing(["tie_word_embeddings": true])
        let model = try tinyModel(tied), table = model.tokenTable.weight.value
        try writeFolder(folder["tied"], tied, model)
        try writeFolder(folder["two"], config, fileTensors(of: model) + [.init("lm_head.weight", table, nil)])
        let file = try SafetensorsFile(path: joinPath(folder["peft"], "adapter_model.safetensors"))
        return (table, try file.tensors.map { ($0.name, try file.tensor($0.name)) })
    }

    /// Low-rank maps of the tables, on bases with one table and with two: the model with these tables whole.
    @Test(arguments: [(true, false), (false, true), (true, true)])
    func adaptedTables(_ ofTokens: Bool, _ ofOutputs: Bool) throws {
        let folder = try TemporaryFolder(), (table, maps) = try prepareTables(folder)
        let root = "base_model.model.", tokens = root + "model.embed_tokens.", head = root + "lm_head."
        let a = filled([rank, 64], 50, scale: 1), b = filled([32, rank], 51, scale: 1)
        let a2 = filled([rank, 32], 52, scale: 1), b2 = filled([64, rank], 53, scale: 1)
        var theirs = maps, whole = maps
        whole.append((tokens + "weight", ofTokens ? table + b.matmul(a).transpose(0, 1) * 2 : table))
        whole.append((head + "weight", ofOutputs ? table + b2.matmul(a2) * 2 : table))
        if ofTokens { theirs += [(tokens + "lora_embedding_A", a), (tokens + "lora_embedding_B", b)] }
        if ofOutputs { theirs += [(head + "lora_A.weight", a2), (head + "lora_B.weight", b2)] }
        let saved: KeyValuePairs<String, JSONValue?> = ["modules_to_save": ["embed_tokens", "lm_head"]]
        try write(folder["whole"], "adapter_model.safetensors", whole, peftConfig(folder["two"]).changing(saved))
        let expected = try logits(folder["whole"])
        #expect(relativeDifference(try logits(folder["two"]), expected) > 1e-2)
        for base in ["tied", "two"] {
            let config = peftConfig(folder[base])
            try write(folder["adapted"], "adapter_model.safetensors", theirs, config)
            try write(folder["saved"], "adapter_model.safetensors", whole, config.changing(saved))
            // Peft writes the table that it adapts beside its map.
            let beside = [(ofTokens ? tokens + "base_layer.weight" : head + "base_layer.weight", table)]
            try write(folder["beside"], "adapter_model.safetensors", theirs + beside, config)
            // One table alone: the other is the base's.
            let names = (ofTokens ? ["embed_tokens"] : []) + (ofOutputs ? ["lm_head"] : [])
            let some = whole.filter { name, _ in
                !name.hasSuffix(".weight") || name.contains(".lora_")
                    || names.contains { name.hasSuffix("\($0).weight") }
            }
            try write(
                folder["some"], "adapter_model.safetensors", some,
                config.changing(["modules_to_save": .array(names.map { .string($0) })]))
            // And its own two names of a table that it trains whole.
            let twice = ["original_module", "modules_to_save"].map { (head + "\($0).weight", table) }
            try write(folder["twice"], "adapter_model.safetensors", whole + twice, config.changing(saved))
            for adapter in ["adapted", "saved", "beside", "some", "twice"] {
                try expectTables(folder, adapter, expected)
            }
        }
    }

    /// DoRA of both tables: columns of the token table and rows of the output table have the lengths of the magnitudes.
    @Test(arguments: ["", ".weight"])
    func magnitudesOfTables(_ ending: String) throws {
        let folder = try TemporaryFolder(), (table, maps) = try prepareTables(folder)
        let root = "base_model.model.", tokens = root + "model.embed_tokens.", head = root + "lm_head."
        let a = filled([rank, 64], 50, scale: 1), b = filled([32, rank], 51, scale: 1),
            ofColumns = filled([32], 54, scale: 1)
        let a2 = filled([rank, 32], 52, scale: 1), b2 = filled([64, rank], 53, scale: 1),
            ofRows = filled([64], 55, scale: 1)
        let tokenTable = table + b.matmul(a).transpose(0, 1) * 2, headTable = table + b2.matmul(a2) * 2
        func lengths(_ table: Tensor, _ dim: Int) -> Tensor { (table * table).sum(dim: dim, keepDim: true).sqrt() }
        let whole =
            maps + [
                (tokens + "weight", tokenTable / lengths(tokenTable, 0) * ofColumns),
                (head + "weight", headTable / lengths(headTable, 1) * ofRows.reshape([64, 1])),
            ]
        let theirs =
            maps + [
                (tokens + "lora_embedding_A", a), (tokens + "lora_embedding_B", b),
                (tokens + "lora_magnitude_vector" + ending, ofColumns), (head + "lora_A.weight", a2),
                (head + "lora_B.weight", b2), (head + "lora_magnitude_vector" + ending, ofRows),
            ]
        let config = peftConfig(folder["tied"])
        try write(
            folder["whole"], "adapter_model.safetensors", whole,
            config.changing(["modules_to_save": ["embed_tokens", "lm_head"]]))
        try write(folder["adapted"], "adapter_model.safetensors", theirs, config)
        try expectTables(folder, "adapted", logits(folder["whole"]))
    }

    /// The adapter gives these scores, and so do the folder of its merged weights and what a merge reads of it.
    private func expectTables(_ folder: TemporaryFolder, _ adapter: String, _ expected: Tensor) throws {
        let loaded = try load(folder[adapter])
        #expect(relativeDifference(loaded.model.allLogits(someIDs(9, seed: 1)), expected) < 1e-5, "\(adapter)")
        try loaded.writeMerged(to: folder["merged"], .float32)
        #expect(relativeDifference(try logits(folder["merged"]), expected) < 1e-5, "\(adapter)")
        let model = try MergeModel(MergeModelReference(folder[adapter]))
        #expect(model.config?["tie_word_embeddings"] == false)
        let merged = try SafetensorsFile(path: joinPath(folder["merged"], "model.safetensors"))
        #expect(Set(model.tensorNames) == Set(merged.tensors.map(\.name)))
        for name in ["lm_head.weight", "model.embed_tokens.weight"] {
            let wanted = try merged.tensor(name).values(Float.self)
            #expect(try model.form(name)?.shape == [64, 32])
            let reader = try model.tensor(name)
            let found = try [Float](unsafeUninitializedCapacity: wanted.count) { buffer, count in
                try reader.read(0..<wanted.count, into: buffer.baseAddress!)
                count = wanted.count
            }
            #expect(zip(found, wanted).allSatisfy { abs($0 - $1) < 1e-6 }, "\(adapter) \(name)")
        }
    }

    @Test func tablesThatDoNotFit() throws {
        let folder = try TemporaryFolder(), (_, maps) = try prepareTables(folder)
        let tokens = "base_model.model.model.embed_tokens.", a = Tensor.zeros([rank, 64]), b = Tensor.zeros([32, rank])
        let pair = [(tokens + "lora_embedding_A", a), (tokens + "lora_embedding_B", b)]
        let wrong: [(String, [(String, Tensor)], String)] = [
            (
                "shape", maps + [pair[0], (pair[1].0, Tensor.zeros([31, rank]))],
                "do not fit the table of shape [64, 32]"
            ),
            (
                "dora", maps + pair + [(tokens + "lora_magnitude_vector", Tensor.zeros([1, 32]))],
                "lora_magnitude_vector has shape [1, 32] and type F32; floating-point numbers of shape [32] fit"
            ),
            ("alone", pair, "holds no tensor of a linear map, only tables"),
            ("half", maps + [pair[0]], "lora_embedding_A"),
        ]
        for (name, tensors, message) in wrong {
            try write(folder[name], "adapter_model.safetensors", tensors, peftConfig(folder["tied"]))
            let error = #expect(throws: UserError.self) { try logits(folder[name]) }
            #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
        }
    }

    /// Tables that PEFT has added on its own count as trained.
    @Test func unlistedTables() throws {
        let folder = try TemporaryFolder()
        try prepare(folder)
        let file = try SafetensorsFile(path: joinPath(folder["peft"], "adapter_model.safetensors"))
        let own = try file.tensors.map { ($0.name, try file.tensor($0.name)) }
        let table = [("base_model.model.model.embed_tokens.weight", filled([64, 32], 40, scale: 1))]
        try write(folder["unlisted"], "adapter_model.safetensors", own + table, peftConfig(folder["base"]))
        let listed = peftConfig(folder["base"]).changing(["modules_to_save": ["embed_tokens"]])
        try write(folder["listed"], "adapter_model.safetensors", own + table, listed)
        let expected = try logits(folder["listed"])
        #expect(relativeDifference(try logits(folder["unlisted"]), expected) == 0)
        // What is rewritten keeps the tokenizer that lies beside it.
        try writeFileAtomically("{}", to: folder["unlisted"] + "/tokenizer.json")
        #expect(try ModelReference(folder["unlisted"]).tokenizerFolder == folder["unlisted"])
        #expect(try ModelReference(folder["peft"]).tokenizerFolder == folder["base"])
        #expect(relativeDifference(try logits(folder["peft"]), expected) > 1e-3)
    }

    /// Meta's families have the rows of q and k in pairs; Qwen's have not.
    @Test(arguments: [TinyFamily.llama, .qwen3]) func torchtune(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder()
        try prepare(folder, .llama)
        if family != .llama {  // the same weights under another name would not load, so only the file is looked at
            let config = TinyFamily.llama.config.changing(["model_type": .string(family.rawValue)])
            try writeFileAtomically(config.serialized(), to: folder["base"] + "/config.json")
        }
        let names = [
            "self_attn.q_proj": "attn.q_proj", "self_attn.k_proj": "attn.k_proj",
            "self_attn.o_proj": "attn.output_proj",
            "mlp.down_proj": "mlp.w2",
        ]
        /// Halves to pairs: `[heads, 2, E / 2, r]` -> `[heads, E / 2, 2, r]`.
        func paired(_ b: Tensor, _ heads: Int) -> Tensor {
            let (rows, columns) = (b.shape[0], b.shape[1])
            return b.reshape(heads, 2, rows / heads / 2, columns).transpose(1, 2).reshape(rows, columns)
        }
        let tensors = matrices().flatMap { module, a, b -> [(String, Tensor)] in
            let heads = module.hasSuffix("q_proj") ? 4 : module.hasSuffix("k_proj") ? 2 : 0
            let name = "layers.1." + names[module]!
            return [
                (name + ".lora_a.weight", a),
                (name + ".lora_b.weight", family == .llama && heads > 0 ? paired(b, heads) : b),
            ]
        }
        try write(folder["tune"], "adapter_model.safetensors", tensors, peftConfig(folder["base"]))
        if family == .llama {
            #expect(relativeDifference(try logits(folder["tune"]), try logits(folder["peft"])) == 0)
        } else {
            let reference = try ModelReference(folder["tune"])
            let file = try SafetensorsFile(path: joinPath(reference.adapterFolder!, "adapter_model.safetensors"))
            let plain = try SafetensorsFile(path: joinPath(folder["peft"], "adapter_model.safetensors"))
            for tensor in plain.tensors {
                #expect(try file.bytes(of: tensor.name).elementsEqual(plain.bytes(of: tensor.name)), "\(tensor.name)")
            }
        }
    }
}
