// needletail completion
public import ArgumentParser

/// Prints the completion script of a shell.
public struct CompletionCommand: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "completion",
        abstract: "Print the completion script of a shell.",
        discussion: """
            Example:
              needletail completion bash >> ~/.bash_completion
            """
    )

    @Argument(help: "The shell.")
    public var shell: Shell

    public enum Shell: String, CaseIterable, ExpressibleByArgument, Sendable { case bash, zsh, fish }

    public init() {}

    public func run() throws {
        let completion: CompletionShell =
            switch shell {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        try StandardOutput.write(Needletail.completionScript(for: completion) + "\n")
    }
}
