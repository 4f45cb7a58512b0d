// The key-value part of a GGUF file.

/// A value of GGUF metadata. The width of numbers is not kept: integers of every width are `Int`.
public enum GGUFValue: Sendable, Equatable {
    case integer(Int)
    /// Only for 64-bit values beyond `Int.max`.
    case unsigned(UInt64)
    case float(Double)
    case bool(Bool)
    case string(String)
    case integers([Int])
    case floats([Float])
    case doubles([Double])
    case bools([Bool])
    case stringArray([String])

    public var string: String? { if case .string(let value) = self { value } else { nil } }
    public var int: Int? { if case .integer(let value) = self { value } else { nil } }
    public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
    /// A float, or an integer as one.
    public var double: Double? {
        switch self {
        case .float(let value): value
        case .integer(let value): Double(value)
        case .unsigned(let value): Double(value)
        default: nil
        }
    }
    public var strings: [String]? { if case .stringArray(let value) = self { value } else { nil } }
    public var ints: [Int]? { if case .integers(let value) = self { value } else { nil } }
    /// An array of 32-bit or 64-bit floats, at 32 bits.
    public var floats: [Float]? {
        switch self {
        case .floats(let value): value
        case .doubles(let value): value.map { Float($0) }
        default: nil
        }
    }
    public var bools: [Bool]? { if case .bools(let value) = self { value } else { nil } }

    /// The kind in words, for messages.
    public var kind: String {
        switch self {
        case .integer, .unsigned: "an integer"
        case .float: "a float"
        case .bool: "a boolean"
        case .string: "a string"
        case .integers: "a list of integers"
        case .floats, .doubles: "a list of floats"
        case .bools: "a list of booleans"
        case .stringArray: "a list of strings"
        }
    }
}

/// Metadata of a GGUF file, in its order.
public struct GGUFMetadata: Sendable {
    /// The file it came from, for messages.
    public let path: String
    public private(set) var keys: [String] = []
    public private(set) var values: [GGUFValue] = []
    private var index: [ExactString: Int] = [:]

    public init(path: String, _ pairs: some Sequence<(String, GGUFValue)> = []) {
        self.path = path
        for (key, value) in pairs {
            let isNew = append(key, value)
            precondition(isNew, "metadata key \(key) given twice")
        }
    }

    public var count: Int { keys.count }

    public subscript(key: String) -> GGUFValue? { index[ExactString(key)].map { values[$0] } }

    /// False, and nothing changed, for a key that is already there.
    mutating func append(_ key: String, _ value: GGUFValue) -> Bool {
        guard index.updateValue(keys.count, forKey: ExactString(key)) == nil else { return false }
        keys.append(key)
        values.append(value)
        return true
    }
}
