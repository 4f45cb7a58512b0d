// needletail recipes, as a person uses it.
import Testing

struct RecipeTests {
    @Test func aCopiedRecipePassesItsCheck() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                """
                for recipe in $(needletail recipes ls | cut -d ' ' -f 1); do
                    needletail recipes cp $recipe mine-$recipe.yaml
                    needletail recipes check mine-$recipe.yaml > resolved.yaml && needletail recipes check resolved.yaml \
                        | cmp - resolved.yaml && echo $recipe
                done
                """, in: folder)
            #expect(outcome.errors.isEmpty)
            #expect(outcome.output.contains("sft-lora\n") && outcome.output.contains("demo-sarcasm\n"))
        }
    }

    @Test func everyProblemIsOneLineWithItsPlace() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                """
                printf 'recipe: sft\\nmodel:\\n  path: m\\noptimizr:\\n  learning_rate: 1\\n' > bad.yaml
                needletail recipes check bad.yaml training.epoch=1
                """, in: folder)
            #expect(outcome.status == 64 && outcome.output.isEmpty)
            let lines = outcome.errors.split(separator: "\n")
            #expect(lines.allSatisfy { $0.hasPrefix("error: ") })
            #expect(lines.contains("error: bad.yaml:4: optimizr: unknown key; did you mean optimizer?"))
            #expect(lines.contains("error: command line: training.epoch: unknown key; did you mean epochs?"))
        }
    }

    @Test(arguments: ["train", "evolve run", "recipes check", "data cache fill"])
    func aFolderIsNoConfig(_ verb: String) throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                """
                mkdir run family mine empty; echo 'recipe: sft' | tee run/config.yaml > mine/config.yaml
                echo 'recipe: evolve' > family/config.yaml; echo '{}' | tee run/run.json > family/run.json
                for folder in run run/ family ./mine empty; do needletail \(verb) $folder; echo $?; done
                """, in: folder)
            #expect(outcome.output == String(repeating: "64\n", count: 5))
            #expect(
                outcome.errors == """
                    error: run: a run folder; its config is run/config.yaml (`needletail train run/config.yaml output=run` goes on with the run)
                    error: run/: a run folder; its config is run/config.yaml (`needletail train run/config.yaml output=run` goes on with the run)
                    error: family: a run folder; its config is family/config.yaml (`needletail evolve family/config.yaml output=family` goes on with the run)
                    error: ./mine: a folder; name the config in it, ./mine/config.yaml
                    error: empty: a folder, not a config; `needletail recipes cp` writes one to start from

                    """)
        }
    }

    @Test func anExistingFileStaysAsItIs() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                "echo mine > a.yaml; needletail recipes cp sft-lora a.yaml; echo $?; cat a.yaml", in: folder)
            #expect(outcome.output == "73\nmine\n")
            #expect(outcome.errors == "error: a.yaml exists; remove it or choose another name\n")
        }
    }

    @Test func finetuneTakesASettingOnce() throws {
        try withTemporaryFolder { folder in
            for twice in [
                "--output a output=b", "--method lora adapter.method=dora", "--limit 3 data.limit=4",
                "--threads 1 threads=2",
            ] {
                let outcome = try shell("needletail finetune nowhere x \(twice) --dry-run", in: folder)
                #expect(
                    outcome.status == 64 && outcome.errors.hasSuffix(": given more than once\n"), "\(outcome.errors)")
            }
        }
    }

    @Test(arguments: [
        ("recipes cat sft-lara", 64, "no file and no recipe is named sft-lara; did you mean sft-lora?"),
        (
            "train sft-lora model=m", 64,
            #"command line: model: expected a section of keys, found "m"; did you mean model.path?"#
        ),
        ("recipes check nowhere.yaml", 65, missingConfig), ("train nowhere.yaml", 65, missingConfig),
        ("evolve nowhere.yaml", 65, missingConfig), ("finetune nowhere x", 65, missingModel),
        ("finetune nowhere x --dry-run", 65, missingModel),
        ("train sft-lora model.path=nowhere --dry-run", 65, missingModel),
    ])
    func whatIsMissingIsTheOnlyLine(_ arguments: String, _ status: Int32, _ message: String) throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("needletail \(arguments)", in: folder)
            #expect(outcome.status == status && outcome.output.isEmpty)
            #expect(outcome.errors == "error: \(message)\n")
            #expect(try shell("ls -A | grep -v stderr", in: folder).output.isEmpty, "something was written")
        }
    }
}

private let missingConfig =
    "nowhere.yaml: cannot be read: No such file or directory; `needletail recipes cp` writes a config to start from"
private let missingModel =
    "nowhere: no such file or folder; a model is a Hugging Face folder, an adapter folder, a run folder or a .gguf file"
