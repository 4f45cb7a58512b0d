// What can be wrong with a configuration, and how all of it is said at once.

public import Diagnostics

/// One thing that is wrong with one key.
public struct ConfigProblem: Sendable, Equatable {
    /// Dotted path of the key, as in `optimizer.learning_rate`; empty for the whole file.
    public let key: String
    /// What is wrong and what to do, without place and key.
    public let message: String

    public init(_ key: String, _ message: String) {
        self.key = key
        self.message = message
    }
}

extension [ConfigProblem] {
    /// The problems of a section, seen from the struct that holds it as `section`.
    public func inSection(_ section: String) -> [ConfigProblem] {
        map { ConfigProblem($0.key.isEmpty ? section : "\(section).\($0.key)", $0.message) }
    }
}

/// Everything wrong with a configuration: one line each, in the order of the files.
public struct ConfigError: UserFacing, Equatable {
    /// "sft.yaml:12: optimizer.lerning_rate: unknown key; did you mean learning_rate?"
    public let lines: [String]
    public var message: String { lines.joined(separator: "\n") }
    public var exitStatus: ExitStatus { .usage }
}

/// A configuration of one recipe: the default beside each field, ranges in `validate`.
///
/// Field names are camel case in Swift and snake case in files. A section is a nested struct.
public protocol RecipeConfig: Codable, Sendable, Equatable {
    init()
    /// The value of the key `recipe` that names this configuration.
    static var recipeName: String { get }
    /// What is out of range, missing or without effect; keys as in files.
    func validate() -> [ConfigProblem]
    /// Itself with every value that depends on others written out; `resolved` of the result is the result.
    func resolved() -> Self
}

/// A closed list of names: what a configuration offers as choices.
public protocol ConfigChoice: RawRepresentable<String>, CaseIterable, Codable, Sendable {}
