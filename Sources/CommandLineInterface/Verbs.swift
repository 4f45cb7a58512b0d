// The tree of verbs, and what to say when a word names none of them.
public import ArgumentParser
internal import Diagnostics

/// The root of the command line.
public struct Needletail: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "needletail",
        abstract: "Train language models from one program.",
        discussion: """
            Results go to standard output, messages to standard error. Exit codes: 0 ok, 64 usage, 65 bad data, \
            70 internal, 73 cannot write, 75 stopped after saving (run it again), 130 and 143 interrupted.

            Example:
              needletail finetune ./SmolLM2-135M-Instruct chats.jsonl --method lora
            """,
        version: "needletail \(programVersion)",
        groupedSubcommands: [
            CommandGroup(
                name: "Train",
                subcommands: [TrainCommand.self, FinetuneCommand.self, MergeAdapterCommand.self, DemoCommand.self]),
            CommandGroup(
                name: "Use a model",
                subcommands: [
                    GenerateCommand.self, ChatCommand.self, EvalCommand.self, ScoreCommand.self, EmbedCommand.self,
                    ConvertCommand.self, ExportCommand.self, QuantizeCommand.self,
                ]),
            CommandGroup(
                name: "Combine and inspect",
                subcommands: [
                    MergeCommand.self, ExtractLoRACommand.self, KinshipCommand.self, EvolveCommand.self,
                    AnalyzeCommand.self,
                ]),
            CommandGroup(
                name: "Prepare",
                subcommands: [DownloadCommand.self, DataCommand.self, TokenizerCommand.self, RecipesCommand.self]),
            CommandGroup(
                name: "Machine", subcommands: [DoctorCommand.self, BenchCommand.self, CompletionCommand.self]),
        ]
    )

    public init() {}
}

/// A verb's own name.
private func name(of verb: any ParsableCommand.Type) -> String { verb.configuration.commandName ?? "" }

/// Follows the words of `arguments` down the tree of verbs: the verbs found, and the first word that is none of them.
private func walk(_ arguments: [String]) -> (path: [any ParsableCommand.Type], stray: String?) {
    var path: [any ParsableCommand.Type] = [Needletail.self]
    for word in arguments {
        let children = path[path.count - 1].configuration.subcommands
        if children.isEmpty || word.hasPrefix("-") || word == "help" { break }
        guard let child = children.first(where: { name(of: $0) == word }) else {
            // A verb with a default subcommand takes other words as well: `merge CONFIG OUT`.
            return (path, path[path.count - 1].configuration.defaultSubcommand == nil ? word : nil)
        }
        path.append(child)
    }
    return (path, nil)
}

/// `needletail tokenizer encode` for arguments that start so: what to put before `--help`.
func verbPath(_ arguments: [String]) -> String {
    walk(arguments).path.map { name(of: $0) }.joined(separator: " ")
}

/// Throws a usage error with the nearest verb when a word stands where a verb should and is none.
///
/// ArgumentParser would call it an unexpected argument.
func checkVerbs(_ arguments: [String]) throws {
    let (path, stray) = walk(arguments)
    guard let stray else { return }
    let names = path[path.count - 1].configuration.subcommands.map { name(of: $0) }
    let meant = nearestName(to: stray, among: names) ?? names.first { isShort($0, for: stray) }
    let hint = meant.map { "; did you mean '\($0)'?" } ?? ""
    throw UserError("unknown verb '\(stray)'\(hint) (see '\(verbPath(arguments)) --help')", .usage)
}

/// Whether `name` is `word` with letters after the first left out, as `ls` of `list` and `cp` of `copy`.
private func isShort(_ name: String, for word: String) -> Bool {
    guard name.first == word.first else { return false }
    var rest = word[...]
    return name.allSatisfy { letter in
        guard let place = rest.firstIndex(of: letter) else { return false }
        rest = rest[rest.index(after: place)...]
        return true
    }
}
