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

    @Test func anExistingFileStaysAsItIs() throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                "echo mine > a.yaml; needletail recipes cp sft-lora a.yaml; echo $?; cat a.yaml", in: folder)
            #expect(outcome.output == "73\nmine\n")
            #expect(outcome.errors == "error: a.yaml exists; remove it or choose another name\n")
        }
    }

    /// The config is printed before the model, which is missing, is looked for.
    @Test func finetuneTakesAnySettingAsKeyAndValue() throws {
        try withTemporaryFolder { folder in
            let shown = try shell(
                "needletail finetune nowhere 'a,b [c].jsonl' 'output=o \"1\"' adapter.method=dora --limit 3", in: folder
            )
            #expect(shown.status == 65, "\(shown.errors)")
            for line in ["  method: dora", #"output: "o \"1\"""#, #"  train: ["a,b [c].jsonl"]"#, "  limit: 3"] {
                #expect(shown.errors.contains(line + "\n"), "\(line) in \(shown.errors)")
            }
            let plain = try shell("needletail finetune nowhere x", in: folder).errors
            #expect(plain.contains("output: runs/finetune\n") && plain.contains("  method: lora\n"))
            for twice in ["--output a output=b", "--method lora adapter.method=dora", "--limit 3 data.limit=4"] {
                let outcome = try shell("needletail finetune nowhere x \(twice) --dry-run", in: folder)
                #expect(
                    outcome.status == 64 && outcome.errors.hasSuffix(": given more than once\n"), "\(outcome.errors)")
            }
        }
    }

    @Test(arguments: [
        ("recipes cat sft-lara", "error: no file and no recipe is named sft-lara; did you mean sft-lora?\n"),
        ("recipes check nowhere.yaml", "error: nowhere.yaml: cannot be read: No such file or directory\n"),
    ])
    func whatIsMissingIsNamed(_ arguments: String, _ message: String) throws {
        try withTemporaryFolder { folder in
            let outcome = try shell("needletail \(arguments)", in: folder)
            #expect(outcome.status == 64 && outcome.errors == message)
        }
    }
}
