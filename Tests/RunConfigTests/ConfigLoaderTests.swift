// Configurations as people write them: every message, every rule for scalars, layers, round trip.

import Diagnostics
import RunConfig
import TestClock
import Testing

private let valid = ["model.path=m", "data.train=a.jsonl"]

private func problems(_ yaml: String, _ overrides: [String] = []) -> [String] {
    do {
        let config = try ConfigLoader.load(SFTConfig.self, text: yaml, name: "c.yaml", overrides: overrides)
        return ["loaded: \(config.output)"]
    } catch let error as ConfigError {
        return error.lines
    } catch {
        return ["\(error)"]
    }
}

struct Case: Sendable, CustomTestStringConvertible {
    let yaml: String
    var overrides: [String] = valid
    let lines: [String]
    var testDescription: String { lines.first ?? yaml }
}

private let cases: [Case] = [
    Case(
        yaml: "optimizer:\n  lerning_rate: 1e-4\n",
        lines: ["c.yaml:2: optimizer.lerning_rate: unknown key; did you mean learning_rate?"]),
    Case(
        yaml: "learning_rate: 1e-4\n",
        lines: ["c.yaml:1: learning_rate: unknown key; did you mean optimizer.learning_rate?"]),
    Case(
        yaml: "schedule: {zzzzzzz: 1}",
        lines: [
            "c.yaml:1: schedule.zzzzzzz: unknown key; known here: name, warmup_steps, warmup_ratio, min_ratio, "
                + "decay_ratio"
        ]),
    Case(
        yaml: "", overrides: valid + ["optimizer.lerning_rate=1"],
        lines: ["command line: optimizer.lerning_rate: unknown key; did you mean learning_rate?"]),
    Case(
        yaml: "optimizer:\n  learning_rate: fast",
        lines: ["c.yaml:2: optimizer.learning_rate: expected a number, found \"fast\""]),
    Case(
        yaml: "optimizer:\n  learning_rate: '1e-5'",
        lines: ["c.yaml:2: optimizer.learning_rate: expected a number, found the quoted text \"1e-5\""]),
    Case(
        yaml: "adapter:\n\n  rank: 08",
        lines: [
            "c.yaml:3: adapter.rank: 08: write the number without leading zeros (some readers take them for octal)"
        ]),
    Case(
        yaml: "adapter:\n  rank: 8.5", lines: ["c.yaml:2: adapter.rank: expected a whole number, found \"8.5\""]),
    Case(yaml: "adapter:\n  rank: ~", lines: ["c.yaml:2: adapter.rank: expected a whole number, found nothing"]),
    Case(
        yaml: "data:\n  weights: [3, 1]",
        lines: ["c.yaml:2: data.weights: has no effect with fewer than two paths in data.train; remove it"]),
    Case(
        yaml: "data:\n  weights: [3]", overrides: ["model.path=m", "data.train=[a, b]"],
        lines: ["c.yaml:2: data.weights: 1 weight for 2 paths in data.train; give one each"]),
    Case(
        yaml: "data:\n  weights: [3, 0]", overrides: ["model.path=m", "data.train=[a, b]"],
        lines: ["c.yaml:2: data.weights[1]: 0.0 is not above 0; remove the path to draw none of its rows"]),
    Case(
        yaml: "data:\n  weights: [3, 1]\n  mix: [1.0, 2.0]", overrides: ["model.path=m", "data.train=[a, b]"],
        lines: ["c.yaml:2: data.weights: give data.mix, the rows of an epoch, or data.weights, not both"]),
    Case(
        yaml: "data:\n  packing: maybe", lines: ["c.yaml:2: data.packing: expected true or false, found \"maybe\""]),
    Case(
        yaml: "adapter:\n  method: lorra",
        lines: ["c.yaml:2: adapter.method: \"lorra\" is not one of full, lora, rslora, dora; did you mean lora?"]),
    Case(
        yaml: "optimizer: 3",
        lines: ["c.yaml:1: optimizer: expected a section of keys, found \"3\"; did you mean optimizer.name?"]),
    Case(
        yaml: "", overrides: ["model=m", "data.train=a.jsonl"],
        lines: ["command line: model: expected a section of keys, found \"m\"; did you mean model.path?"]),
    Case(
        yaml: "", overrides: valid + ["train=a.jsonl"],
        lines: ["command line: train: unknown key; did you mean data.train?"]),
    Case(yaml: "optimizer: [3]", lines: ["c.yaml:1: optimizer: expected a section of keys, found a list"]),
    Case(
        yaml: "output: [a, b]\nadapter: {rank: [1]}",
        lines: [
            "c.yaml:1: output: expected text, found a list",
            "c.yaml:2: adapter.rank: expected a whole number, found a list",
        ]),
    Case(
        yaml: "data:\n  train: [a, [b]]", overrides: ["model.path=m"],
        lines: ["c.yaml:2: data.train[1]: expected text, found a list"]),
    Case(
        yaml: "adapter:\n  rank: 4\n  rank: 8\n",
        lines: ["c.yaml:2: rank: written more than once in one section"]),
    Case(
        yaml: "", overrides: valid + ["adapter.rank=1", "adapter.rank=2"],
        lines: ["command line: adapter.rank: given more than once"]),
    Case(yaml: "", overrides: valid + ["rank"], lines: ["command line: \"rank\" is not key=value"]),
    Case(
        yaml: "", overrides: valid + ["recipe.x=1"],
        lines: ["command line: recipe: expected one of sft, found a section"]),
    Case(yaml: "- a\n- b", lines: ["c.yaml: expected keys and values, found a list"]),
    Case(
        yaml: "recipe: dpo", lines: ["c.yaml:1: recipe: \"dpo\" is not one of sft"]),
    Case(
        yaml: "training:\n  seed: -1",
        lines: ["c.yaml:2: training.seed: expected a whole number that is not negative, found -1"]),
    Case(
        yaml: "training:\n  max_grad_norm: .inf",
        lines: ["c.yaml:2: training.max_grad_norm: expected a number, found \".inf\""]),
    Case(
        yaml: "output: !!python/object:os.system [x]",
        lines: [
            "c.yaml:1: the tag tag:yaml.org,2002:python/object:os.system is not allowed; write plain values"
        ]),
    Case(
        yaml: "", overrides: [],
        lines: [
            "c.yaml: model.path: required: a model folder or GGUF file, as in path: models/SmolLM2-135M",
            "c.yaml: data.train: required: files of rows, as in train: [rows.jsonl]",
        ]),
    Case(
        yaml: "model:\n  quantize: nf4\nadapter:\n  method: full\n",
        lines: [
            "c.yaml:2: model.quantize: quantised weights cannot be trained; set adapter.method: lora, rslora or dora"
        ]),
    Case(
        yaml: "model:\n  quantize: as_stored\ndevice: cuda\n",
        lines: ["c.yaml:2: model.quantize: as_stored is for the CPU; set device: cpu"]),
    Case(
        yaml: "model:\n  quantize: nf5\n",
        lines: ["c.yaml:2: model.quantize: \"nf5\" is not one of none, nf4, int8, as_stored; did you mean nf4?"]),
    Case(
        yaml: """
            optimizer:
              learning_rate: 3
              beta1: 1.0
            adapter:
              method: full
              rank: 8
            schedule:
              decay_ratio: 0.2
              warmup_steps: 3
              warmup_ratio: 0.1
            training: {epochs: 1, steps: 5, batch_rows: 0}
            """,
        lines: [
            "c.yaml:2: optimizer.learning_rate: 3.0 is not in 0 <..1",
            "c.yaml:3: optimizer.beta1: 1.0 is not in 0 ..< 1",
            "c.yaml:4: adapter: rank, alpha, dropout and targets have no effect with method: full; remove them",
            "c.yaml:8: schedule.decay_ratio: has no effect without name: wsd; remove it",
            "c.yaml:10: schedule.warmup_ratio: give warmup_steps or warmup_ratio, not both",
            "c.yaml:11: training.steps: give epochs or steps, not both",
            "c.yaml:11: training.batch_rows: 0 is less than 1",
        ]),
    Case(
        yaml: "optimizer: {momentum: 0.9, momentum_warmup_steps: 5, adamw_learning_rate: 1e-3}",
        lines: ["adamw_learning_rate", "momentum", "momentum_warmup_steps"].map {
            "c.yaml:1: optimizer.\($0): has no effect without name: muon; remove it"
        }),
    Case(
        yaml: "optimizer: {name: muon, orthogonalization: polar_express}",
        lines: ["c.yaml:1: optimizer.name: muon trains all weights: set adapter.method: full, or name: adamw"]),
    Case(
        yaml: "adapter: {method: full}\noptimizer: {name: muon, momentum: 1, state: int8, adamw_learning_rate: 2}",
        lines: [
            "c.yaml:2: optimizer.adamw_learning_rate: 2.0 is not in 0 <..1",
            "c.yaml:2: optimizer.momentum: 1.0 is not in 0 ..< 1",
            "c.yaml:2: optimizer.state: int8 has no effect with name: muon, which leaves only tables and vectors to AdamW",
        ]),
]

