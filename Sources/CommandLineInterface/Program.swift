// From arguments to an exit status: parse, run the verb, print one line for whatever went wrong.
public import ArgumentParser
internal import Diagnostics
internal import Glibc

/// A verb that needs tensors. The front program executes `needletail-engine` for it; the engine hands it to its own code.
///
/// Parsing is the same in both programs, so a mistake in a flag is reported before LibTorch is loaded.
public protocol EngineCommand: ParsableCommand {
    /// Checks that have to wait until every option is known: in `validate` they would hide an unknown one's message.
    func check() throws

    /// What the front program does before the engine takes its place; nothing for most verbs.
    func prepareInFront() throws
}

/// A verb of the engine whose threads are set before it begins; those with a config have a setting for it.
public protocol ThreadedCommand: EngineCommand {
    var workers: ThreadOptions { get }
}

extension EngineCommand {
    public func check() throws {}
    public func prepareInFront() throws {}

    public mutating func run() throws {
        try prepareInFront()
        try executeEngine()
    }
}

/// The two programs of Needletail: `needletail` (no LibTorch) and `needletail-engine`.
public enum Program {
    /// Runs the verb that the arguments name, and ends the process with its exit status.
    ///
    /// - Parameters:
    ///   - arguments: without the program's own name.
    ///   - engine: carries out a verb that needs tensors; nil in the front program, which executes the engine instead.
    public static func main(
        _ arguments: [String] = Array(CommandLine.arguments.dropFirst()),
        engine: ((any EngineCommand) throws -> Void)? = nil
    ) -> Never {
        do {
            try checkVerbs(arguments)
            var command = try Needletail.parseAsRoot(arguments)
            let engineCommand = command as? any EngineCommand
            try engineCommand?.check()
            if let engine, let engineCommand {
                try engine(engineCommand)
            } else {
                try command.run()
            }
            try StandardOutput.flush()
            exit(ExitStatus.success.rawValue)
        } catch {
            end(with: error, arguments)
        }
    }

    /// Prints what `error` means to a person and ends the process.
    private static func end(with error: any Error, _ arguments: [String]) -> Never {
        switch error {
        case let error as any UserFacing:
            // One line for each thing that is wrong; a config may have several.
            error.message.split(separator: "\n").forEach { complain(String($0)) }
            exit(error.exitStatus.rawValue)
        case is BrokenPipe:
            // The reader is gone, so no message; the status is what a shell reports for a program that SIGPIPE ended.
            exit(128 + SIGPIPE)
        default:
            break
        }
        let code = Needletail.exitCode(for: error)
        if code == .success {  // --help, --version and their like arrive as errors
            finish(printing: Needletail.fullMessage(for: error))
        }
        if let status = error as? ExitCode { exit(status.rawValue) }
        if code == .validationFailure {
            complain("\(usageMessage(for: error)) (see '\(verbPath(arguments)) --help')")
            exit(ExitStatus.usage.rawValue)
        }
        complain("internal: \(oneLine(String(describing: error))); please report this with the command that shows it")
        exit(ExitStatus.internal.rawValue)
    }

    private static func finish(printing text: String) -> Never {
        do {
            try StandardOutput.write(text + "\n")
            try StandardOutput.flush()
            exit(ExitStatus.success.rawValue)
        } catch {
            end(with: error, [])
        }
    }

    private static func usageMessage(for error: any Error) -> String {
        var message = oneLine(Needletail.message(for: error))
        while message.hasSuffix(".") { message.removeLast() }
        return message
    }
}

/// Writes `error: <message>` to standard error, on one line whatever the message holds.
func complain(_ message: String) { note("error: \(message)") }

/// Writes one line for people to standard error. Nothing is done when that fails: there is nowhere left to say so.
func note(_ message: String) {
    var line = escapedForDisplay(oneLine(message)) + "\n"
    line.withUTF8 { _ = Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

/// The text with every run of line breaks, tabs and blanks made one blank.
func oneLine(_ text: String) -> String {
    text.split(whereSeparator: { $0.isWhitespace }).joined(separator: " ")
}
