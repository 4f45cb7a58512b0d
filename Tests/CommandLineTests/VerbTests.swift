// The contract of the command line: help, exit statuses, one-line errors, and what the front program loads.
import ArgumentParser
import CommandLineInterface
import Diagnostics
import Formats
import Testing

/// Every verb as typed, groups included: `""`, `train`, `tokenizer`, `tokenizer encode` ...
private let verbs = verbTypes.map(\.path)

private let verbTypes: [(path: String, type: any ParsableCommand.Type)] = {
    func below(_ verb: any ParsableCommand.Type, _ path: String) -> [(String, any ParsableCommand.Type)] {
        [(path, verb)]
            + verb.configuration.subcommands.flatMap { below($0, "\(path) \($0.configuration.commandName ?? "?")") }
    }
    return below(Needletail.self, "").map { (String($0.0.drop { $0 == " " }), $0.1) }
}()

struct VerbTests {
    @Test(arguments: verbs)
    func helpHasAnExample(_ verb: String) throws {
        try withTemporaryFolder { folder in
            let help = try shell("needletail \(verb) --help", in: folder)
            #expect(help.status == 0 && help.errors.isEmpty)
            #expect(help.output.contains("Example:\n  needletail \(verb)"), "an example that starts with the verb")
            #expect(help.output.split(separator: "\n").filter { !$0.hasPrefix("USAGE") }.allSatisfy { $0.count <= 80 })
        }
    }

    /// Every verb that computes bounds its threads: all of the engine's but those that only report.
    @Test func engineVerbsTakeThreads() throws {
        let reporting: [any ParsableCommand.Type] = [
            DoctorCommand.self, RecipesCommand.Explain.self, EvolvePlotCommand.self,
        ]
        let computing = verbTypes.filter { verb in
            verb.type is any EngineCommand.Type && !reporting.contains { $0 == verb.type }
        }
        #expect(computing.count >= 16)
        for (path, type) in computing {
            #expect(Needletail.helpMessage(for: type).contains("--threads <count>"), "\(path)")
        }
    }

    /// What an adapter's folder lacks can be said to every verb that takes one.
    @Test func filesAreMadeOfAdaptersOnAnotherBase() throws {
        let words = ["lost", "x.gguf", "--type", "q8_0", "--base", "here"]
        #expect(try QuantizeCommand.parse(words).base == "here")
        #expect(try ExportCommand.parse(words).base == "here")
    }

    /// Every example is accepted as typed: an engine verb reaches the engine with the same words, a text verb may miss its
    /// files (65), and none is a usage error.
    @Test(arguments: verbs)
    func exampleIsAccepted(_ verb: String) throws {
        try withStandInEngine { folder in
            let help = try shell("needletail \(verb) --help", in: folder).output
            let example = try #require(help.split(separator: "\n").first { $0.hasPrefix("  needletail ") })
            let outcome = try shell("export HOME=$PWD; \(example)", in: folder)
            #expect([0, 65].contains(outcome.status), "\(example): \(outcome.errors)")
        }
    }

