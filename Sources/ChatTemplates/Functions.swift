// Functions of templates: arguments, macros, and what the language defines (`range`, `namespace`, ...).

import Formats

/// Arguments of a call, evaluated.
struct Arguments {
    var positional: [Value] = []
    var keywords: [(name: String, value: Value)] = []

    init(_ positional: [Value] = []) { self.positional = positional }

    mutating func add(keywordsFrom value: Value) throws {
        guard case .dict(let dict) = value else {
            throw TemplateFailure("argument after ** must be a mapping, not \(value.typeName)")
        }
        var names = Set(keywords.map { ExactString($0.name) })
        for (key, value) in try dict.pairs() {
            guard let name = key.text else { throw TemplateFailure("keywords must be strings") }
            guard names.insert(ExactString(name)).inserted else {
                throw TemplateFailure("got multiple values for keyword argument '\(name)'")
            }
            keywords.append((name, value))
        }
    }

    /// The values of the named parameters, nil where none was given.
    ///
    /// - Throws: for too many arguments, an unknown name, or a parameter given twice.
    func bound(to names: [String], required: Int = 0, of function: String) throws -> [Value?] {
        guard positional.count <= names.count else {
            throw TemplateFailure("\(function) takes at most \(names.count) arguments, \(positional.count) given")
        }
        var result: [Value?] = positional + Array(repeating: nil, count: names.count - positional.count)
        for (name, value) in keywords {
            guard let i = names.firstIndex(of: name) else {
                throw TemplateFailure("\(function) got an unexpected keyword argument '\(name)'")
            }
            guard result[i] == nil else { throw TemplateFailure("\(function) got multiple values for '\(name)'") }
            result[i] = value
        }
        for i in 0..<required where result[i] == nil {
            throw TemplateFailure("\(function) is missing the argument '\(names[i])'")
        }
        return result
    }

    /// The only argument.
    func one(of function: String) throws -> Value { try bound(to: [""], required: 1, of: function)[0]! }

    func none(of function: String) throws { _ = try bound(to: [], of: function) }
}

func call(_ function: Value, _ arguments: Arguments, _ run: Run) throws -> Value {
    if case .object(let object) = function { return try object.call(arguments, run) }
    try function.checkDefined()
    throw TemplateFailure("'\(function.typeName)' object is not callable")
}

/// A function of the language or a method bound to its value.
final class Function: Object, @unchecked Sendable {
    private let name: String
    private let body: (Arguments, Run) throws -> Value

    init(_ name: String, _ body: @escaping (Arguments, Run) throws -> Value) {
        (self.name, self.body) = (name, body)
    }

    override var typeName: String { "function" }
    override var isCallable: Bool { true }
    override func call(_ arguments: Arguments, _ run: Run) throws -> Value { try body(arguments, run) }
    override func text(_ run: Run) throws -> String { "<function \(name)>" }
}

// MARK: Macros

/// What the compiler knows of a macro.
struct MacroShape {
    let name: String?
    let parameters: [String]
    /// The body uses `caller`.
    let takesCaller: Bool
    let callerSlot: Int?, kwargsSlot: Int?, varargsSlot: Int?
    let slots: [Int]
    let defaults: [Evaluate]
    private(set) var enter: (Frame) -> Void
    let body: Execute
    let unit: CodeUnit

    func entering(_ enter: @escaping (Frame) -> Void) -> MacroShape {
        var copy = self
        copy.enter = enter
        return copy
    }
}

final class Macro: Object, @unchecked Sendable {
    private let shape: MacroShape
    private let frame: Frame

    init(_ shape: MacroShape, _ frame: Frame) { (self.shape, self.frame) = (shape, frame) }

    override var typeName: String { "Macro" }
    override var isCallable: Bool { true }
    override func text(_ run: Run) throws -> String {
        shape.name.map { "<Macro \(quoted($0))>" } ?? "<Macro anonymous>"
    }

    override func attribute(_ name: String) throws -> Value? {
        switch name {
        case "name": shape.name.map { .string($0) } ?? .null
        case "arguments": .tuple(List(shallow: shape.parameters.map { .string($0) }))
        case "catch_kwargs": .bool(shape.kwargsSlot != nil)
        case "catch_varargs": .bool(shape.varargsSlot != nil)
        case "caller": .bool(shape.takesCaller)
        default: nil
        }
    }