@Suite struct ConfigMessages {
    @Test(arguments: cases) func message(_ item: Case) { #expect(problems(item.yaml, item.overrides) == item.lines) }

    @Test func manyProblemsOfDifferentKindsAtOnce() {
        let lines = problems(
            "adapter: {method: x, rank: y}\ntrainin: {}\noutput: ''", ["model.path=m", "data.trian=a"])
        #expect(lines.count == 6, "\(lines)")
        #expect(lines.contains("c.yaml:2: trainin: unknown key; did you mean training?"))
    }

    @Test(arguments: ["a: [1", "a: *b", "\ta: 1", "a: 1\n---\nb: 2", "a: \"x", "a: b: c", "%", "@a"])
    func notYAML(_ text: String) {
        let lines = problems(text)
        #expect(lines.count >= 1 && lines[0].hasPrefix("c.yaml") && !lines[0].contains("\n"), "\(lines)")
    }

    @Test func missingAndBrokenFiles() {
        func says(_ file: String, _ status: Diagnostics.ExitStatus, _ beginning: String) {
            #expect {
                try ConfigLoader.load(SFTConfig.self, file: file)
            } throws: {
                ($0 as? UserError)?.exitStatus == status && "\($0)".hasPrefix("\(file): \(beginning)")
            }
        }
        says("/nowhere.yaml", .badData, "cannot be read: ")
        says("/tmp", .usage, "a folder, not a config; ")
    }
}

