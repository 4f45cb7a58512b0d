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
    try run(resolved, isDryRun: command.dryRun) { config in
        if command.dryRun { return try StandardOutput.write(config.yaml) }
        config.yaml.split(separator: "\n").forEach { ProgressLine.print(String($0)) }
    }
}

private func run(_ config: SFTConfig, isDryRun: Bool, show: (SFTConfig) throws -> Void = { _ in }) throws {
    if let threads = config.threads { Engine.threads = threads }
    let status = try SFT.run(config, commandLine: typedCommand, isDryRun: isDryRun, show: show)
    if status != .success { exit(status.rawValue) }
}
