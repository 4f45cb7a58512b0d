// The values a template works on: Python's plain data, immutable but for namespaces and iterators.

import Formats

enum Value: Sendable {
    case undefined(Undefined)
    case null
    case bool(Bool)
    case int(Int)
    case float(Double)
    case string(String)
    /// Text that `escape` or `safe` marked; adding to it escapes the other side.
    case markup(String)
    case list(List)
    case tuple(List)
    case dict(Dict)
    case object(Object)
}

/// What stands for a missing name, attribute or item: prints as nothing, and fails when used for more.
final class Undefined: Sendable {
    let message: String
    init(_ message: String) { self.message = message }
    convenience init(name: String) { self.init("'\(name)' is undefined") }
}

/// Items of a list or tuple.
final class List: Sendable {
    let items: [Value]
    /// Levels of containers built by the template inside this one; bounded, so that recursion over values is.
    let depth: Int

    static let empty = List(checked: [], depth: 1)

    init(_ items: [Value]) throws {
        self.items = items
        depth = try nesting(of: items)
    }

    private init(checked items: [Value], depth: Int) {
        (self.items, self.depth) = (items, depth)
    }

    /// Plain scalars or data from outside, whose depth is known to be small.
    init(shallow items: [Value]) {
        self.items = items
        depth = 1
    }
}

let maxNesting = 100

private func nesting(of items: [Value]) throws -> Int {
    var deepest = 0
    for item in items { deepest = max(deepest, item.nesting) }
    guard deepest < maxNesting else { throw TemplateFailure("lists or objects are nested deeper than \(maxNesting)") }
    return deepest + 1
}

/// A dictionary in insertion order. Data from outside stays JSON until more than a look-up by name is asked for.
final class Dict: @unchecked Sendable {
    // Written once by one render before anybody else can see the object; never shared between threads.
    private var json: JSONObject?
    private var storedKeys: [Value] = []
    private var storedValues: [Value] = []
    private var index: [Key: Int]?
    let depth: Int
    private static let indexedFrom = 9

    init(_ json: JSONObject) {
        self.json = json
        depth = 1
    }

    /// Later values replace earlier ones of the same key, whose place they keep.
    init(_ pairs: [(Value, Value)]) throws {
        depth = try nesting(of: pairs.map(\.1))
        if pairs.count >= Self.indexedFrom { index = [:] }
        for (key, value) in pairs {
            if let found = try position(of: key) {
                storedValues[found] = value
            } else {
                try key.checkHashable()
                index?[Key(value: key)] = storedKeys.count
                storedKeys.append(key)
                storedValues.append(value)
            }
        }
    }

    var count: Int { json?.count ?? storedKeys.count }

    private func unwrap() throws {
        guard let object = json else { return }
        storedKeys = object.keys.map { .string($0) }
        storedValues = try object.values.map { try Value($0) }
        json = nil
        if storedKeys.count >= Self.indexedFrom {
            index = Dictionary(uniqueKeysWithValues: zip(storedKeys.map { Key(value: $0) }, 0...))
        }
    }

    func keys() throws -> [Value] {
        try unwrap()
        return storedKeys
    }

    func values() throws -> [Value] {
        try unwrap()
        return storedValues
    }

    func pairs() throws -> Zip2Sequence<[Value], [Value]> { zip(try keys(), try values()) }

    private func position(of key: Value) throws -> Int? {
        if let index { return index[Key(value: key)] }
        for i in storedKeys.indices where storedKeys[i].isSameKey(as: key) { return i }
        return nil
    }

    func value(for key: Value) throws -> Value? {
        if case .string(let name) = key { return try value(named: name) }
        try key.checkHashable()
        try unwrap()
        return try position(of: key).map { storedValues[$0] }
    }

    func value(named name: String) throws -> Value? {
        if let json {
            if json.count >= Self.indexedFrom { return try json[name].map { try Value($0) } }
            for i in json.keys.indices where sameText(json.keys[i], name) { return try Value(json.values[i]) }
            return nil
        }
        return try position(of: .string(name)).map { storedValues[$0] }
    }
}

/// Anything that is not plain data: functions, loops, namespaces, iterators.
class Object: @unchecked Sendable {
    // Used by the one render that made it; see `Dict`.
    var typeName: String { "object" }
    func attribute(_ name: String) throws -> Value? { nil }
    /// Subscript; nil when this kind has none or not this one.
    func item(_ key: Value, _ run: Run) throws -> Value? { nil }
    func call(_ arguments: Arguments, _ run: Run) throws -> Value {
        throw TemplateFailure("'\(typeName)' object is not callable")
    }
    var isCallable: Bool { false }
    /// Number of items where Python's `len` has one.
    func count() throws -> Int? { nil }
    /// All remaining items where it can be iterated.
    func items(_ run: Run) throws -> [Value]? { nil }
    var isIterable: Bool { false }
    /// Whether it has numbered items.
    var isSequence: Bool { false }
    var isTrue: Bool { true }
    func contains(_ value: Value, _ run: Run) throws -> Bool {
        guard let items = try items(run) else { throw notIterable(typeName) }
        return try items.contains { try equal($0, value, run) }
    }
    func isEqual(to other: Object, _ run: Run) throws -> Bool { self === other }
    func text(_ run: Run) throws -> String { "<\(typeName) object>" }
}

