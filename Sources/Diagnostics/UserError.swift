// What a person is told when something they gave cannot be used: one line and an exit code.

/// How the program ends; the numbers are part of the command-line contract (`sysexits.h` where it has one).
public enum ExitStatus: Int32, Sendable {
    case success = 0
    /// A flag, a verb or a configuration that cannot be meant.
    case usage = 64
    /// A file, a row, a checkpoint or a model that cannot be read or does not fit.
    case badData = 65
    /// A mistake of the program itself.
    case `internal` = 70
    /// The disk is full or a folder cannot be written.
    case cannotWrite = 73
    /// Stopped on request after saving; run the same command again to go on.
    case tryAgain = 75
    case interrupted = 130
    case terminated = 143
}

/// A mistake of the person or a fault of their machine: shown as one line that says what, where and what to do.
///
/// Targets throw this type directly, or an error enum of their own that conforms to `UserFacing`.
public struct UserError: UserFacing, Equatable {
    public let message: String
    public let exitStatus: ExitStatus

    /// - Parameter message: one line, no trailing full stop needed; names the file, line and field where there is one.
    public init(_ message: String, _ exitStatus: ExitStatus = .badData) {
        self.message = message
        self.exitStatus = exitStatus
    }
}

/// An error that the command line prints as `error: <message>` and ends with `exitStatus`.
public protocol UserFacing: Error, Sendable, CustomStringConvertible {
    var message: String { get }
    var exitStatus: ExitStatus { get }
}

extension UserFacing {
    public var description: String { message }
}
