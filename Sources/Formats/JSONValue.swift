// JSON that keeps what it read: the order of keys and the spelling of numbers.

/// One JSON value. Objects keep the order of their keys, numbers their literal, so that a file read and written back
/// differs in white space at most.
public enum JSONValue: Sendable, Equatable {
    case null
    case bool(Bool)
    case number(JSONNumber)
    case string(String)
    case array([JSONValue])
    case object(JSONObject)
}

/// A number as it was spelled; `int` and `double` read it.
public struct JSONNumber: Sendable, Hashable {
    public let literal: String

    init(validatedLiteral: String) { literal = validatedLiteral }
    public init(_ value: Int) { literal = String(value) }
    /// - Precondition: `value` is finite; JSON has no spelling for the others.
    public init(_ value: Double) {
        precondition(value.isFinite, "JSON has no number \(value)")
        literal = "\(value)"
    }

    /// The value when the literal is a whole number without fraction or exponent that fits.
    public var int: Int? {
        var literal = literal
        return literal.withUTF8 { digits in
            // Up to 18 digits cannot overflow.
            guard (1...18).contains(digits.count) else { return Int(String(decoding: digits, as: UTF8.self)) }
            let isNegative = digits[0] == UInt8(ascii: "-")
            var value = 0
            for digit in digits.dropFirst(isNegative ? 1 : 0) {
                guard digit &- 0x30 < 10 else { return nil }
                value = value * 10 + Int(digit &- 0x30)
            }
            return isNegative ? -value : value
        }
    }
    public var double: Double { Double(literal)! }
    /// True for a literal without fraction and exponent, which Python reads as `int`.
    public var isInteger: Bool { !literal.utf8.contains { $0 == 0x2E || $0 == 0x65 || $0 == 0x45 } }
}

/// An object: keys in the order of the file, each at most once.
public struct JSONObject: Sendable, Equatable {
    public private(set) var keys: [String] = []
    public private(set) var values: [JSONValue] = []
    /// Built once an object is large enough that a linear search would hurt.
    private var index: KeyIndex?
    private static let indexedFrom = 12

    public init() {}
    public init(_ pairs: some Sequence<(String, JSONValue)>) { for (key, value) in pairs { self[key] = value } }

    public var count: Int { keys.count }
    public var isEmpty: Bool { keys.isEmpty }

    public func position(of key: String) -> Int? {
        if let index { return index.position(of: key, in: keys) }
        return keys.firstIndex { sameBytes($0, key) }
    }

    /// Reads, replaces in place, appends, or removes (by assigning nil).
    public subscript(key: String) -> JSONValue? {
        get { position(of: key).map { values[$0] } }
        set {
            switch (position(of: key), newValue) {
            case (let found?, let value?): values[found] = value
            case (nil, let value?): append(key, value)
            case (let found?, nil):
                keys.remove(at: found)
                values.remove(at: found)
                if index != nil { reindex() }
            case (nil, nil): break
            }
        }
    }

    /// Appends a key known to be new.
    mutating func append(_ key: String, _ value: JSONValue) {
        keys.append(key)
        values.append(value)
        if index != nil {
            index!.insert(keys.count - 1, in: keys)
        } else if keys.count > Self.indexedFrom {
            reindex()
        }
    }

    private mutating func reindex() { index = KeyIndex(keys) }

    /// Equal keys in equal order (by code point) and equal values.
    public static func == (a: JSONObject, b: JSONObject) -> Bool {
        a.keys.elementsEqual(b.keys, by: sameBytes) && a.values == b.values
    }
}

extension JSONObject: Sequence {
    public func makeIterator() -> Zip2Sequence<[String], [JSONValue]>.Iterator { zip(keys, values).makeIterator() }
}

extension JSONValue {
    /// Equal kind, spelling of numbers, code points of strings, and order of keys.
    public static func == (a: JSONValue, b: JSONValue) -> Bool {
        switch (a, b) {
        case (.null, .null): true
        case (.bool(let x), .bool(let y)): x == y
        case (.number(let x), .number(let y)): x == y
        case (.string(let x), .string(let y)): sameBytes(x, y)
        case (.array(let x), .array(let y)): x == y
        case (.object(let x), .object(let y)): x == y
        default: false
        }
    }

    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var array: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
    public var object: JSONObject? { if case .object(let value) = self { value } else { nil } }
    public var number: JSONNumber? { if case .number(let value) = self { value } else { nil } }
    public var int: Int? { number?.int }
    public var double: Double? { number?.double }
    public var isNull: Bool { self == .null }

    /// Member of an object; nil for a missing key and for other kinds.
    public subscript(key: String) -> JSONValue? { object?[key] }

    /// The kind in words, for messages: "an object", "a string".
    public var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a boolean"
        case .number: "a number"
        case .string: "a string"
        case .array: "a list"
        case .object: "an object"
        }
    }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByFloatLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral, ExpressibleByNilLiteral
{
    public init(nilLiteral: ()) { self = .null }
    public init(stringLiteral value: String) { self = .string(value) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(integerLiteral value: Int) { self = .number(JSONNumber(value)) }
    public init(floatLiteral value: Double) { self = .number(JSONNumber(value)) }
    public init(arrayLiteral elements: JSONValue...) { self = .array(elements) }
    public init(dictionaryLiteral elements: (String, JSONValue)...) { self = .object(JSONObject(elements)) }
    public init(_ value: Int) { self = .number(JSONNumber(value)) }
    /// A finite number, else null: what Python's strict writers and browsers accept.
    public init(_ value: Double) { self = value.isFinite ? .number(JSONNumber(value)) : .null }
    public init(_ value: String) { self = .string(value) }
    public init(_ value: Bool) { self = .bool(value) }
}
