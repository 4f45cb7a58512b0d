// train and finetune.
import CommandLineInterface
import Diagnostics
import Glibc
import Recipes
import RunConfig
import RunLog
import Tensors

func train(_ command: TrainCommand) throws {
    try run(loadConfig(command.config, overrides: command.settings).resolved(), isDryRun: command.dryRun)
}

func finetune(_ command: FinetuneCommand) throws {
    let resolved = try ConfigLoader.load(SFTConfig.self, file: nil, overrides: command.settings).resolved()
    if command.dryRun {
        try StandardOutput.write(resolved.yaml)
    } else {
        resolved.yaml.split(separator: "\n").forEach { ProgressLine.print(String($0)) }
    }
    try run(resolved, isDryRun: command.dryRun)
}

private func run(_ config: SFTConfig, isDryRun: Bool) throws {
    if let threads = config.threads { Engine.threads = threads }
    let status = try SFT.run(config, commandLine: typedCommand, isDryRun: isDryRun)
    if status != .success { exit(status.rawValue) }
}
