// mergekit's files as they are read: what is accepted, what is refused and with which words.
import Diagnostics
import Formats
import TestClock
import Testing

import Merging

struct MergeConfigTests {
    private func problems(_ yaml: String) -> String { complaint { _ = try MergeConfig.parse(yaml, source: "m.yaml") } }

    @Test func everyPartIsRead() throws {
        let config = try MergeConfig.parse(
            """
            merge_method: ties
            base_model: {model: {path: org/base, revision: abc}}
            slices:
              - sources:
                  - model: a+b
                    layer_range: [0, 8]
                    parameters: {weight: [0, 1], density: [{filter: mlp, value: 0.5}, {value: 1e-1}]}
                  - model: {model: {path: c}, lora: {path: d, revision: e}, override_architecture: X}
                    layer_range: [4, 12]
                base_model: f@g
                parameters: {normalize: no}
            parameters: {weight: "1e-5", int8_mask: 1, rescale: l2, lambda: .5}
            dtype: torch.bfloat16
            out_dtype: float16
            tokenizer:
              source: union
              pad_to_multiple_of: 64
              tokens:
                <s>: {source: a+b, force: true}
                x: {source: {kind: model_token, model: c, token: y}}
                z: {source: {kind: model_token, model: c, token_id: 7}}
                w: {source: {kind: zero}}
            chat_template: auto
            """, source: "m.yaml")[0]
        #expect(config.method == .ties && config.base == MergeModelReference("org/base", revision: "abc"))
        guard case .slices(let slices) = config.layout else {
            Issue.record("not slices")
            return
        }
        let sources = slices[0].sources
        #expect(sources[0].model == MergeModelReference("a", adapter: "b") && sources[0].layers == 0..<8)
        #expect(sources[0].parameters["weight"] == .gradient([.number(0), .number(1)]))
        #expect(
            sources[0].parameters["density"]
                == .filtered([.init("mlp", .number(0.5)), .init(nil, .number(0.1))]))
        #expect(sources[1].model == MergeModelReference("c", adapter: "d", adapterRevision: "e", architecture: "X"))
        #expect(slices[0].base == MergeModelReference("f", revision: "g"))
        #expect(slices[0].parameters["normalize"] == .value(.flag(false)))
        let parameters: MergeParameters = [
            "weight": .number(1e-5), "int8_mask": .value(.flag(true)), "rescale": .value(.text("l2")),
            "lambda": .number(0.5),
        ]
        #expect(config.parameters == parameters)
        #expect(config.dtype == .bf16 && config.outDtype == .f16 && config.chatTemplate == "auto")
        let tokens = config.tokenizer?.tokens.map(\.row)
        #expect(config.tokenizer?.padToMultipleOf == 64 && tokens?[0].force == true)
        #expect(tokens?[1].source == .token(MergeModelReference("c"), "y"))
        #expect(tokens?[2].source == .tokenID(MergeModelReference("c"), 7) && tokens?[3].source == .zero)
        // What is kept beside a result reads back as the same.
        #expect(try MergeConfig.parse(config.yaml, source: "again")[0] == config)
    }

    @Test func modulesAndDocumentsReadBack() throws {
        let configs = try MergeConfig.parse(
            """
            name: first
            merge_method: linear
            models: [{model: a, parameters: {weight: 1}}]
            seed: null
            ---
            merge_method: passthrough
            modules:
              encoder: {models: [{model: first}]}
              decoder: {slices: [{sources: [{model: b, layer_range: [0, 2]}]}], parameters: {scale: 2}}
            """, source: "m.yaml")
        #expect(configs.count == 2 && configs[0].name == "first")
        for config in configs { #expect(try MergeConfig.parse(config.yaml, source: "again")[0] == config) }
    }

    @Test func mergeKeysAreShallowAsInYAML() throws {
        let config = try MergeConfig.parse(
            """
            merge_method: linear
            models:
              - &a {model: x, parameters: {weight: 1}}
              - &b {model: y, parameters: {weight: 2}}
              - {<<: *a, model: z}
              - {<<: [*a, *b], model: v}
              - {<<: *a, model: u, parameters: {}}
            parameters: {weight: 9}
            """, source: "m.yaml")[0]
        guard case .models(let models) = config.layout else {
            Issue.record("not models")
            return
        }
        #expect(models.map(\.model.path) == ["x", "y", "z", "v", "u"])
        let weights: [MergeSetting?] = [.number(1), .number(2), .number(1), .number(1), nil]
        #expect(models.map { $0.parameters["weight"] } == weights)
    }

    /// A long frankenmerge: hundreds of aliases are no bomb.
    @Test func manyAliases() throws {
        var yaml = "merge_method: passthrough\nslices:\n  - sources: [&s {model: a, layer_range: [0, 4]}]\n"
        for _ in 0..<400 { yaml += "  - sources: [*s]\n" }
        guard case .slices(let slices) = try MergeConfig.parse(yaml, source: "m.yaml")[0].layout else {
            Issue.record("not slices")
            return
        }
        #expect(slices.count == 401 && slices[400] == slices[0])
    }

    @Test func aliasBombsAreRefusedAtOnce() {
        var yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        for i in 1...9 {
            yaml += "a\(i): &a\(i) [\(Array(repeating: "*a\(i - 1)", count: 9).joined(separator: ", "))]\n"
        }
        let spent = processorSeconds {
            #expect(problems(yaml).contains("more than 200000 values"))
            for i in 10...16 { yaml += "a\(i): &a\(i) {*a\(i - 1) : 1, b: *a\(i - 1)}\n" }
            #expect(problems(yaml).contains("a key that is not a word"))
        }
        #expect(spent < 5)
    }

    @Test(arguments: [
        ("merge_method: tise\nmodels: [{model: a}]", "m.yaml:1: merge_method: unknown method tise; did you mean ties?"),
        ("models: [{model: a}]", "m.yaml: merge_method: missing; give one of linear"),
        ("merge_method: linear", "m.yaml: give exactly one of models, slices and modules; found none of them"),
        ("merge_method: linear\nmodels: [{model: a}]\nslices: []", "found models and slices"),
        (
            "merge_method: linear\nmodels: [{model: a}]\nmergemethod: x",
            "m.yaml:3: mergemethod: unknown key; did you mean merge_method?"
        ),
        (
            "merge_method: ties\nmodels:\n  - model: a\n    parameters:\n      densty: 0.5",
            "m.yaml:5: models[0].parameters.densty: unknown parameter of ties; did you mean density?"
        ),
        (
            "merge_method: arcee_fusion\nmodels: [{model: a, parameters: {q: 1}}]",
            "unknown parameter; arcee_fusion takes none"
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: many}}]",
            "parameters.weight: expected a number, found \"many\""
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {normalize: 2}",
            "parameters.normalize: expected true or false, found \"2\""
        ),
        ("merge_method: ties\nmodels: [{model: a}]\nparameters: {rescale: L3}", "expected one of true, false, l1"),
        (
            "merge_method: linear\nmodels: [{model: a}]\ndtype: bf16",
            "m.yaml:3: dtype: expected float32, float16, bfloat16 or float64, found bf16"
        ),
        ("merge_method: linear\nmodels: [{model: a, layer_range: [0, 1]}]", "models[0].layer_range: unknown key"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]", "slices[0].sources[0]: no layer_range"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]",
            "expected [first, end) as two whole numbers"
        ),
        ("merge_method: linear\nmodels: [{model: a+b+c}]", "\"a+b+c\" has more than one +"),
        ("merge_method: linear\nmodels: [{model: a@b@c}]", "\"a@b@c\" is no model"),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer_source: union\ntokenizer: {source: base}",
            "given beside tokenizer_source"
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {surce: base}",
            "tokenizer.surce: unknown key; did you mean source?"
        ),
        (
            "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {tokens: {x: {source: {kind: none}}}}",
            "expected zero or model_token"
        ),
        (
            "merge_method: linear\nmodels: [{model: a, parameters: {weight: [{value: 1}, {filter: x, value: 2}]}}]",
            "models[0].parameters.weight[1]: has no effect"
        ),
        ("merge_method: linear\nmodels: [{model: a]", "m.yaml:2: not YAML"),
        ("", "m.yaml: empty"),
        ("merge_method: linear\nmodels: [{model: !!python/object:os.system a}]", "is not allowed"),
    ])
    func mistakesAreNamed(_ yaml: String, _ message: String) {
        #expect(problems(yaml).contains(message), "\(problems(yaml))")
    }

    @Test func everyMistakeIsReportedAtOnce() {
        let found = problems(
            "merge_method: ties\nmodels:\n  - model: a\n    parameters: {densty: 1, wieght: 2}\n  - modle: b\ndtyp: float32"
        )
        #expect(
            found.split(separator: "\n").map(String.init) == [
                "m.yaml:6: dtyp: unknown key; did you mean dtype?",
                "m.yaml:4: models[0].parameters.densty: unknown parameter of ties; did you mean density?",
                "m.yaml:4: models[0].parameters.wieght: unknown parameter of ties; did you mean weight?",
                "m.yaml:5: models[1].modle: unknown key; did you mean model?",
                "m.yaml:5: models[1]: no model",
            ], "\(found)")
    }
}