@Suite struct ConfigValues {
    private func load(_ yaml: String, _ overrides: [String] = valid) throws -> SFTConfig {
        try ConfigLoader.load(SFTConfig.self, text: yaml, name: "c.yaml", overrides: overrides)
    }

    @Test func scalarsMeanWhatTheirFieldExpects() throws {
        let config = try load(
            """
            output: no
            model: {base: 08, dtype: fp32}
            data: {packing: no, deduplicate: ON, template: 1e-5}
            """)
        #expect(config.output == "no")
        #expect(config.model.base == "08")
        #expect(config.data.packing == false && config.data.deduplicate == true)
        #expect(config.data.template == "1e-5")
    }

    @Test(arguments: [("1e-5", 1e-5), ("1E-5", 1e-5), (".5", 0.5), ("1", 1), ("+0.25", 0.25), ("1.e-1", 0.1)])
    func numbers(_ text: String, _ value: Double) throws {
        #expect(try load("", valid + ["optimizer.learning_rate=\(text)"]).optimizer.learningRate == value)
    }

    @Test func wholeNumbersMayBeScientific() throws {
        #expect(try load("", valid + ["training.steps=1e3"]).training.steps == 1000)
        #expect(try load("", valid + ["training.steps=+7"]).training.steps == 7)
    }

    @Test func nullIsNilWhereAFieldAllowsIt() throws {
        for spelling in ["~", "null", ""] {
            let config = try load("", valid + ["training.max_grad_norm=\(spelling)", "data.template=\(spelling)"])
            #expect(config.training.maxGradNorm == nil && config.data.template == nil)
        }
        #expect(try load("data: {template: 'null'}").data.template == "null")
    }

