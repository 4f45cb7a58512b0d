// Models of twenty thousand weights for tests that need real ones, trained when first asked for.
import Formats
import Glibc
import Testing

/// A base and three fine-tunes of it, made when first asked for.
enum Nursery {
    static let folder: String = {
        let path = "/tmp/needletail-evolve-\(getpid())"
        mkdir(path, 0o755)
        atexit { system("rm -rf /tmp/needletail-evolve-\(getpid())") }
        return path
    }()

    static func run(_ command: String) throws -> Outcome {
        try shell("export OMP_NUM_THREADS=1; \(command)", in: folder)
    }

    static let models: Result<Void, any Error> = Result {
        let outcome = try run(
            """
            set -e
            needletail data tiny-model tiny --layers 2 --width 32 --heads 2
            for task in add reverse sort; do
                needletail data reasoning --task $task --rows 400 --seed 1 --output $task.jsonl
                needletail data reasoning --task $task --rows 20 --seed 2 --output $task-judge.jsonl
            done
            train() {
                needletail finetune "$@" --method full model.dtype=fp32 training.batch_rows=16 \
                    optimizer.learning_rate=3e-3 threads=1
            }
            cat add.jsonl reverse.jsonl sort.jsonl > all.jsonl
            train tiny all.jsonl --output base model.initialize=random training.steps=60
            for task in add reverse sort; do train base $task.jsonl --output $task training.steps=20; done
            cat > family.yaml <<YAML
            recipe: evolve
            base: base
            foundations: [add, reverse, sort]
            evaluate:
              tasks:
                - {name: add, data: add-judge.jsonl}
                - {name: reverse, data: reverse-judge.jsonl}
                - {name: sort, data: sort-judge.jsonl}
            max_generations: 3
            early_stop: {patience: null}
            dtype: fp32
            threads: 1
            YAML
            """)
        try #require(outcome.status == 0, "\(outcome.errors)")
    }

    /// Starts the command again and again, kills it (SIGKILL) each time the journal has grown by `lines`, then lets it end.
    static func killed(_ command: String, output: String, every lines: Int) throws -> Outcome {
        try run(
            """
            kills=0
            rows() { cat \(output)/journal.jsonl 2> /dev/null | wc -l; }
            while true; do
                before=$(rows)
                \(command) output=\(output) > result.json 2> errors & evolving=$!
                while kill -0 $evolving 2> /dev/null && [ $(rows) -lt $((before + \(lines))) ]; do sleep 0.01; done
                [ $kills -lt 20 ] || break  # a run that never gets on would be killed for ever
                kill -KILL $evolving 2> /dev/null || break
                wait $evolving 2> /dev/null || true
                kills=$((kills + 1))
            done
            wait $evolving || { cat errors >&2; exit 1; }
            echo $kills
            """)
    }

    static func number(_ name: String, _ json: String) throws -> Double {
        try #require(try JSONValue.parse(Array(json.utf8))[name]?.double)
    }
}