    override func call(_ arguments: Arguments, _ run: Run) throws -> Value {
        try run.nested {
            let inner = Frame(count: shape.unit.slotCount, parent: frame, run: run)
            let given = try bind(arguments, inner, run)
            shape.enter(inner)
            try fillDefaults(given, inner)
            return .string(try run.captured { try shape.body(inner) }.1)
        }
    }

    /// Puts the arguments into the frame; returns which parameters were given.
    private func bind(_ arguments: Arguments, _ inner: Frame, _ run: Run) throws -> [Bool] {
        try run.work(shape.parameters.count * (arguments.keywords.count + 1))
        var keywords = arguments.keywords
        func take(_ name: String) -> Value? {
            keywords.firstIndex { sameText($0.name, name) }.map { keywords.remove(at: $0).value }
        }
        var given: [Bool] = []
        for (i, name) in shape.parameters.enumerated() {
            let value = i < arguments.positional.count ? arguments.positional[i] : take(name)
            inner.slots[shape.slots[i]] = value ?? .undefined(Undefined(name: name))
            given.append(value != nil)
        }
        if let slot = shape.callerSlot {
            let caller = take("caller")
            inner.slots[slot] = caller.flatMap { $0.isNone ? nil : $0 } ?? .undefined(Undefined("no caller defined"))
        }
        let title = "macro '\(shape.name ?? "caller")'"
        if let slot = shape.kwargsSlot {
            inner.slots[slot] = .dict(try Dict(keywords.map { (.string($0.name), $0.value) }))
        } else if let first = keywords.first {
            throw TemplateFailure("\(title) takes no keyword argument '\(first.name)'")
        }
        let extra = arguments.positional.dropFirst(shape.parameters.count)
        if let slot = shape.varargsSlot {
            inner.slots[slot] = .tuple(try List(Array(extra)))
        } else if !extra.isEmpty {
            throw TemplateFailure("\(title) takes not more than \(shape.parameters.count) arguments")
        }
        return given
    }

    private func fillDefaults(_ given: [Bool], _ inner: Frame) throws {
        let firstDefault = shape.parameters.count - shape.defaults.count
        for i in shape.parameters.indices where !given[i] {
            inner.slots[shape.slots[i]] =
                i >= firstDefault
                ? try shape.defaults[i - firstDefault](inner)
                : .undefined(Undefined("parameter '\(shape.parameters[i])' was not provided"))
        }
    }
}

// MARK: What the language defines

/// Attributes a template may change: how values leave a loop.
final class Namespace: Object, @unchecked Sendable {
    private var names: [String] = []
    private var values: [ExactString: Value] = [:]

    init(_ arguments: Arguments, _ run: Run) throws {
        super.init()
        guard case .dict(let dict) = try makeDict(arguments, run) else { return }
        for (key, value) in try dict.pairs() {
            guard let name = key.text else { throw TemplateFailure("names in a namespace must be text") }
            try set(name, value)
        }
        run.atEnd { self.values = [:] }
    }

    override var typeName: String { "Namespace" }
    override func attribute(_ name: String) throws -> Value? { values[ExactString(name)] }
    override func item(_ key: Value, _ run: Run) throws -> Value? { nil }

    func set(_ name: String, _ value: Value) throws {
        guard name.utf8.first != 0x5F else {
            throw TemplateFailure("a namespace cannot store the name '\(name)': it begins with _")
        }
        if values.updateValue(value, forKey: ExactString(name)) == nil { names.append(name) }
    }

    override func text(_ run: Run) throws -> String {
        let dict = try Dict(names.map { (.string($0), values[ExactString($0)]!) })
        return "<Namespace \(try Value.dict(dict).representation(run))>"
    }
}

/// `dict(pairs, name=value)`.
func makeDict(_ arguments: Arguments, _ run: Run) throws -> Value {
    guard arguments.positional.count <= 1 else { throw TemplateFailure("dict expected at most 1 argument") }
    var pairs: [(Value, Value)] = []
    switch arguments.positional.first {
    case nil: break
    case .dict(let dict)?: pairs = Array(try dict.pairs())
    case let value?:
        for item in try value.items(run) {
            let pair = try item.items(run)
            guard pair.count == 2 else { throw TemplateFailure("a dict is made of pairs") }
            pairs.append((pair[0], pair[1]))
        }
    }
    pairs += arguments.keywords.map { (.string($0.name), $0.value) }
    try run.charge(bytes: pairs.count * 64)
    return .dict(try Dict(pairs))
}

