// The configuration of evolve: every refusal with its place, and what may change when a run goes on.
import Diagnostics
import RunConfig
import Testing

private let whole = """
    recipe: evolve
    base: base
    foundations: [a, b]
    evaluate:
      tasks:
        - {name: news, data: news.jsonl}

    """

private func load(_ yaml: String, _ overrides: [String] = []) throws -> EvolveConfig {
    try ConfigLoader.load(EvolveConfig.self, text: yaml, name: "e.yaml", overrides: overrides)
}

private func problems(_ yaml: String, _ overrides: [String] = []) -> [String] {
    do {
        _ = try load(yaml, overrides)
        return []
    } catch let error as ConfigError {
        return error.lines
    } catch {
        return ["\(error)"]
    }
}

@Suite struct EvolveConfigTests {
    @Test func theDefaultsAreThePapers() throws {
        let config = try load(whole)
        #expect(config.search == .iterate && config.strategy == .greedy && config.k == 3 && config.metric == .pcc)
        #expect(config.pool == .twoBack && config.explore == .lowest && config.maxGenerations == 6)
        #expect(config.earlyStop.threshold == 0.9 && config.earlyStop.patience == 2)
        #expect(config.merge.method == "slerp" && config.keep == .all)
        #expect(config.cma.maxFevals == 100 && config.cma.sigma0 == 1.0 / 6)
    }

    @Test func whatIsMissingIsNamed() {
        let lines = problems("recipe: evolve\n")
        for word in ["base", "foundations", "evaluate.tasks"] {
            #expect(lines.contains { $0.contains("\(word): ") }, "\(word) in \(lines)")
        }
    }

    @Test(arguments: [
        (["strategy=kinshp"], "strategy: \"kinshp\" is not one of greedy, kinship, random; did you mean kinship?"),
        (["max_generation=3"], "max_generation: unknown key; did you mean max_generations?"),
        (["k=1"], "k: 1 is less than 2"), (["max_generations=0"], "max_generations: 0 is less than 1"),
        (["early_stop.patience=0"], "early_stop.patience: 0 is less than 1"),
        (["foundations=[a, a]"], "foundations: names a model twice"),
        (["evaluate.limit=0"], "evaluate.limit: 0 is less than 1"),
        (["pool=all"], "pool: has no effect with strategy: greedy; remove it"),
        (["explore=highest"], "explore: has no effect with strategy: greedy; remove it"),
        (["cma.sigma0=0.1"], "cma: has no effect with strategy: greedy; remove it"),
        (["search=cma_es", "k=4"], "k: has no effect with search: cma_es; remove it"),
        (["search=cma_es", "strategy=random"], "strategy: has no effect with search: cma_es; remove it"),
        (["search=cma_es", "cma.sigma0=0"], "cma.sigma0: 0.0 is not above 0"),
        (["search=cma_es", "cma.smooth=true"], "cma.smooth: has no effect with layer_granularity: 0"),
        (["keep=top_k", "strategy=random"], "keep: top_k would drop models that may still be merged here; use all"),
        (["keep=top_k", "strategy=kinship", "pool=all"], "keep: top_k would drop models"),
    ])
    func everyProblemIsOneLine(_ overrides: [String], _ message: String) {
        let lines = problems(whole, overrides)
        #expect(lines.count == 1 && lines.first?.contains(message) == true, "\(lines)")
    }

    private func task(_ text: String) -> String {
        "recipe: evolve\nbase: base\nfoundations: [a, b]\nevaluate:\n  tasks:\n    - {\(text)}\n"
    }

    @Test(arguments: [
        ("name: gsm8k, data: rows.jsonl", "gsm8k"), ("name: sums, data: data/GSM8K-test.jsonl", "gsm8k"),
        ("name: mmlu_law, data: rows.jsonl", "mmlu"), ("name: x, data: arc_easy.jsonl", "arc_"),
        ("name: TruthfulQA, data: rows.jsonl", "truthfulqa"),
    ])
    func testSplitsAreRefusedAsJudges(_ text: String, _ benchmark: String) throws {
        let lines = problems(task(text))
        #expect(lines.count == 1)
        #expect(lines.first?.contains("looks like the test split of \(benchmark)") == true, "\(lines)")
        #expect(problems(task(text), ["evaluate.allow_test_splits=true"]).isEmpty)
    }

    @Test(arguments: [
        "name: gsm8k_train, data: rows.jsonl", "name: sums, data: gsm8k_train.jsonl", "name: news, data: n",
    ])
    func trainingRowsAreTaken(_ text: String) { #expect(problems(task(text)).isEmpty) }

    @Test(arguments: [
        ("data: rows.jsonl", "tasks[0]: needs a name"), ("name: t", "tasks[0]: needs data, a file of rows"),
        ("name: t, data: d, choice: [yes]", "choice: name two labels or more, each once"),
        ("name: t, data: d, choice: ['a', 'a']", "choice: name two labels or more, each once"),
        ("name: t, data: d, limit: 0", "tasks[0].limit: 0 is less than 1"),
        ("name: t, data: d, wieght: 1", "did you mean weight?"),
    ])
    func tasksAreChecked(_ text: String, _ message: String) {
        let lines = problems(task(text))
        #expect(lines.count == 1 && lines.first?.contains(message) == true, "\(lines)")
    }

    @Test func resumingMayChangeOnlyHowLongItGoesOn() throws {
        let keys = Set(try load(whole).flattened.map(\.key))
        #expect(
            EvolveConfig.mayChangeOnResume.isSubset(of: keys), "\(EvolveConfig.mayChangeOnResume.subtracting(keys))")
        for key in ["strategy", "seed", "metric", "merge.method", "base", "k", "explore"] {
            #expect(keys.contains(key) && !EvolveConfig.mayChangeOnResume.contains(key))
        }
    }
}
