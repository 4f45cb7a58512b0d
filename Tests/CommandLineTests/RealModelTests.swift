// The short tier: the built programs, typed as a person types them, on the real model and real rows that `make test`
// fetches. Each answer is checked against a threshold, an exit status or a file.
import Formats
import Glibc
import Testing

/// What the tests of this file share: the model as a folder, rows, and one short training, each made when first asked for.
private enum Workshop {
    /// The folder all commands run in; removed when the process ends.
    static let folder: String = {
        let path = "/tmp/needletail-tier-\(getpid())"
        mkdir(path, 0o755)
        atexit { system("rm -rf /tmp/needletail-tier-\(getpid())") }
        return path
    }()

    /// What `scripts/fetch-assets smollm2 sarcasm` left in the checkout.
    static func asset(_ name: String) throws -> String {
        let checkout = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let path = "/\(checkout)/.deps/demo/\(name)"
        try #require(fileExists(path), "\(path) is missing; run scripts/fetch-assets smollm2 sarcasm")
        return path
    }

    /// Runs a command in the shared folder. One thread each: several tests run at a time.
    static func run(_ command: String) throws -> Outcome {
        try shell("export OMP_NUM_THREADS=1 NEEDLETAIL_CACHE=$PWD/cache; \(command)", in: folder)
    }

    /// The real model as a Hugging Face folder `model`; 40 headlines in `train.jsonl`, 20 others in `held-out.jsonl`.
    static let model: Result<Void, any Error> = Result {
        let headlines = try asset("sarcasm.jsonl")
        let outcome = try run(
            """
            head -n 40 '\(headlines)' > train.jsonl && head -n 60 '\(headlines)' | tail -n 20 > held-out.jsonl \
                && needletail convert '\(try asset("SmolLM2-135M-Instruct.Q4_1.gguf"))' model
            """)
        try #require(outcome.status == 0, "\(outcome.errors)")
    }

    static let training = """
        needletail finetune model train.jsonl --output runs/a data.validation=[held-out.jsonl] training.steps=10 \
            training.batch_rows=4 training.eval_every=5 training.save_every=2 optimizer.learning_rate=1e-3 model.dtype=fp32
        """

    /// Ten steps of LoRA, asked to stop on the way and started again: the two outcomes.
    static let trained: Result<(first: Outcome, second: Outcome), any Error> = Result {
        try model.get()
        let first = try run(
            """
            \(training) & trainer=$!
            while kill -0 $trainer && ! [ "$(cat runs/a/metrics.jsonl | wc -l)" -gt 2 ]; do sleep 0.05; done 2> /dev/null
            kill -TERM $trainer; wait $trainer
            """)
        return (first, try run(training))
    }
}

/// An adapter whose base is not where it says.
private let lostAdapter =
    "mkdir -p lost; echo '{\"base_model_name_or_path\":\"gone\"}' > lost/adapter_config.json"

/// The JSON that a verb's help shows as its answer: the lines from the first `{` on, joined.
private func helpExample(_ verb: String) throws -> String {
    let lines = try Workshop.run("needletail \(verb) --help").output.split(
        separator: "\n", omittingEmptySubsequences: false)
    let first = try #require(lines.firstIndex { $0.hasPrefix("  {") })
    return lines[first...].prefix { !$0.isEmpty }.map { $0.drop { $0 == " " } }.joined()
}

@Suite(.serialized) struct RealModelTests {
    /// Operations of forward and backward are in the trace, and logits of a row at a time are more of them than of all at
    /// once; a place that cannot be written is a line.
    @Test func benchWritesATrace() throws {
        let bench = "needletail bench train --model tiny.json --batch 1 --sequence 8 --steps 1 --trace"
        let outcome = try Workshop.run(
            """
            printf '{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, \
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}' > tiny.json
            \(bench) trace.json --head-chunk 0 && \(bench) rows.json --head-chunk 1
            """)
        try #require(outcome.status == 0, "\(outcome.errors)")
        let traces = try ["trace", "rows"].map { trace -> [String] in
            let events = try readJSONFile("\(Workshop.folder)/\(trace).json")["traceEvents"]?.array
            return try #require(events).compactMap { $0["name"]?.string }
        }
        let names = Set(traces[0]), narrowed = traces.map { $0.count { $0 == "aten::narrow" } }
        #expect(narrowed[1] > narrowed[0], "\(narrowed)")
        #expect(names.isSuperset(of: ["needletail::rms_norm", "needletail::document_attention", "aten::mm"]))
        #expect(names.contains { $0.contains("CppNode") && $0.contains("RMSNorm") })
        let adapted = try Workshop.run("\(bench) dora.json --method dora --dropout 0.1 --recompute-blocks 1")
        try #require(adapted.status == 0, "\(adapted.errors)")
        let dora = try readJSONFile("\(Workshop.folder)/dora.json")["traceEvents"]?.array ?? []
        #expect(dora.contains { $0["name"]?.string == "needletail::dropout" })
        let nowhere = try Workshop.run("\(bench) missing/trace.json")
        #expect(nowhere.status == 73 && nowhere.errors.hasPrefix("error: missing/trace.json"), "\(nowhere.errors)")
        #expect(nowhere.errors.split(separator: "\n").count == 1)
    }