/// A name of Jinja's that chat templates cannot have: it is there, and any use is refused.
private final class Refused: Object, @unchecked Sendable {
    private let reason: TemplateFailure

    init(_ reason: String) { self.reason = TemplateFailure(reason) }

    override func attribute(_ name: String) throws -> Value? { throw reason }
    override func item(_ key: Value, _ run: Run) throws -> Value? { throw reason }
    override func call(_ arguments: Arguments, _ run: Run) throws -> Value { throw reason }
    override func text(_ run: Run) throws -> String { throw reason }
}

/// What a name means that neither the template nor its caller defines.
let globals: [String: Value] = [
    "lipsum": .object(Refused("lipsum is not available: its text is random")),
    "self": .object(Refused("self is not available: a chat template has no blocks to call")),
    "range": .object(Function("range") { arguments, run in .object(try PyRange(arguments, run)) }),
    "dict": .object(DictFunction()),
    "namespace": .object(Function("namespace") { .object(try Namespace($0, $1)) }),
    "cycler": .object(Function("cycler") { arguments, _ in .object(try Cycler(arguments)) }),
    "joiner": .object(
        Function("joiner") { arguments, _ in
            .object(Joiner(try arguments.bound(to: ["sep"], of: "joiner")[0] ?? .string(", ")))
        }),
    "raise_exception": .object(
        Function("raise_exception") { arguments, run in
            throw TemplateFailure(
                try arguments.bound(to: ["message"], required: 1, of: "raise_exception")[0]!.string(run))
        }),
    "strftime_now": .object(
        Function("strftime_now") { arguments, run in
            let format = try arguments.bound(to: ["format"], required: 1, of: "strftime_now")[0]!
            guard let text = format.text, text.utf8.count <= 1000 else {
                throw TemplateFailure("strftime_now needs a format of at most 1000 bytes")
            }
            return .string(run.now(text).formatted(text))
        }),
]

private final class DictFunction: Object, @unchecked Sendable {
    override var typeName: String { "TemplateDict" }
    override var isCallable: Bool { true }
    override func call(_ arguments: Arguments, _ run: Run) throws -> Value { try makeDict(arguments, run) }

    override func attribute(_ name: String) throws -> Value? {
        guard name == "fromkeys" else { return nil }
        return .object(
            Function("fromkeys") { arguments, run in
                let bound = try arguments.bound(to: ["iterable", "value"], required: 1, of: "fromkeys")
                return .dict(try Dict(try bound[0]!.items(run).map { ($0, bound[1] ?? .null) }))
            })
    }
}

private final class Cycler: Object, @unchecked Sendable {
    private let items: [Value]
    private var at = 0

    init(_ arguments: Arguments) throws {
        guard !arguments.positional.isEmpty else { throw TemplateFailure("cycler needs at least one item") }
        guard arguments.keywords.isEmpty else { throw TemplateFailure("cycler takes no keyword arguments") }
        items = arguments.positional
    }

    override var typeName: String { "Cycler" }

    override func attribute(_ name: String) throws -> Value? {
        switch name {
        case "current": items[at]
        case "items": .tuple(try List(items))
        case "pos": .int(at)
        case "next":
            .object(
                Function("next") { [self] arguments, _ in
                    try arguments.none(of: "next")
                    defer { at = (at + 1) % items.count }
                    return items[at]
                })
        case "reset":
            .object(
                Function("reset") { [self] arguments, _ in
                    try arguments.none(of: "reset")
                    at = 0
                    return .null
                })
        default: nil
        }
    }
}

/// Nothing at its first call, then the separator.
private final class Joiner: Object, @unchecked Sendable {
    private let separator: Value
    private var isUsed = false

    init(_ separator: Value) { self.separator = separator }

    override var typeName: String { "Joiner" }
    override var isCallable: Bool { true }

    override func attribute(_ name: String) throws -> Value? {
        switch name {
        case "sep": separator
        case "used": .bool(isUsed)
        default: nil
        }
    }

    override func call(_ arguments: Arguments, _ run: Run) throws -> Value {
        try arguments.none(of: "joiner")
        defer { isUsed = true }
        return isUsed ? separator : .emptyString
    }
}
