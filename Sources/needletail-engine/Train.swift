// train and finetune.
import CommandLineInterface
import Diagnostics
import Glibc
import Recipes
import RunConfig
import RunLog
import Tensors

func train(_ command: TrainCommand) throws {
    var config = try loadConfig(command.config, overrides: command.overrides)
    if let limit = command.limit { config.data.limit = limit }
    try run(config.resolved(), isDryRun: command.dryRun)
}

func finetune(_ command: FinetuneCommand) throws {
    let given = [
        "model.path=\(quoted(command.model))", "data.train=[\(quoted(command.data))]",
        "adapter.method=\(command.method.rawValue)", "output=\(quoted(command.output))",
    ]
    var config = try ConfigLoader.load(SFTConfig.self, file: nil, overrides: given + command.overrides)
    if let limit = command.limit { config.data.limit = limit }
    let resolved = config.resolved()
    if command.dryRun {
        try StandardOutput.write(resolved.yaml)
    } else {
        resolved.yaml.split(separator: "\n").forEach { ProgressLine.print(String($0)) }
    }
    try run(resolved, isDryRun: command.dryRun)
}

private func run(_ config: SFTConfig, isDryRun: Bool) throws {
    if let threads = config.threads { Engine.threads = threads }
    let status = try SFT.run(config, commandLine: CommandLine.arguments, isDryRun: isDryRun)
    if status != .success { exit(status.rawValue) }
}

/// A text as a YAML double-quoted scalar.
private func quoted(_ text: String) -> String {
    "\"" + text.unicodeScalars.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "\""
}