    @Test(arguments: [
        ("trian x.yaml", "unknown verb 'trian'; did you mean 'train'? (see 'needletail --help')"),
        ("recipes list", "unknown verb 'list'; did you mean 'ls'? (see 'needletail recipes --help')"),
        ("recipes copy a b", "unknown verb 'copy'; did you mean 'cp'?"),
        ("train", "Missing expected argument '<config>' (see 'needletail train --help')"),
        ("train x.yaml --lmit 3", "Unknown option '--lmit'. Did you mean '--limit'? (see 'needletail train --help')"),
        ("train x.yaml seed", "'seed' is not of the form key=value"),
        ("finetune a b --method dpo", "The value 'dpo' is invalid for '--method <method>'"),
        ("generate model", "give either a prompt or --input FILE"),
        ("generate model hi --temperature=-1", "--temperature is 0 or more, not -1.0"),
        ("generate model hi --top-p 2", "--top-p is above 0 and at most 1, not 2.0"),
        ("score model --input a --output b --device tpu", "unknown device 'tpu'; use auto, cpu, cuda or cuda:N"),
        ("eval model data --choice yes", "--choice needs at least two labels"),
        ("merge", "Missing expected argument '<config>' (see 'needletail merge --help')"),
        ("merge m.yaml", "Missing expected argument '<out>'"),
        ("merge m.yaml out --shard-size 5B", "The value '5B' is invalid for '--shard-size <size>'"),
        ("score model --input a --output b --threads 0", "--threads is 1 to 256, not 0"),
        ("bench gemm --threads 99999999999", "--threads is 1 to 256, not 99999999999"),
        ("bench train --model m --method dora --dropout 1", "--dropout is 0 or more and below 1, not 1.0"),
        (
            "bench train --model m --dropout 0.1",
            "--dropout is for adapters: use it with --method lora, dora or qlora"
        ),
        ("bench generate --model m --top-p 0.9", "--top-p has no effect at --temperature 0; give a temperature"),
        ("bench generate --model m --temperature=-1", "--temperature is 0 or more, not -1.0"),
        ("bench train --model x.json --head-chunk=-1", "--head-chunk is 0 or more, not -1"),
        ("merge m.yaml out --threads 0", "--threads is 1 to 256, not 0"),
        ("completion tcsh", "Please provide one of 'bash', 'zsh' or 'fish'"),
        ("--nope", "Unknown option '--nope' (see 'needletail --help')"),
    ])
    func usageErrorIsOneLine(_ arguments: String, _ message: String) throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("needletail \(arguments)", in: folder)
            #expect(outcome.status == 64 && outcome.output.isEmpty)
            #expect(outcome.errors.hasPrefix("error: ") && outcome.errors.contains(message), "\(outcome.errors)")
            #expect(outcome.errors.count { $0 == "\n" } == 1)
        }
    }
}

/// How the front program finds and becomes the engine.
struct EngineTests {
    @Test func enginesGetTheSameWords() throws {
        try withStandInEngine { folder in
            let outcome = try shell("needletail score 'a  b' --input - --output=x --dtype fp32", in: folder)
            #expect(outcome.output == "[score][a  b][--input][-][--output=x][--dtype][fp32]")
        }
    }

    /// An installed tree: `bin` and `libexec` side by side, moved after installation, reached through a link on PATH.
    @Test func installedTreeMayMove() throws {
        try withStandInEngine { folder in
            let outcome = try shell(
                """
                mkdir -p tree/bin tree/libexec/needletail path
                mv bin/needletail tree/bin && mv bin/needletail-engine tree/libexec/needletail && mv tree moved
                ln -s ../moved/bin/needletail path/needletail
                PATH=$PWD/path:$PATH needletail doctor
                """, in: folder)
            #expect(outcome.status == 0 && outcome.output.hasSuffix("[doctor]"), "\(outcome)")
        }
    }

    @Test func missingEngineIsNamed() throws {
        try withStandInEngine { folder in
            let outcome = try shell("rm bin/needletail-engine; needletail train x.yaml", in: folder)
            #expect(outcome.status == 70 && outcome.errors.contains("needletail-engine is neither in"))
        }
    }

    /// What the loader does not find is named with what to run; a place of the person's own is as good as ours.
    @Test func missingLibTorchIsNamed() throws {
        try withStandInEngine { folder in
            let made = try shell(
                """
                echo 'int f(void) { return 7; }' > f.c && echo 'int f(void); int main(void) { return f(); }' > main.c
                mkdir lib && clang -fuse-ld=lld -shared -o lib/libtorch_cpu.so f.c && rm bin/needletail-engine \
                    && clang -fuse-ld=lld -o bin/needletail-engine main.c -Llib -ltorch_cpu
                """, in: folder)
            try #require(made.status == 0, "\(made.errors)")
            let found = try shell("LD_LIBRARY_PATH=$PWD/lib needletail train x.yaml", in: folder)
            #expect(found.status == 7 && found.errors.isEmpty, "\(found)")
            let lost = try shell("env -u LD_LIBRARY_PATH needletail train x.yaml", in: folder)
            #expect(lost.status == 70 && lost.errors.split(separator: "\n").count == 1, "\(lost)")
            let message = "error: needletail-engine does not find libtorch_cpu.so; run scripts/bootstrap "
            #expect(lost.errors.hasPrefix(message), "\(lost)")
        }
    }

