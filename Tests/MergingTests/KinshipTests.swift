// Kinship against numpy in float64, its properties, and what it refuses.
import Diagnostics
import Formats
import Glibc
import Merging
import Testing

private func golden() throws -> [JSONValue] {
    try readJSONFile(joinPath(parentFolder(of: #filePath), "Fixtures/kinship_goldens.json"))["cases"]!.array!
}

/// Tensor number k: the integer formula of `make_kinship_goldens.py`, equal to it bit for bit.
private func filled(_ shape: [Int], _ k: Int, scale: Double, offset: Double = 0) -> [Float] {
    (0..<shape.reduce(1, *)).map { i in
        var x = UInt32(truncatingIfNeeded: i + 1_000_003 * k) &* 0x9E37_79B1
        x ^= x >> 15
        x = x &* 0x85EB_CA77
        x ^= x >> 13
        return Float((Double(x) / 0x1p32 - 0.5) * scale + offset)
    }
}

/// A model folder of tensors given as floats.
func writeModel(
    _ folder: String, _ tensors: [(name: String, shape: [Int], values: [Float])], type: ElementType = .f32,
    architecture: String = "LlamaForCausalLM", tied: Bool = false
) throws {
    let written = tensors.map { tensor in
        SafetensorsWriter.Tensor(name: tensor.name, elementType: type, shape: tensor.shape) { emit in
            switch type {
            case .f32: try tensor.values.withUnsafeBytes { try emit($0) }
            default:
                let narrow = tensor.values.map { type == .bf16 ? bf16FromFloat($0) : f16FromFloat($0) }
                try narrow.withUnsafeBytes { try emit($0) }
            }
        }
    }
    try SafetensorsWriter.write(folder: folder, tensors: written)
    let config: JSONValue = ["architectures": [.string(architecture)], "tie_word_embeddings": .init(tied)]
    try writeFileAtomically(config.serialized(), to: joinPath(folder, "config.json"))
}

private func shapes(_ vocab: Int, tied: Bool) -> [(String, [Int])] {
    var out = [("model.embed_tokens.weight", [vocab, 16])]
    for layer in 0..<2 {
        for (name, shape) in [
            ("self_attn.q_proj", [16, 16]), ("self_attn.k_proj", [8, 16]), ("mlp.up_proj", [24, 16]),
            ("input_layernorm", [16]),
        ] { out.append(("model.layers.\(layer).\(name).weight", shape)) }
    }
    out.append(("model.norm.weight", [16]))
    return tied ? out : out + [("lm_head.weight", [vocab, 16])]
}

/// Tensors of the base (model nil) or of a model that was changed by `scale` and `offset`.
private func tensors(
    _ vocab: Int, tied: Bool, model: Int? = nil, scale: Double = 0, offset: Double = 0
) -> [(name: String, shape: [Int], values: [Float])] {
    shapes(vocab, tied: tied).enumerated().map { k, tensor in
        var values = filled(tensor.1, k, scale: 0.7, offset: tensor.1.count == 1 ? 1 : 0)
        if let model, scale != 0 {
            for (i, change) in filled(tensor.1, k + 100 * (model + 1), scale: scale, offset: offset).enumerated() {
                values[i] += change
            }
        }
        return (tensor.0, tensor.1, values)
    }
}

func measure(
    _ folder: String, _ models: [String], _ options: Kinship.Options = .init()
) throws -> Kinship {
    let opened = MergeModels()
    let base = MergeModelReference(joinPath(folder, "base"))
    return try Kinship(
        models.map { try opened.model(descendant: joinPath(folder, $0), of: base) }, base: opened.model(base), options)
}

private func expectEqual(
    _ sums: KinshipSums, _ expected: JSONValue, _ what: String, location: SourceLocation = #_sourceLocation
) {
    for metric in KinshipMetric.allCases {
        for (i, row) in expected[metric.rawValue]!.array!.enumerated() {
            for (j, wanted) in row.array!.enumerated() {
                let found = sums.value(metric, i, j)
                guard let wanted = wanted.double else {
                    #expect(found == nil, "\(what) \(metric) \(i),\(j)", sourceLocation: location)
                    continue
                }
                #expect(
                    abs((found ?? .infinity) - wanted) <= 1e-9 * max(1, abs(wanted)),
                    "\(what) \(metric) \(i),\(j): \(String(describing: found)), numpy \(wanted)",
                    sourceLocation: location)
            }
        }
    }
}

@Suite struct KinshipTests {
    @Test(arguments: 0..<3) func equalsNumpy(_ index: Int) throws {
        let golden = try golden()[index], vocab = golden["vocab"]!.int!, tied = golden["tied"]!.bool!
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(vocab, tied: tied), tied: tied)
            let models = golden["models"]!.array!
            for (m, model) in models.enumerated() {
                let whole = tensors(
                    model["vocab"]!.int!, tied: tied, model: m, scale: model["scale"]!.double!,
                    offset: model["offset"]!.double!)
                try writeModel(
                    joinPath(folder, "m\(m)"), whole, type: ElementType(rawValue: model["type"]!.string!)!, tied: tied)
            }
            let names = models.indices.map { "m\($0)" }
            for breakdown in [Kinship.Breakdown.layer, .module] {
                let kinship = try measure(folder, names, .init(breakdown: breakdown))
                #expect(kinship.total.elements == golden["elements"]!.int!)
                expectEqual(kinship.total, golden["total"]!, "total")
                let expected = golden[breakdown.rawValue]!.object!
                for (name, values) in expected {
                    let group = try #require(
                        kinship.groups.first { $0.name == name }, "no group \(name) in \(kinship.groups.map(\.name))")
                    expectEqual(group.sums, values, name)
                }
                if breakdown == .layer { #expect(kinship.groups.count == expected.count) }
            }
            if tied {
                expectEqual(
                    try measure(folder, names, .init(countsTiedTwice: true)).total, golden["tiedTwice"]!, "tied twice")
            }
        }
    }

    @Test func layersComeByNumber() throws {
        let names =
            ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]
            + (0..<12).map { "model.layers.\($0).mlp.up_proj.weight" }
        try withFolder { folder in
            for (k, model) in ["base", "a", "b"].enumerated() {
                let own = names.enumerated().map { i, name -> (name: String, shape: [Int], values: [Float]) in
                    let change = filled([8, 8], 100 * k + i, scale: k == 0 ? 0 : 0.01)
                    return (name, [8, 8], zip(filled([8, 8], i, scale: 1), change).map(+))
                }
                // As files are: sorted by text.
                try writeModel(joinPath(folder, model), own.sorted { $0.name < $1.name })
            }
            let layers = (0..<12).map { "layer \($0)" }
            let kinship = try measure(folder, ["a", "b"], .init(breakdown: .layer))
            #expect(kinship.groups.map(\.name) == ["embed_tokens"] + layers + ["lm_head", "norm"])
            let tensors = try measure(folder, ["a", "b"], .init(breakdown: .tensor)).groups.map { $0.place.layer }
            #expect(tensors == ["outside"] + layers + ["outside", "outside"])
        }
    }

    /// The fixture of the specification, 5.2: one 2 x 4 tensor.
    @Test func specificationFixture() throws {
        let base: [Float] = [0.10, -0.20, 0.30, -0.40, 0.50, -0.60, 0.70, -0.80]
        let deltas: [(String, [Float])] = [
            ("a", [0.11, -0.23, 0.05, 0.31, -0.17, 0.29, -0.02, 0.41]),
            ("b", [-0.13, -0.19, 0.37, 0.07, 0.03, -0.43, 0.27, -0.01]),
            ("c", [0.21, 0.06, -0.09, 0.15, -0.33, 0.12, 0.47, -0.25]),
        ]
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), [("w.weight", [2, 4], base)])
            for (name, delta) in deltas {
                try writeModel(joinPath(folder, name), [("w.weight", [2, 4], zip(base, delta).map(+))])
            }
            let sums = try measure(folder, ["a", "b", "c"]).total
            // Weights in 32 bits: the changes are off by 2^-25, the statistics by less than 1e-6 (the specification's tolerance).
            for (i, j, metric, wanted) in [
                (0, 1, KinshipMetric.pcc, -0.164507060), (0, 1, .cs, -0.155119816), (0, 1, .ed, 1.018871882),
                (0, 1, .absCS, 0.155119816), (0, 2, .pcc, -0.003750365), (0, 2, .cs, 0.065214419),
                (1, 2, .pcc, 0.015693632),
                (1, 2, .cs, 0.013645012),
            ] {
                #expect(abs(sums.value(metric, i, j)! - wanted) < 1e-6, "\(i) \(j) \(metric)")
                #expect(sums.value(metric, j, i) == sums.value(metric, i, j))
            }
        }
    }

    /// Row 3 of the specification's checks: orthogonal changes of equal norm, then their linear children.
    @Test func orthogonalChangesAndTheirChildren() throws {
        let n = 4096
        var a = [Double](repeating: 0, count: n), b = a
        for i in 0..<n / 2 { a[i] = i % 2 == 0 ? 1 : -1 }
        for i in n / 2..<n { b[i] = i % 2 == 0 ? 1 : -1 }
        let child = zip(a, b).map { ($0 + $1) / 2 }, second = zip(child, a).map { ($0 + $1) / 2 }
        var sums = KinshipSums(models: 4)
        let all = [a, b, child, second]
        func add(_ from: Int, _ pointers: [UnsafePointer<Double>]) {
            if from == all.count { return sums.add(pointers, count: n) }
            all[from].withUnsafeBufferPointer { add(from + 1, pointers + [$0.baseAddress!]) }
        }
        add(0, [])
        for metric in [KinshipMetric.pcc, .cs] {
            #expect(sums.value(metric, 0, 1)! == 0)
            #expect(abs(sums.value(metric, 0, 2)! - 0.5.squareRoot()) < 1e-12)
            // The child of child and a parent: (3a + b) / 4.
            #expect(abs(sums.value(metric, 2, 3)! - 0.8944271909999159) < 1e-12)
            #expect(abs(sums.value(metric, 0, 3)! - 0.9486832980505138) < 1e-12)
        }
        #expect(sums.mean(.cs)! > 0)
    }

    @Test func aModelThatEqualsTheBaseIsUndefinedAndNoError() throws {
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(20, tied: false))
            try writeModel(joinPath(folder, "a"), tensors(20, tied: false, model: 0, scale: 0.02))
            try writeModel(joinPath(folder, "same"), tensors(20, tied: false))
            let kinship = try measure(folder, ["a", "same"], .init(breakdown: .tensor))
            let json = kinship.json([.pcc, .cs, .ed])
            #expect(json.object!.keys == ["models", "pcc", "cs", "ed"])
            #expect(json["pcc"] == [[1.0, nil], [nil, nil]])
            #expect(json["ed"]!.array![1].array![1].double == 0 && json["ed"]!.array![0].array![1].double! > 0)
            #expect(kinship.table([.pcc]).contains("undefined"))
            #expect(kinship.meanOverTensors(.pcc)[0][1] == nil)
            let by = kinship.json([.pcc], by: .tensor)["by"]!
            #expect(by["kind"] == "tensor" && by["groups"]!.array!.count == 11 && by["weighted_mean"] != nil)
        }
    }

    /// The mean over tensors is another number than the value of the whole, and is never called the same.
    @Test func meanOverTensorsIsWeightedByElements() throws {
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(20, tied: false))
            for m in 0..<2 {
                try writeModel(joinPath(folder, "m\(m)"), tensors(20, tied: false, model: m, scale: 0.02, offset: 0.01))
            }
            let kinship = try measure(folder, ["m0", "m1"], .init(breakdown: .tensor))
            var sum = 0.0
            for group in kinship.groups { sum += group.sums.value(.cs, 0, 1)! * Double(group.sums.elements) }
            #expect(abs(kinship.meanOverTensors(.cs)[0][1]! - sum / Double(kinship.total.elements)) < 1e-12)
            #expect(kinship.meanOverTensors(.ed)[0][1]! < kinship.total.value(.ed, 0, 1)!)
        }
    }

    static let refused: [(String, String)] = [
        ("other", "is a MistralForCausalLM, the base"), ("narrow", "has shape [16, 8], in the base"),
        ("lacking", "no tensor model.layers.1.mlp.up_proj.weight, which the base"),
        ("extra", "has a tensor model.layers.2.mlp.up_proj.weight, which the base"),
        ("stranger", "none of its matrices is closer to the base"),
        ("nan", "tensor model.layers.0.mlp.up_proj.weight: element 7 is nan"),
        ("missing", "no such file or folder"),
    ]

    @Test(arguments: refused) func refuses(_ name: String, _ message: String) throws {
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(20, tied: false))
            try writeModel(joinPath(folder, "a"), tensors(20, tied: false, model: 0, scale: 0.02))
            var bad = tensors(20, tied: false, model: 1, scale: 0.02)
            switch name {
            case "narrow": bad[1] = (bad[1].name, [16, 8], Array(bad[1].values.prefix(128)))
            case "lacking": bad.removeAll { $0.name == "model.layers.1.mlp.up_proj.weight" }
            case "extra": bad.append(("model.layers.2.mlp.up_proj.weight", [24, 16], bad[3].values))
            case "stranger":
                bad = bad.enumerated().map { k, tensor in
                    (
                        tensor.name, tensor.shape,
                        filled(tensor.shape, 500 + k, scale: 0.7, offset: tensor.shape.count == 1 ? 1 : 0)
                    )
                }
            case "nan": bad[3].values[7] = .nan
            default: break
            }
            if name != "missing" {
                try writeModel(
                    joinPath(folder, name), bad,
                    architecture: name == "other" ? "MistralForCausalLM" : "LlamaForCausalLM")
            }
            let error = try #require(throws: UserError.self) { _ = try measure(folder, ["a", name]) }
            #expect(error.exitStatus == .badData && error.message.contains(message), "\(error.message)")
            #expect(error.message.contains(joinPath(folder, name)), "names the model")
        }
    }

    @Test func aHeadUntiedInOneModelIsComparedWithTheTokenTable() throws {
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(20, tied: true), tied: true)
            try writeModel(joinPath(folder, "a"), tensors(20, tied: true, model: 0, scale: 0.02), tied: true)
            var untied = tensors(20, tied: true, model: 1, scale: 0.02)
            untied.append(("lm_head.weight", [20, 16], untied[0].values.map { $0 * 1.01 }))
            try writeModel(joinPath(folder, "b"), untied, tied: false)
            let kinship = try measure(folder, ["a", "b"], .init(breakdown: .tensor))
            let head = try #require(kinship.groups.first { $0.name == "lm_head.weight" })
            let table = try #require(kinship.groups.first { $0.name == "model.embed_tokens.weight" })
            #expect(head.sums.norm(0) == table.sums.norm(0) && head.sums.norm(1) != table.sums.norm(1))
        }
    }

    @Test(arguments: [
        ("cs,pcc,ed", ["cs", "pcc", "ed"]), ("cs pcc  ed", ["cs", "pcc", "ed"]), ("abs_cs", ["abs_cs"]), ("cs,cs", nil),
        ("pc", nil),
        ("", nil),
    ]) func metricLists(_ text: String, _ names: [String]?) {
        #expect(KinshipMetric.list(text)?.map(\.rawValue) == names)
    }

    @Test func reportFilesAreComplete() throws {
        try withFolder { folder in
            try writeModel(joinPath(folder, "base"), tensors(20, tied: false))
            for m in 0..<3 {
                try writeModel(joinPath(folder, "m,\(m)"), tensors(20, tied: false, model: m, scale: 0.02))
            }
            let kinship = try measure(folder, (0..<3).map { "m,\($0)" }, .init(breakdown: .layer))
            let out = joinPath(folder, "out")
            try kinship.write(to: out, [.pcc, .ed], by: .layer, base: "base")
            #expect(
                try listFolder(out) == [
                    "kinship-ed-by-layer.svg", "kinship-ed.svg", "kinship-pcc-by-layer.svg", "kinship-pcc.svg",
                    "kinship.csv",
                    "kinship.json",
                ])
            let csv = try readTextFile(joinPath(out, "kinship.csv")).split(separator: "\n")
            #expect(csv.count == 1 + 3 * (1 + kinship.groups.count) && csv[1].contains("\"\(folder)/m,0\""))
            #expect(throws: UserError.self) { try kinship.write(to: out, [.pcc], by: nil, base: "base") }
        }
    }
}
