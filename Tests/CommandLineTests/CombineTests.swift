// merge, kinship, analyze gradients, extract-lora as a person types them, on models of twenty thousand weights.
import Formats
import Glibc
import Testing

/// A command in a new folder of the nursery, beside which the models lie (`../add`).
private func run(_ name: String, _ command: String) throws -> Outcome {
    try Nursery.models.get()
    return try Nursery.run("mkdir -p \(name) && cd \(name) && { \(command)\n}")
}

private func json(_ text: some StringProtocol) throws -> JSONValue { try JSONValue.parse(Array(text.utf8)) }

private let addAndSort = "merge_method: linear\nmodels: [{model: ../add}, {model: ../sort}]\nparameters: {weight: 1}\n"

@Suite struct MergeAndKinshipTests {
    /// The mean of two models is half their distance from each; a plan says what will be written, and writes nothing.
    @Test func aMergeIsWhatItsPlanSays() throws {
        let outcome = try run(
            "mean",
            """
            printf '\(addAndSort.replacing("\n", with: "\\n"))' > m.yaml
            needletail merge plan m.yaml --json > plan.json && ls > before
            needletail merge plan m.yaml > plan.txt && needletail merge m.yaml out 2> progress
            needletail kinship ../add ../sort out --base ../base --json --metric pcc,ed
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let ed = try json(outcome.output)["ed"]!.array!.map { $0.array!.map { $0.double! } }
        #expect(ed[0][1] > 0.1 && ed[0][0] == 0)
        for i in 0..<2 { #expect(abs(ed[i][2] / ed[0][1] - 0.5) < 1e-5, "\(ed)") }

        let folder = Nursery.folder + "/mean"
        #expect(try readTextFile("\(folder)/before") == "before\nm.yaml\nplan.json\n")
        let plan = try readJSONFile("\(folder)/plan.json"), merged = try SafetensorsFolder(folder: "\(folder)/out")
        #expect(Set(plan["tensors"]!.array!.map { $0["name"]!.string! }) == Set(merged.names))
        #expect(plan["tensors"]!.array!.count == merged.names.count)
        #expect(plan["output_bytes"]!.int == merged.names.reduce(0) { $0 + merged.info($1)!.byteRange.count })
        #expect(try readTextFile("\(folder)/plan.txt").contains("tensors    \(merged.names.count) ("))
    }

    @Test func kinshipWritesTablesAndHeatMaps() throws {
        let outcome = try run(
            "kin",
            """
            needletail kinship ../add ../reverse ../sort --base ../base --by layer --output report > table && ls report
            needletail kinship ../add ../reverse ../sort --base ../base --by layer --json
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let lines = outcome.output.split(separator: "\n")
        let found = try json(lines[lines.count - 1])
        #expect(found["models"]!.array!.map { $0.string! } == ["../add", "../reverse", "../sort"])
        let pcc = found["pcc"]!.array!.map { $0.array!.map { $0.double! } }
        for i in 0..<3 {
            #expect(abs(pcc[i][i] - 1) < 1e-12)
            for j in 0..<3 { #expect(pcc[i][j] == pcc[j][i] && (i == j || abs(pcc[i][j]) < 0.9)) }
        }
        // Squared distances of the layers sum up to that of the whole.
        let parts = found["by"]!["groups"]!.array!.map { $0["ed"]!.array![0].array![2].double! }
        let whole = found["ed"]!.array![0].array![2].double!
        #expect(abs(parts.reduce(0) { $0 + $1 * $1 } / (whole * whole) - 1) < 1e-9)
        #expect(
            lines.contains("kinship.json") && lines.contains { $0.hasSuffix(".svg") }
                && lines.contains { $0.hasSuffix(".csv") })
    }

    /// An adapter of full rank is the fine-tune, in every linear map.
    @Test func anExtractedAdapterIsTheFineTune() throws {
        let outcome = try run(
            "lora",
            """
            needletail extract-lora ../add adapter --base ../base --rank 32 --json > report.json && ls adapter
            needletail kinship ../add adapter --base ../base --by tensor --metric cs,ed --json
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let lines = outcome.output.split(separator: "\n")
        #expect(lines.contains("adapter_model.safetensors") && lines.contains("adapter_config.json"))
        let groups = try json(lines[lines.count - 1])["by"]!["groups"]!.array!.filter {
            $0["name"]!.string!.contains("_proj")
        }
        #expect(groups.count == 14)
        for group in groups { #expect(group["cs"]!.array![0].array![1].double! > 1 - 1e-6, "\(group["name"]!)") }
        #expect(try readTextFile(Nursery.folder + "/lora/report.json").contains("\"share\""))
    }

    /// Routers at random: each expert's maps are those of its model, everything else is the base's.
    @Test func aMixtureHoldsItsExperts() throws {
        let outcome = try run(
            "moe",
            """
            cat > moe.yaml <<YAML
            base_model: ../base
            gate_mode: random
            experts: [{source_model: ../add}, {source_model: ../sort}]
            YAML
            needletail merge moe moe.yaml out && needletail merge moe moe.yaml out
            """)
        #expect(outcome.status == 73 && outcome.errors.contains("wrote out: Mixtral, 2 experts"), "\(outcome.errors)")
        let mixture = try SafetensorsFolder(folder: Nursery.folder + "/moe/out")
        for (expert, name) in ["add", "sort"].enumerated() {
            let source = try SafetensorsFolder(folder: Nursery.folder + "/\(name)/model")
            for layer in 0..<2 {
                for (short, map) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
                    let mixed = try mixture.bytes(
                        of: "model.layers.\(layer).block_sparse_moe.experts.\(expert).\(short).weight")
                    let dense = try source.bytes(of: "model.layers.\(layer).mlp.\(map).weight")
                    #expect(mixed.elementsEqual(dense), "\(name), layer \(layer), \(map)")
                }
            }
        }
        let base = try SafetensorsFolder(folder: Nursery.folder + "/base/model")
        let attention = "model.layers.1.self_attn.q_proj.weight"
        #expect(try mixture.bytes(of: attention).elementsEqual(base.bytes(of: attention)))
        #expect(mixture.info("model.layers.0.block_sparse_moe.gate.weight")?.shape == [2, 32])
        let config = try readJSONFile(Nursery.folder + "/moe/out/config.json")
        #expect(config["model_type"] == "mixtral" && config["num_local_experts"] == 2)
    }
}

@Suite struct GradientsCommandTests {
    /// Scalars follow from the singular values that were kept; the same command again computes nothing.
    @Test func spectraAreMeasuredOnce() throws {
        let outcome = try run(
            "gradients",
            """
            command='needletail analyze gradients --model ../base --data ../add-judge.jsonl --compare ../sort-judge.jsonl
                --irrelevant shuffle --limit 3 --save-singular-values --threads 1 --output g --json'
            $command > one.json && cksum < g/examples.jsonl > before && $command > two.json && cmp one.json two.json
            cksum < g/examples.jsonl | cmp - before && ls g g/plots
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let files = outcome.output.split(separator: "\n").map(String.init)
        for name in [
            "summary.csv", "layers.csv", "summary.json", "base-add_judge-correct-nuclear.svg",
            "base-add_judge-irrelevant-difference.svg", "base-side_by_side-correct.svg",
        ] {
            #expect(files.contains(name), "\(name) in \(files)")
        }
        let folder = Nursery.folder + "/gradients"
        let examples = try readTextFile("\(folder)/g/examples.jsonl").split(separator: "\n").map { try json($0) }
        #expect(examples.count == 12)
        var curve = [0.0, 0.0]
        for example in examples {
            let q = example["gradients"]!["q"]!
            for layer in 0..<2 {
                let sigma = q["singular_values"]!.array![layer].array!.map { $0.double! }
                let nuclear = q["nuclear"]!.array![layer].double!, frobenius = q["frobenius"]!.array![layer].double!
                #expect(sigma.count == 32 && abs(sigma.reduce(0, +) / nuclear - 1) < 1e-5)
                #expect(abs(sigma.reduce(0) { $0 + $1 * $1 } / (frobenius * frobenius) - 1) < 1e-5)
                if example["style"] == "add-judge", example["pairing"] == "correct" { curve[layer] += nuclear / 3 }
            }
        }
        let summary = try json(try readTextFile("\(folder)/one.json"))["pairings"]!.array![0]
        #expect(summary["model"] == "base" && summary["data"] == "add-judge" && summary["examples"] == 3)
        let printed = summary["matrices"]!["q"]!["curve"]!.array!.map { $0.double! }
        for (a, b) in zip(printed, curve) { #expect(abs(a / b - 1) < 1e-9) }
    }
}

private let q = "model.layers.1.self_attn.q_proj.weight"
private let ties = """
    merge_method: ties
    base_model: ../base
    models: [{model: ../add, parameters: {weight: 1}}, {model: ../sort, parameters: {weight: 1}}]
    """
private let odd = "merge_method: linear\nmodels: [{model: ../sort}, {model: ODD}]\nparameters: {weight: 1}\n"

@Suite struct FaultyMergeTests {
    /// A copy of the fine-tune `add` with one tensor changed, left out (nil), or every tensor drawn anew.
    private func copy(to name: String, _ edit: (String, [Int], [Float]) -> ([Int], [Float])?) throws {
        let from = Nursery.folder + "/add/model", to = Nursery.folder + "/" + name
        let weights = try SafetensorsFolder(folder: from)
        let tensors = try weights.names.compactMap { name -> SafetensorsWriter.Tensor? in
            let info = weights.info(name)!
            let bytes = try weights.bytes(of: name)
            let values = (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
            guard let (shape, changed) = edit(name, info.shape, values) else { return nil }
            return .init(name: name, elementType: .f32, shape: shape) { emit in
                try changed.withUnsafeBytes { try emit($0) }
            }
        }
        try SafetensorsWriter.write(folder: to, tensors: tensors, metadata: [("format", "pt")])
        #expect(try Nursery.run("cp \(from)/*.json \(to)/").status == 0)
    }

    /// One line that says what, where and what is wrong; exit 65; nothing written.
    @Test(arguments: [
        ("key", ties.replacing("weight: 1}}]", with: "wieght: 1}}]"), "m.yaml:3: ", "wieght"),
        ("top-key", ties + "\nbase_modle: x", "m.yaml:4: ", "base_modle"),
        ("layer", odd, "ODD: no tensor \(q)", ""),
        (
            "layers", "merge_method: passthrough\nslices: [{sources: [{model: ../add, layer_range: [1, 3]}]}]",
            "../add has layers 0 to 1", ""
        ),
        ("shape", odd, "tensor \(q): shape [32, 32] in ../sort, [16, 64] in ODD", ""),
        ("nan", odd, "ODD: tensor \(q): element 7 is nan", ""),
        ("stranger", ties.replacing("../base", with: "ODD"), "ODD: not the base that ../add was trained from", ""),
    ])
    func whatCannotBeMergedIsOneLine(_ name: String, _ config: String, _ message: String, _ also: String) throws {
        try Nursery.models.get()
        var state: UInt32 = 1
        try copy(to: "odd-\(name)") { tensor, shape, values in
            if name == "stranger" {
                return (
                    shape,
                    values.map { _ in
                        state = state &* 1_664_525 &+ 1_013_904_223
                        return Float(state >> 8) / Float(1 << 24) - 0.5
                    }
                )
            }
            guard tensor == q else { return (shape, values) }
            switch name {
            case "layer": return nil
            case "shape": return ([16, 64], values)
            case "nan": return (shape, values.enumerated().map { $0.offset == 7 ? .nan : $0.element })
            default: return (shape, values)
            }
        }
        func inPlace(_ text: String) -> String { text.replacing("ODD", with: "../odd-\(name)") }
        let outcome = try run(
            "faulty-\(name)",
            """
            cat > m.yaml <<'YAML'
            \(inPlace(config))
            YAML
            needletail merge m.yaml out; code=$?; ls -A; exit $code
            """)
        #expect(outcome.status == 65 && outcome.output == "m.yaml\n", "\(outcome)")
        let errors = outcome.errors.split(separator: "\n").filter { $0.hasPrefix("error: ") }
        #expect(errors.count == 1, "\(outcome.errors)")
        #expect(errors.first.map { $0.contains(inPlace(message)) && $0.contains(also) } == true, "\(outcome.errors)")
    }
}