struct MergeDocumentsTests {
    private func order(_ yaml: String) throws -> [String] {
        try MergeDocuments(MergeConfig.parse(yaml, source: "m.yaml")).ordered.map { $0.name ?? "(final)" }
    }
    private func document(_ name: String?, _ models: String...) -> String {
        (name.map { "name: \($0)\n" } ?? "") + "merge_method: linear\nparameters: {weight: 1}\nmodels:\n"
            + models.map { "  - model: \($0)\n" }.joined() + "---\n"
    }

    @Test func eachComesAfterThoseItUses() throws {
        let yaml = document(nil, "b", "c") + document("b", "a", "x") + document("c", "a") + document("a", "y")
        #expect(try order(yaml) == ["a", "b", "c", "(final)"])
        #expect(try order(document("b", "a") + document("a", "x")) == ["a", "b"])
    }

    @Test func circlesAndRiddlesAreRefused() {
        func found(_ yaml: String) -> String { complaint { _ = try order(yaml) } }
        #expect(found(document("a", "b") + document("b", "a")).contains("circle: b needs a needs b"))
        #expect(found(document(nil, "a") + document("a", "b") + document("b", "a")).contains("circle"))
        #expect(found(document("a", "x") + document("b", "x")).contains("not clear (a, b)"))
        #expect(found(document("a", "x") + document("a", "y")).contains("given to two documents"))
        #expect(found(document(nil, "x") + document(nil, "y")).contains("2 documents without a name"))
        #expect(found(document("../a", "x") + document(nil, "y")).contains("not a plain name"))
    }
}
