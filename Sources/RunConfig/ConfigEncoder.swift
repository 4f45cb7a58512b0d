// A Codable struct to a configuration tree: fields in the order of the struct, nil written as null.

/// The tree of a value whose fields are numbers, text, choices, lists, text dictionaries and further structs.
func configTree(_ value: some Encodable) -> ConfigTree {
    let encoder = TreeEncoder()
    do {
        try value.encode(to: encoder)
    } catch {
        preconditionFailure("a configuration struct holds a type that configurations have no spelling for: \(error)")
    }
    return encoder.box.tree
}

/// `learningRate` is written `learning_rate`.
func snakeCase(_ name: String) -> String {
    var out = ""
    for character in name {
        if character.isUppercase { out.append("_") }
        out.append(contentsOf: character.lowercased())
    }
    return out
}

/// Holds what is being written, so that containers handed out earlier still reach it.
private final class Box {
    var tree = ConfigTree(.null)

    func append(_ key: String, _ value: ConfigTree) {
        guard case .map(var entries) = tree.kind else { return tree.kind = .map([(key, nil, value)]) }
        entries.append((key, nil, value))
        tree.kind = .map(entries)
    }

    func append(_ value: ConfigTree) {
        guard case .list(var items) = tree.kind else { return tree.kind = .list([value]) }
        items.append(value)
        tree.kind = .list(items)
    }
}

private struct TreeEncoder: Encoder {
    let box = Box()
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) -> KeyedEncodingContainer<Key> {
        box.tree.kind = .map([])
        return KeyedEncodingContainer(KeyedWriter<Key>(box: box))
    }

    func unkeyedContainer() -> any UnkeyedEncodingContainer {
        box.tree.kind = .list([])
        return ListWriter(box: box)
    }

    func singleValueContainer() -> any SingleValueEncodingContainer { ScalarWriter(box: box) }
}

private func tree(of value: some Encodable) throws -> ConfigTree {
    if let words = value as? [String: String] {
        // Keys of a dictionary are the user's own words: no snake case, and a stable order.
        let entries = words.sorted { $0.key < $1.key }
        return ConfigTree(.map(entries.map { ($0.key, nil, ConfigTree(.scalar($0.value, quoted: true))) }))
    }
    let encoder = TreeEncoder()
    try value.encode(to: encoder)
    return encoder.box.tree
}

private struct KeyedWriter<Key: CodingKey>: KeyedEncodingContainerProtocol {
    let box: Box
    var codingPath: [any CodingKey] { [] }

    mutating func encodeNil(forKey key: Key) { box.append(snakeCase(key.stringValue), ConfigTree(.null)) }
    mutating func encode<T: Encodable>(_ value: T, forKey key: Key) throws {
        box.append(snakeCase(key.stringValue), try tree(of: value))
    }
    // The synthesized encoding skips nil; a resolved configuration shows every key. One witness a type is what the
    // protocol asks for.
    mutating func encodeIfPresent<T: Encodable>(_ value: T?, forKey key: Key) throws { try optional(value, key) }
    mutating func encodeIfPresent(_ value: Bool?, forKey key: Key) throws { try optional(value, key) }
    mutating func encodeIfPresent(_ value: String?, forKey key: Key) throws { try optional(value, key) }
    mutating func encodeIfPresent(_ value: Int?, forKey key: Key) throws { try optional(value, key) }
    mutating func encodeIfPresent(_ value: Double?, forKey key: Key) throws { try optional(value, key) }
    mutating func encodeIfPresent(_ value: UInt64?, forKey key: Key) throws { try optional(value, key) }

    private mutating func optional(_ value: (some Encodable)?, _ key: Key) throws {
        if let value { try encode(value, forKey: key) } else { encodeNil(forKey: key) }
    }

    mutating func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type, forKey key: Key
    ) -> KeyedEncodingContainer<Nested> { preconditionFailure("sections of a configuration are nested structs") }
    mutating func nestedUnkeyedContainer(forKey key: Key) -> any UnkeyedEncodingContainer {
        preconditionFailure("lists of a configuration are arrays")
    }
    mutating func superEncoder() -> any Encoder { preconditionFailure("configurations have no superclass") }
    mutating func superEncoder(forKey key: Key) -> any Encoder { superEncoder() }
}

private struct ListWriter: UnkeyedEncodingContainer {
    let box: Box
    var codingPath: [any CodingKey] { [] }
    var count: Int { if case .list(let items) = box.tree.kind { items.count } else { 0 } }

    mutating func encodeNil() { box.append(ConfigTree(.null)) }
    mutating func encode<T: Encodable>(_ value: T) throws { box.append(try tree(of: value)) }
    mutating func nestedContainer<Nested: CodingKey>(keyedBy type: Nested.Type) -> KeyedEncodingContainer<Nested> {
        preconditionFailure("sections of a configuration are nested structs")
    }
    mutating func nestedUnkeyedContainer() -> any UnkeyedEncodingContainer {
        preconditionFailure("lists of a configuration are arrays")
    }
    mutating func superEncoder() -> any Encoder { preconditionFailure("configurations have no superclass") }
}

private struct ScalarWriter: SingleValueEncodingContainer {
    let box: Box
    var codingPath: [any CodingKey] { [] }

    mutating func encodeNil() { box.tree = ConfigTree(.null) }
    mutating func encode<T: Encodable>(_ value: T) throws {
        switch value {
        case let text as String: box.tree = ConfigTree(.scalar(text, quoted: true))
        case let number as any BinaryInteger: box.tree = ConfigTree(.scalar("\(number)", quoted: false))
        case let number as Double: box.tree = ConfigTree(.scalar("\(number)", quoted: false))
        case let flag as Bool: box.tree = ConfigTree(.scalar("\(flag)", quoted: false))
        default: box.tree = try tree(of: value)
        }
    }
}