    /// A front program without Arrow's libraries beside it still says what to run.
    @Test func missingArrowIsNamed() throws {
        try withStandInEngine { folder in
            let outcome = try shell("printf PAR1 > a.parquet; needletail data convert a.parquet b.jsonl", in: folder)
            #expect(outcome.status == 70 && outcome.errors.contains("libneedletail-arrow.so"), "\(outcome)")
            #expect(outcome.errors.contains("run scripts/bootstrap and make build"), "\(outcome)")
        }
    }

    /// The engine's threads do not spin long, unless the person says how they should wait.
    @Test(arguments: [("", "1000"), ("GOMP_SPINCOUNT=7", "7"), ("OMP_WAIT_POLICY=active", "")])
    func waitingIsBounded(_ environment: String, _ expected: String) throws {
        try withStandInEngine { folder in
            try writeFileAtomically("#!/bin/sh\nprintf \"$GOMP_SPINCOUNT\"\n", to: "\(folder)/bin/needletail-engine")
            let outcome = try shell(
                "chmod +x bin/needletail-engine; env -u GOMP_SPINCOUNT \(environment) needletail train x.yaml",
                in: folder)
            #expect(outcome.status == 0 && outcome.output == expected, "\(outcome)")
        }
    }

    @Test func frontProgramLoadsNoLibTorch() throws {
        try withTemporaryFolder { folder in
            let libraries = try shell("ldd \(products)/needletail", in: folder)
            #expect(libraries.status == 0 && libraries.output.contains("libc.so"))
            for name in ["libtorch", "libc10", "libgomp", "libswift", "libFoundation"] {
                #expect(!libraries.output.contains(name), "the front program loads \(name)")
            }
        }
    }
}

/// What happens when nobody reads, or the disk is full.
struct OutputTests {
    @Test func fullDiskIs73() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("needletail completion bash > /dev/full", in: folder)
            #expect(outcome.status == 73)
            #expect(outcome.errors == "error: cannot write standard output: No space left on device\n")
        }
    }

    /// The reader leaves at once; with SIGPIPE ignored, as some parents leave it, the program still ends quietly.
    @Test func brokenPipeIsQuiet() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("trap '' PIPE; (sleep 0.2; needletail completion fish) | true", in: folder)
            #expect(outcome.errors.isEmpty)
        }
    }

    @Test func versionIsPrinted() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("needletail --version", in: folder)
            #expect(outcome.output == "needletail \(programVersion)\n")
        }
    }

    /// Reported, not asserted: machines differ. The bar is 50 ms; the process and its shell are in the figure.
    @Test func helpTime() throws {
        try withTemporaryFolder { folder in
            for verb in verbs {
                let times = try (0..<5).map { _ in try shell("needletail \(verb) --help", in: folder).milliseconds }
                    .sorted()
                print("help time: needletail \(verb) --help: median \(Int(times[2].rounded(.up))) ms")
            }
        }
    }
}

/// A folder whose `bin` holds the built program and a stand-in engine that prints its words; `needletail` runs that copy.
private func withStandInEngine(_ body: (String) throws -> Void) throws {
    try withTemporaryFolder { folder in
        let made = try shell(
            """
            mkdir bin && cp '\(products)/needletail' bin/
            printf '#!/bin/sh\\nprintf "[%%s]" "$@"\\n' > bin/needletail-engine
            chmod +x bin/needletail-engine
            """, in: folder)
        try #require(made.status == 0, "\(made.errors)")
        try body(folder)
    }
}
