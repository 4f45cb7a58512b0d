// evolve as a person types it, on models of twenty thousand weights: whole runs, kills, what is refused.
import Formats
import Glibc
import Testing

@Suite(.serialized) struct EvolveTests {
    @Test func aFamilyIsBredAndSurvivesKills() throws {
        try Nursery.models.get()
        let whole = try Nursery.run("needletail evolve family.yaml strategy=kinship output=whole")
        #expect(whole.status == 0, "\(whole.errors)")
        let result = try JSONValue.parse(Array(whole.output.utf8))
        #expect(result["merges"]!.int! >= 6 && result["end"]!.string == "max_generations")
        let best = try #require(result["folder"]?.string)
        // What it says of its best child is what eval says of that folder.
        let judged = try Nursery.run(
            "for task in add reverse sort; do needletail eval \(best) $task-judge.jsonl --dtype fp32 --json; done")
        let losses = try judged.output.split(separator: "\n").map { try Nursery.number("loss", String($0)) }
        let average = losses.reduce(0) { $0 + 100 * exp(-$1) } / 3
        #expect(abs(average - result["average"]!.double!) < 1e-3, "\(losses) and \(whole.output)")
        let tree = try readTextFile("\(Nursery.folder)/whole/plots/family-tree.svg")
        for name in ["add", "reverse", "sort", "1-1", "3-1"] { #expect(tree.contains(">\(name)"), "\(name)") }

        let killed = try Nursery.killed("needletail evolve family.yaml strategy=kinship", output: "killed", every: 4)
        #expect(killed.status == 0 && Int(killed.output.dropLast()) ?? 0 >= 3, "\(killed.output) \(killed.errors)")
        let same = try Nursery.run(
            """
            for run in whole killed; do
                sed 's/,[^,]*$//' $run/models.csv > $run.csv && (cd $run/models && find . -type f | sort) > $run.files
                (cd $run/models && cat $(find . -name '*.safetensors' | sort)) | cksum > $run.weights
            done
            cmp whole.csv killed.csv && cmp whole/kinship.json killed/kinship.json && cmp whole.files killed.files \
                && cmp whole.weights killed.weights && wc -l < whole/journal.jsonl && wc -l < killed/journal.jsonl
            """)
        #expect(same.status == 0, "\(same.output)\(same.errors)")
        let lines = same.output.split(separator: "\n")
        #expect(lines.count == 2 && lines[0] == lines[1], "every score and kinship is in the journal once: \(lines)")

        let drawn = try Nursery.run(
            "needletail evolve plot whole killed --output both.svg && grep -c '<polyline' both.svg")
        #expect(drawn.status == 0 && drawn.output.hasSuffix("\n2\n"), "\(drawn)")
        #expect(drawn.output.split(separator: "\n")[0].split(separator: " ") == ["generation", "whole", "killed"])

        // A line that no kill leaves: named, and not an internal error.
        let damaged = try Nursery.run(
            "sed -i '3s/.$//' killed/journal.jsonl; needletail evolve family.yaml strategy=kinship output=killed")
        #expect(damaged.status == 65 && damaged.output.isEmpty)
        #expect(
            damaged.errors.contains("error: killed/journal.jsonl, line 3: damaged; delete this line, "),
            "\(damaged.errors)")
    }

    @Test func dropsChildrenThatNobodyNeeds() throws {
        try Nursery.models.get()
        let outcome = try Nursery.run(
            """
            needletail evolve family.yaml keep=top_k max_generations=4 output=dropped > /dev/null \
                && ls dropped/models | wc -l && ls dropped/recipes | wc -l
            """)
        let counts = outcome.output.split(separator: "\n").compactMap { Int($0) }
        #expect(outcome.status == 0 && counts.count == 2 && counts[0] < counts[1], "\(outcome.output)\(outcome.errors)")
    }

    @Test(arguments: ["task_arithmetic", "slerp"]) func aSearchFindsABetterMergeAndSurvivesKills(_ method: String)
        throws
    {
        try Nursery.models.get()
        let command =
            "needletail evolve family.yaml search=cma_es max_generations=6 early_stop.patience=2 "
            + "merge.method=\(method) cma.max_fevals=15 cma.layer_granularity=1"
        let whole = try Nursery.run("\(command) output=search-\(method)")
        #expect(whole.status == 0, "\(whole.errors)")
        #expect(try Nursery.number("objective", whole.output) >= Nursery.number("start", whole.output))
        // best.yaml, written as a model, is worth what the search says.
        let judged = try Nursery.run(
            """
            needletail merge search-\(method)/best.yaml merged-\(method) 2> /dev/null
            for task in add reverse sort; do needletail eval merged-\(method) $task-judge.jsonl --dtype fp32 --json; done
            """)
        let losses = try judged.output.split(separator: "\n").map { try Nursery.number("loss", String($0)) }
        let objective = losses.reduce(0) { $0 + 100 * exp(-$1) }
        #expect(abs(objective - (try Nursery.number("objective", whole.output))) < 1e-3, "\(losses), \(whole.output)")
        let killed = try Nursery.killed(command, output: "killed-\(method)", every: 4)
        #expect(killed.status == 0 && Int(killed.output.dropLast()) ?? 0 >= 2, "\(killed.output) \(killed.errors)")
        let same = try Nursery.run(
            """
            cmp search-\(method)/best.yaml killed-\(method)/best.yaml
            for run in search killed; do sed 's/,[^,]*$//' $run-\(method)/trials.csv > $run.csv; done; cmp search.csv killed.csv
            """)
        #expect(same.status == 0 && same.output.isEmpty, "\(same.output)\(same.errors)")
    }

    @Test func configsOfFamiliesAreChecked() throws {
        try Nursery.models.get()
        let outcome = try Nursery.run(
            """
            needletail recipes check family.yaml k=4 > resolved && needletail recipes check resolved | cmp - resolved \
                && grep -c '^k: 4$' resolved; needletail recipes check family.yaml strategi=greedy
            """)
        #expect(outcome.status == 64 && outcome.output == "1\n")
        #expect(outcome.errors == "error: command line: strategi: unknown key; did you mean strategy?\n")
    }

    @Test(arguments: [
        ("strategi=greedy", 64, "strategi: unknown key; did you mean strategy?"),
        ("merge.method=slrp", 64, "merge.method: no method slrp for two models; did you mean slerp?"),
        ("merge.parameters.tt=0.5", 64, "tt"),
        ("base=other", 65, "none of its matrices is closer to the base other than chance"),
        ("'foundations=[add, nowhere]'", 65, "nowhere"),
        ("'evaluate.tasks=[{name: gsm8k, data: add-judge.jsonl}]'", 64, "looks like the test split of gsm8k"),
        ("search=cma_es merge.parameters.t=0.5 early_stop.patience=2 max_generations=6", 64, "merge.parameters"),
    ])
    func whatCannotBeDoneIsOneLineAndWritesNothing(_ change: String, _ status: Int32, _ message: String) throws {
        try Nursery.models.get()
        let outcome = try Nursery.run(
            """
            [ -d other ] || { needletail finetune tiny add.jsonl --output other --method full model.initialize=random \
                training.steps=1 training.seed=9 threads=1 2> /dev/null; }
            needletail evolve family.yaml output=refused \(change)
            """)
        #expect(outcome.status == status && outcome.output.isEmpty)
        let lines = outcome.errors.split(separator: "\n").filter { $0.hasPrefix("error: ") }
        #expect(lines.count == 1 && lines.first?.contains(message) == true, "\(outcome.errors)")
        #expect(!folderExists("\(Nursery.folder)/refused"))
    }
}