    @Test func doctorNamesTheEngine() throws {
        let outcome = try Workshop.run("needletail doctor")
        #expect(outcome.status == 0 && outcome.errors.isEmpty)
        for word in ["libtorch", "instruction set", "threads", "memory"] { #expect(outcome.output.contains(word)) }
    }

    /// What the help of the tokenizer and data verbs shows is what they print.
    @Test func helpShowsWhatIsPrinted() throws {
        try Workshop.model.get()
        let encoded = try Workshop.run(#"echo '{"text":"The capital of"}' | needletail tokenizer encode model"#)
        #expect(encoded.output == (try helpExample("tokenizer encode")) + "\n")
        let decoded = try Workshop.run(#"echo '{"ids":[504,3575,282]}' | needletail tokenizer decode model --json"#)
        #expect(decoded.output == (try helpExample("tokenizer decode")) + "\n")
        let inspected = try Workshop.run(
            #"echo '{"text":"2+2"}' > a.jsonl; needletail data inspect model a.jsonl --json"#)
        #expect(inspected.output == (try helpExample("data inspect")) + "\n")
    }

    @Test func tokenizersOfFolderAndFileAgree() throws {
        try Workshop.model.get()
        let gguf = try Workshop.asset("SmolLM2-135M-Instruct.Q4_1.gguf")
        let outcome = try Workshop.run(
            """
            needletail tokenizer inspect model > one && needletail tokenizer inspect '\(gguf)' | cmp - one && cat one
            echo '{"messages":[{"role":"user","content":"Hi"}],"add_generation_prompt":true}' \
                | needletail tokenizer render model --output texts.jsonl && cat texts.jsonl
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        #expect(outcome.output.contains("vocabulary            49152 ids"))
        #expect(outcome.output.contains(#"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"}"#))
    }

    /// Tokens are kept once, taken by whatever trains on the same rows, listed and removed.
    @Test func tokensAreKept() throws {
        try Workshop.model.get()
        func own(_ command: String) throws -> Outcome {
            try Workshop.run("export NEEDLETAIL_CACHE=$PWD/own; needletail \(command)")
        }
        let settings =
            "model.path=model data.train=train.jsonl data.validation_fraction=null data.validation_rows=5 data.max_length=99"
        let made = try own("data cache fill sft-lora \(settings)"),
            taken = try own("data cache fill sft-lora \(settings)")
        #expect(made.status == 0 && made.output.hasPrefix("tokens kept in the cache: "), "\(made)")
        #expect(taken.output == made.output.replacing("kept in", with: "from") && made.output.contains("\nheld out\n"))
        let run = try own("train sft-lora \(settings) data.seed=3 data.cache=true output=runs/kept --dry-run")
        #expect(run.status == 0 && run.errors.contains("\ntokens from the cache: "), "\(run)")
        let without = try own("train sft-lora \(settings) data.cache=false output=runs/kept --dry-run")
        #expect(without.status == 0 && !without.errors.contains("tokens from"))
        #expect(try own("data cache fill sft-lora \(settings) data.cache=false").status == 64)
        let listed = try own("data cache ls").output
        #expect(listed.contains(".tokens  40 rows, ") && listed.hasSuffix(", from train.jsonl\n"), "\(listed)")
        #expect(try own("data cache clear").output.hasPrefix("1 file, "))
        #expect(try own("data cache ls").output.isEmpty)
    }

    @Test func dataIsMeasured() throws {
        try Workshop.model.get()
        let bench = try Workshop.run(
            "needletail bench data --model model train.jsonl --json --batch-rows 7 --threads 2")
        let figures = try JSONValue.parse(bench.output), parts = try #require(figures["parts"]?.object)
        #expect(
            figures["rows"]?.int == 40 && figures["threads"]?.int == 2 && figures["step_seconds"]?.array?.count == 6)
        #expect(parts.keys == ["read", "render", "tokenize", "encode", "pack", "cache_write", "cache_read"])
        #expect(parts.values.allSatisfy { $0.double ?? 0 > 0 } && figures["tokens_per_second"]?.double ?? 0 > 0)
        let shown = try Workshop.run("needletail bench data --model model train.jsonl")
        #expect(
            shown.status == 0 && shown.output.hasPrefix("40 rows, ") && shown.output.contains(" MB/s  "), "\(shown)")
        #expect(try Workshop.run("ls -d ${TMPDIR:-/tmp}/needletail-bench-* 2> /dev/null").output.isEmpty, "left behind")
    }

    /// A fused step beside reading its weights, of models with and without a gate.
    @Test func generationIsMeasured() throws {
        let shape = #""vocab_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 32"#
        let llama =
            #"{"model_type": "llama", \#(shape), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}"#
        let gpt2 =
            #"{"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}"#
        let bench = "bench generate --prompt-tokens 4 --tokens 20 --json --threads 2"
        let outcome = try Workshop.run(
            """
            printf '\(llama)' > llama.json; printf '\(gpt2)' > gpt2.json
            needletail \(bench) --model llama.json && needletail \(bench) --model gpt2.json
            """)
        let reports = try outcome.output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
        try #require(outcome.status == 0 && reports.count == 2, "\(outcome)")
        // Two layers and the table, in fp32 or bf16: q, k, v and o 32 x 32; gate, up and down 48 x 32, or two maps of 128 x 32.
        let weights = [3 * 48 * 32, 2 * 128 * 32].map { 2 * (4 * 32 * 32 + $0) + 64 * 32 }
        for (report, weights) in zip(reports, weights) {
            #expect(report["step_seconds"]?.array?.count == 20 && report["tokens_per_second"]?.double ?? 0 > 0)
            #expect([2 * weights, 4 * weights].contains(report["bytes_per_step"]?.int ?? 0))
            #expect(report["read_bandwidth"]?.double ?? 0 > 0 && report["share_of_read_bandwidth"]?.double ?? 0 > 0)
        }
    }

    /// What benchmarks are read for: the same names in each, every one a number, a list of numbers or parts of a step.
    @Test func benchmarksNameTheirFigures() throws {
        let outcome = try Workshop.run(
            """
            printf '{"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, \
            "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}' > figures.json
            bench() { needletail bench "$@" --dtype fp32 --json; }
            bench train --model figures.json --batch 1 --sequence 8 --steps 2 \
                && bench generate --model figures.json --prompt-tokens 4 --tokens 4 --temperature 1 --top-p 0.9 \
                && bench gemm --size 64
            """)
        let reports = try outcome.output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
        try #require(outcome.status == 0 && reports.count == 3, "\(outcome)")
        let speed = ["tokens_per_second", "share_of_gemm_peak", "gemm_peak_gflops"]
        let numbers = [speed, speed + ["prompt_seconds"], []].map { $0 + ["gflops", "peak_memory_bytes"] }
        let parts = [["forward", "backward", "update"], ["forward", "sampling"], []], steps = [2, 4, 8]
        for (i, report) in reports.enumerated() {
            for name in numbers[i] { #expect(report[name]?.double ?? 0 > 0, "\(name) in \(report)") }
            let seconds = try #require(report["step_seconds"]?.array).map { $0.double ?? 0 }
            #expect(seconds.count == steps[i] && seconds.allSatisfy { $0 > 0 })
            let shares = report["parts"]?.object
            #expect((shares?.keys ?? []) == parts[i])
            // Parts are of one step, and make it up.
            let sum = (shares?.values ?? []).reduce(0) { $0 + ($1.double ?? 0) }
            #expect(parts[i].isEmpty || seconds.contains { abs($0 - sum) < 1e-9 })
        }
    }

    @Test func rowsAreShownAndCounted() throws {
        try Workshop.model.get()
        let shown = try Workshop.run("needletail data inspect model train.jsonl --limit 1")
        #expect(shown.status == 0 && shown.output.contains("2 trained\n") && shown.output.contains("[[1<|im_end|>]]"))
        let counted = try JSONValue.parse(try Workshop.run("needletail data stats model train.jsonl --json").output)
        #expect(counted["rows_kept"]?.int == 40 && counted["trained_tokens"]?.int == 80)
    }

    /// Explained from the GGUF file, whose weights are not converted for it.
    @Test func configIsExplained() throws {
        try Workshop.model.get()
        let gguf = try Workshop.asset("SmolLM2-135M-Instruct.Q4_1.gguf")
        let outcome = try Workshop.run(
            """
            needletail recipes cp sft-lora my.yaml && NEEDLETAIL_CACHE=$PWD/other needletail recipes explain my.yaml \
                model.path='\(gguf)' data.train=train.jsonl data.validation_fraction=null data.validation_rows=0 \
                && ! ls other/models 2> /dev/null
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        for text in [
            "134,515,008 weights in 30 layers", "4,884,480 (3.63 %): lora of rank 16",
            "40 with 2,122 tokens, 80 trained",
            "6 of 16 rows", "memory in fp32", "by formula", "[[1<|im_end|>]]", "--time measures it",
        ] { #expect(outcome.output.contains(text), "\(text) in \(outcome.output)") }
    }

    /// The steps that are measured are real ones, and nothing of the run is written.
    @Test func timeIsMeasured() throws {
        try Workshop.model.get()
        let outcome = try Workshop.run(
            """
            mkdir -p cache; ls > before; needletail recipes explain sft-lora model.path=model data.train=train.jsonl output=never \
                training.epochs=1 training.batch_rows=8 --time && ls > after; diff before after | grep -v ' after$'
            """)
        let lines = outcome.output.split(separator: "\n")
        #expect(lines.contains { $0.hasPrefix("time a step") && $0.hasSuffix("a second") }, "\(outcome)")
        #expect(lines.contains { $0.hasPrefix("time in all") && $0.contains("5 judgements") }, "\(outcome)")
        #expect(lines.contains { $0.hasPrefix("memory measured") } && !lines.contains { $0.hasPrefix(">") })
    }

    /// A dry run writes the config to standard output and nothing to the folder.
    @Test func finetuneTakesAnySettingAsKeyAndValue() throws {
        try Workshop.model.get()
        let shown = try Workshop.run(
            """
            cp train.jsonl 'a,b [c].jsonl'; needletail finetune model 'a,b [c].jsonl' 'output=o "1"' adapter.method=dora \
                --limit 3 --threads 1 --dry-run && [ ! -e 'o "1"' ]
            """)
        #expect(shown.status == 0, "\(shown.errors)")
        for line in [
            "  method: dora", #"output: "o \"1\"""#, #"  train: ["a,b [c].jsonl"]"#, "  limit: 3", "threads: 1",
        ] { #expect(shown.output.contains(line + "\n"), "\(line) in \(shown.output)") }
        #expect(shown.errors.contains("data.limit: 3 of 38 rows train; held-out rows are not limited\n"))
        let plain = try Workshop.run("needletail finetune model train.jsonl --dry-run").output
        #expect(plain.contains("output: runs/finetune\n") && plain.contains("  method: lora\n"))
    }

    @Test func trainingLearnsStopsAndGoesOn() throws {
        let (first, second) = try Workshop.trained.get()
        #expect(first.status == 75 && first.errors.contains("run the same command again to go on"), "\(first.errors)")
        #expect(first.errors.contains("learning_rate: 0.001"), "prints the config it resolved to")
        #expect(second.status == 0 && second.errors.contains("going on from step"), "\(second.errors)")
        let metrics = try Workshop.run("cat runs/a/metrics.jsonl").output.split(separator: "\n").map {
            try JSONValue.parse(String($0))
        }
        #expect(metrics.compactMap { $0["train/loss"] == nil ? nil : $0["step"]?.int } == Array(1...10))
        let judged = metrics.compactMap { $0["eval/loss"]?.double }
        // Untrained 6.8 nats a token; a coin for the label and nothing for the end token are ln 2 / 2 = 0.35.
        #expect(judged.count == 2 && (judged.last ?? 9) < 1)
        #expect((metrics.last { $0["peak_memory_bytes"] != nil }?["peak_memory_bytes"]?.int ?? 0) > 100 << 20)
    }

    @Test func otherConfigIsRefused() throws {
        _ = try Workshop.trained.get()
        let outcome = try Workshop.run("\(Workshop.training) adapter.rank=8")
        #expect([64, 65].contains(outcome.status) && outcome.errors.contains("adapter.rank"), "\(outcome)")
    }

    /// The adapter is found through the run folder, and merged into its base it gives the same scores.
    @Test func mergedModelScoresAlike() throws {
        _ = try Workshop.trained.get()
        let outcome = try Workshop.run(
            """
            echo '{"text":"The capital of"}' > texts && needletail merge-adapter runs/a merged 2> /dev/null \
                && for model in runs/a merged model; do needletail score $model --input texts --output - --dtype fp32; done
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let rows = try outcome.output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
        try #require(rows.count == 3)
        let sums = rows.compactMap { $0["sum"]?.double }
        #expect(abs(sums[0] - sums[1]) < 1e-4 && abs(sums[0] - sums[2]) > 1e-3, "adapter, merged, base: \(sums)")
        let example = try JSONValue.parse(helpExample("score"))
        #expect(rows[2].object?.keys == example.object?.keys && rows[2]["tokens"] == example["tokens"])
        #expect(abs(sums[2] - (example["sum"]?.double ?? 0)) < 1e-3)
    }

    /// An adapter on a base of 4 bits, merged into those bits, gives the scores it was trained with; a GGUF file's own
    /// blocks give those of its conversion.
    @Test func quantisedBasesScoreAlike() throws {
        try Workshop.model.get()
        let gguf = try Workshop.asset("SmolLM2-135M-Instruct.Q4_1.gguf")
        let outcome = try Workshop.run(
            """
            echo '{"text":"The capital of"}' > texts; score() { needletail score "$@" --input texts --output - --dtype fp32; }
            needletail finetune model train.jsonl --output runs/q model.quantize=nf4 data.validation=[held-out.jsonl] \
                training.steps=2 training.batch_rows=4 optimizer.learning_rate=5e-3 model.dtype=fp32 2> log \
                && needletail merge-adapter runs/q merged-q --quantize nf4 2> /dev/null \
                && score runs/q --quantize nf4 && score merged-q && score runs/q && score model \
                && score '\(gguf)' --quantize as_stored && grep -c 'base nf4' log
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let lines = outcome.output.split(separator: "\n")
        try #require(lines.count == 6 && lines[5] == "1", "\(outcome.output)")
        let sums = try lines.prefix(5).compactMap { try JSONValue.parse(String($0))["sum"]?.double }
        #expect(abs(sums[0] - sums[1]) < 1e-4 && abs(sums[0] - sums[2]) > 1e-3, "\(sums)")
        #expect(abs(sums[3] - sums[4]) < 1e-4 && abs(sums[3] - sums[2]) > 1e-3, "\(sums)")
    }

    @Test func modelAnswersAndIsJudged() throws {
        _ = try Workshop.trained.get()
        let answer = try Workshop.run(
            "needletail generate model 'What is the capital of France? One word.' --temperature 0 --json --dtype fp32")
        #expect(answer.output == (try helpExample("generate")) + "\n", "\(answer.errors)")
        let judged = try Workshop.run("needletail eval runs/a held-out.jsonl --choice 0 --choice 1 --json --dtype fp32")
        let figures = try JSONValue.parse(judged.output)
        #expect(figures.object?.keys == (try JSONValue.parse(helpExample("eval"))).object?.keys)
        #expect(
            figures["rows"]?.int == 20 && (figures["loss"]?.double ?? 9) < 1
                && (figures["accuracy"]?.double ?? 0) >= 0.4)
        let table = try Workshop.run(
            """
            printf 'question,answer\\nTwo and two?,four\\n' > q.csv
            needletail eval model q.csv --column prompt=question --column completion=answer --json
            printf 'one\\ntwo words\\n' > p.txt && needletail eval model p.txt --text-unit line --json
            """
        ).output.split(separator: "\n").map { try JSONValue.parse(String($0)) }
        #expect(table.map { $0["rows"]?.int } == [1, 2])
        let talk = try Workshop.run("printf 'Say hello.\\n' | needletail chat model --temperature 0 --max-new-tokens 8")
        #expect(talk.status == 0 && talk.output.count > 2, "\(talk)")
    }

    /// A run as one file, the file in another type, and what both say of themselves; the written file generates.
    @Test func exportedFilesComputeAsTheirSource() throws {
        _ = try Workshop.trained.get()
        let outcome = try Workshop.run(
            """
            needletail export runs/a a.gguf --type f16 && needletail quantize a.gguf b.gguf --type q4_k \
                && needletail generate b.gguf Hello --weights as-is --max-new-tokens 4 --temperature 0
            """)
        #expect(outcome.status == 0, "\(outcome.errors)")
        let figures = outcome.output.split(separator: "\n").compactMap { line -> Double? in
            guard line.hasPrefix("largest difference of a log-probability to the source ") else { return nil }
            return Double(line.split(separator: " ")[8].dropLast())
        }
        // fp16 against fp32, then 4 and 8 bits against fp16.
        #expect(
            figures.count == 2 && figures[0] < 0.05 && figures[1] > figures[0] && figures[1] < 8, "\(outcome.output)")
        for type in ["F16", "Q4_K", "Q8_0"] {
            #expect(outcome.errors.contains("tensors in \(type)"), "\(outcome.errors)")
        }
    }

    /// One line that names what is wrong, and the documented exit status.
    @Test(arguments: [
        ("needletail generate nowhere hello", 65, "nowhere: no such file or folder"),
        ("needletail generate train.jsonl hello", 65, "train.jsonl: not a GGUF file"),
        ("echo '{\"text\":1}' > x; needletail score model --input x --output -", 65, "x line 1: \"text\" is a number"),
        (
            "echo '{\"foo\":1}' > x; needletail finetune model x --output r1", 65,
            "columns \"foo\" are no known kind of row"
        ),
        ("needletail finetune model train.jsonl --output r1 optimizr.learning_rate=1", 64, "did you mean optimizer?"),
        (
            "needletail finetune model train.jsonl --output r1 --method full model.quantize=nf4", 64,
            "model.quantize: quantised weights cannot be trained"
        ),
        (
            "echo '{\"text\":\"a\"}' > x; needletail score model --input x --output - --dtype fp32 --quantize as_stored",
            64, "as_stored would save nothing"
        ),
        ("needletail finetune model train.jsonl --output /proc/r1", 73, "/proc/r1"),
        ("printf 'a b\\nc d\\n' > x.txt; needletail finetune model x.txt --output r1", 65, "data.text_unit: paragraph"),
        ("needletail eval model train.jsonl --text-unit line", 64, "text_unit: has no effect"),
        ("needletail convert model held-out.jsonl/folder", 73, "held-out.jsonl"),
        ("needletail eval model train.jsonl --choice yes --choice no", 65, "its answer 1 is none of yes, no"),
        ("needletail export model held-out.jsonl", 73, "held-out.jsonl: exists already"),
        ("needletail export held-out.jsonl r1", 64, "needletail quantize writes a GGUF file in another type"),
        ("needletail export model nowhere/r1", 73, "nowhere"),
        ("needletail quantize held-out.jsonl r1 --type q8_0", 65, "held-out.jsonl: not a valid GGUF file"),
        ("needletail quantize held-out.jsonl r1 --type q8_0 --base model", 64, "not an adapter, so the base model"),
        ("\(lostAdapter); needletail quantize lost r1 --type q8_0", 65, "give the base with --base MODEL"),
        ("\(lostAdapter); needletail quantize lost r1 --type q8_0 --base nowhere", 65, "nowhere: no such file"),
        ("needletail tokenizer decode model --input nowhere", 65, "nowhere"),
        ("needletail data stats model train.jsonl --kind conversations", 64, "sharegpt"),
    ])
    func mistakesAreOneLine(_ command: String, _ status: Int32, _ text: String) throws {
        try Workshop.model.get()
        let outcome = try Workshop.run(command)
        #expect(outcome.status == status && outcome.errors.contains(text), "\(outcome.status): \(outcome.errors)")
        #expect(outcome.errors.split(separator: "\n").count { $0.hasPrefix("error: ") } == 1, "\(outcome.errors)")
        let left = try Workshop.run("ls -d r1 2> /dev/null; ls | grep partial")
        #expect(left.output.isEmpty, "half-written: \(left.output)")
    }
}