    @Test func overridesLieOverFileOverDefaults() throws {
        let config = try load(
            "adapter:\n  rank: 4\n  alpha: 8\noptimizer:\n", valid + ["adapter.rank=64"])
        #expect(config.adapter.rank == 64 && config.adapter.alpha == 8 && config.adapter.dropout == 0)
    }

    @Test func listsReplaceAndOneValueIsAListOfOne() throws {
        #expect(try load("data: {train: [x, y]}", ["model.path=m", "data.train=a.jsonl"]).data.train == ["a.jsonl"])
        #expect(try load("", ["model.path=m", "data.train=[a, b]"]).data.train == ["a", "b"])
    }

    @Test func dictionariesKeepTheirKeys() throws {
        let config = try load("data:\n  column_map: {promptText: Q, no: A}", valid + ["data.column_map.x_Y=z"])
        #expect(config.data.columnMap == ["promptText": "Q", "no": "A", "x_Y": "z"])
    }

    @Test func aliasesAndMerging() throws {
        let config = try load(
            "schedule: &s {name: cosine}\ndata: {column_map: &m {a: b}}\nadapter: {<<: {rank: 3}, alpha: 1}")
        #expect(config.adapter.rank == 3 && config.schedule.name == .cosine)
    }

    @Test func aliasBombIsRefusedAtOnce() {
        var yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        for i in 1...4 {
            yaml += "a\(i): &a\(i) [\(Array(repeating: "*a\(i - 1)", count: 7).joined(separator: ", "))]\n"
        }
        #expect(problems(yaml)[0].contains("more than 10000 values"), "\(problems(yaml))")
        for i in 5...9 { yaml += "a\(i): &a\(i) {*a\(i - 1) : 1, b: *a\(i - 1)}\n" }
        let spent = processorSeconds { #expect(problems(yaml)[0].contains("aliases")) }
        #expect(spent < 1)
    }

    @Test func learningRateFollowsTheMethod() throws {
        #expect(try load("").resolved().optimizer.learningRate == 2e-4)
        #expect(try load("adapter: {method: full}").resolved().optimizer.learningRate == 2e-5)
        #expect(try load("", valid + ["optimizer.learning_rate=1"]).resolved().optimizer.learningRate == 1)
        #expect(
            try load("adapter: {method: full}\noptimizer: {name: muon}").resolved().optimizer.learningRate == 2e-5)
    }

    @Test func resolvedConfigurationReproducesItself() throws {
        var config = try load("", valid).resolved()
        config.data.columnMap = ["b": "x: y", "a": "#no\n\t\"q\" \u{7}é\u{2028}"]
        config.data.train = ["1e-5", "no", "", "a b", "-", "[x]", "null", "~", "*x", "C:\\x", "日本"].filter {
            !$0.isEmpty
        }
        config.training.samplePrompts = ["a: b", " lead", "trail ", "{}", "'"]
        config.training.seed = .max
        config.optimizer.learningRate = 0.1 + 0.2
        let again = try ConfigLoader.load(SFTConfig.self, text: config.yaml, name: "again")
        #expect(again == config)
        #expect(again.yaml == config.yaml)
        #expect(again.resolved() == config)
        #expect(config.yaml.hasPrefix("recipe: sft\nmodel:\n  path: m\n  base: null\n"))
    }

    @Test func flattenedNamesEveryKeyOnce() throws {
        let flat = try load("").flattened
        #expect(Set(flat.map(\.key)).count == flat.count)
        #expect(flat.contains { $0.key == "optimizer.learning_rate" && $0.value == "null" })
        #expect(flat.contains { $0.key == "data.train" && $0.value == "[a.jsonl]" })
        #expect(SFTConfig.mayChangeOnResume.isSubset(of: Set(flat.map(\.key))))
    }

    @Test(arguments: BuiltInRecipe.all) func recipesLoad(_ recipe: BuiltInRecipe) throws {
        let config = try ConfigLoader.load(SFTConfig.self, text: recipe.yaml, name: recipe.name)
        #expect(try ConfigLoader.load(SFTConfig.self, text: config.resolved().yaml, name: "x") == config.resolved())
    }
}