func notIterable(_ typeName: String) -> TemplateFailure { TemplateFailure("'\(typeName)' object is not iterable") }

/// The bytes of both are equal (Swift's `==` would also merge canonically equivalent texts).
func sameText(_ a: String, _ b: String) -> Bool { ExactString(a) == ExactString(b) }

extension Value {
    /// Data from outside.
    init(_ json: JSONValue) throws {
        switch json {
        case .null: self = .null
        case .bool(let value): self = .bool(value)
        case .string(let value): self = .string(value)
        case .array(let items): self = .list(List(shallow: try items.map { try Value($0) }))
        case .object(let object): self = .dict(Dict(object))
        case .number(let number):
            if let int = number.int {
                self = .int(int)
            } else if number.isInteger {
                throw TemplateFailure("the integer \(number.literal.prefix(40)) is beyond 64 bits")
            } else {
                self = .float(number.double)
            }
        }
    }

    var nesting: Int {
        switch self {
        case .list(let list), .tuple(let list): list.depth
        case .dict(let dict): dict.depth
        default: 0
        }
    }

    /// The characters of a string of either kind.
    var text: String? {
        switch self {
        case .string(let text), .markup(let text): text
        default: nil
        }
    }

    /// About how many bytes a pass over the value looks at.
    var bulk: Int {
        switch self {
        case .string(let text), .markup(let text): text.utf8.count
        case .list(let list), .tuple(let list): list.items.count &* 16
        case .dict(let dict): dict.count &* 32
        default: 0
        }
    }

    var isUndefined: Bool { if case .undefined = self { true } else { false } }
    var isNone: Bool { if case .null = self { true } else { false } }

    static let emptyString = Value.string("")

    /// Python's name of the type.
    var typeName: String {
        switch self {
        case .undefined: "Undefined"
        case .null: "NoneType"
        case .bool: "bool"
        case .int: "int"
        case .float: "float"
        case .string: "str"
        case .markup: "Markup"
        case .list: "list"
        case .tuple: "tuple"
        case .dict: "dict"
        case .object(let object): object.typeName
        }
    }

    /// Python's truth of a value.
    var isTrue: Bool {
        switch self {
        case .undefined, .null: false
        case .bool(let value): value
        case .int(let value): value != 0
        case .float(let value): value != 0
        case .string(let text), .markup(let text): !text.isEmpty
        case .list(let list), .tuple(let list): !list.items.isEmpty
        case .dict(let dict): dict.count > 0
        case .object(let object): object.isTrue
        }
    }

    func checkDefined() throws {
        if case .undefined(let undefined) = self { throw TemplateFailure(undefined.message) }
    }

    func checkHashable() throws {
        switch self {
        case .list, .dict: throw TemplateFailure("unhashable type: '\(typeName)'")
        case .tuple(let list): try list.items.forEach { try $0.checkHashable() }
        default: break
        }
    }

    /// Length where Python's `len` has one.
    func count() throws -> Int? {
        switch self {
        case .undefined: 0
        case .string(let text), .markup(let text): text.scalarCount
        case .list(let list), .tuple(let list): list.items.count
        case .dict(let dict): dict.count
        case .object(let object): try object.count()
        default: nil
        }
    }

    /// The items that a loop over the value sees.
    func items(_ run: Run) throws -> [Value] {
        switch self {
        case .undefined: return []
        case .list(let list), .tuple(let list): return list.items
        case .dict(let dict): return try dict.keys()
        case .string(let text), .markup(let text):
            try run.charge(bytes: text.utf8.count * 24)
            return text.unicodeScalars.map { .string(String($0)) }
        case .object(let object):
            if let items = try object.items(run) { return items }
        default: break
        }
        throw notIterable(typeName)
    }
}

/// A dictionary key with Python's equality: 1, 1.0 and True are one key, text compares by code points.
struct Key: Hashable {
    let value: Value

    static func == (a: Key, b: Key) -> Bool { a.value.isSameKey(as: b.value) }

    func hash(into hasher: inout Hasher) {
        switch value {
        case .bool(let value): hasher.combine(value ? 1 : 0)
        case .int(let value): hasher.combine(value)
        case .float(let value):
            if let int = Int(exactly: value) { hasher.combine(int) } else { hasher.combine(value) }
        case .string(let text), .markup(let text):
            // The beginning is enough to tell keys apart, and a key of megabytes costs no more than a short one.
            hasher.combine(text.utf8.count)
            for byte in text.utf8.prefix(64) { hasher.combine(byte) }
        case .tuple(let list): for item in list.items { Key(value: item).hash(into: &hasher) }
        case .object(let object): hasher.combine(ObjectIdentifier(object))
        default: hasher.combine(0)
        }
    }
}

extension Value {
    /// Equality of hashable values.
    func isSameKey(as other: Value) -> Bool {
        switch (self, other) {
        case (.null, .null), (.undefined, .undefined): return true
        case (.tuple(let a), .tuple(let b)):
            return a.items.count == b.items.count && zip(a.items, b.items).allSatisfy { $0.isSameKey(as: $1) }
        case (.object(let a), .object(let b)): return a === b
        default: break
        }
        if let a = text, let b = other.text { return sameText(a, b) }
        if let a = number, let b = other.number { return a.isEqual(to: b) }
        return false
    }
}
