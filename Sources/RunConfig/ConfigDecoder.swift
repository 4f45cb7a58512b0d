// A configuration tree to a Codable struct, noting every problem instead of stopping at the first, and every key that
// the struct asks for, so that what nobody asked for can be named.

/// What decoding has learned so far.
final class DecodingRecord {
    struct Entry {
        let place: Place?
        let problem: ConfigProblem
    }
    var problems: [Entry] = []
    /// Keys asked for, by the dotted path of their section.
    var asked: [String: [String]] = [:]

    func note(_ key: String, _ message: String, _ place: Place?) {
        problems.append(Entry(place: place, problem: ConfigProblem(key, message)))
    }

    func ask(_ key: String, in section: String) {
        if asked[section]?.contains(key) != true { asked[section, default: []].append(key) }
    }
}

/// Thrown where a field has no fallback; the problem itself is already noted.
struct UndecodableField: Error {}

/// Decodes one value of a tree. `fallback` is the default of the same field, taken after a problem was noted.
struct TreeDecoder: Decoder {
    let tree: ConfigTree
    let fallback: ConfigTree?
    let path: String
    let record: DecodingRecord
    var codingPath: [any CodingKey] { [] }
    var userInfo: [CodingUserInfoKey: Any] { [:] }

    func container<Key: CodingKey>(keyedBy type: Key.Type) throws -> KeyedDecodingContainer<Key> {
        var section = tree
        if case .map = tree.kind {
        } else {
            record.note(path, "expected a section of keys, found \(tree.found)\(firstKeyHint)", tree.place)
            section = fallback ?? ConfigTree(.map([]))
        }
        return KeyedDecodingContainer(
            KeyedReader<Key>(section: section, fallback: fallback, path: path, record: record))
    }

    /// A value where a section should be is most likely meant for the section's first key: `model=PATH`.
    private var firstKeyHint: String {
        guard case .scalar = tree.kind, case .map(let entries)? = fallback?.kind, let first = entries.first
        else { return "" }
        return "; did you mean \(path).\(first.key)?"
    }

    func unkeyedContainer() throws -> any UnkeyedDecodingContainer {
        switch tree.kind {
        case .list(let items): return ListReader(items: items, path: path, record: record)
        case .scalar(_, _):
            // One value stands for a list of one: `train=rows.jsonl`.
            return ListReader(items: [tree], path: path, record: record)
        default:
            record.note(path, "expected a list, found \(tree.found)", tree.place)
            guard case .list(let items)? = fallback?.kind else {
                return ListReader(items: [], path: path, record: record)
            }
            return ListReader(items: items, path: path, record: record)
        }
    }

    func singleValueContainer() throws -> any SingleValueDecodingContainer { ScalarReader(decoder: self) }

    /// The value as `T`; scalars, choices and text dictionaries are read here, structs and lists through containers.
    func value<T: Decodable>(_ type: T.Type) throws -> T {
        do {
            if let scalar = try scalar(type) { return scalar }
            return try T(from: self)
        } catch let mismatch as Mismatch {
            record.note(path, mismatch.message, tree.place)
        } catch is UndecodableField {
        }
        guard let fallback else { throw UndecodableField() }
        return try TreeDecoder(tree: fallback, fallback: nil, path: path, record: DecodingRecord()).value(type)
    }

    private func scalar<T>(_ type: T.Type) throws -> T? {
        switch type {
        case is Int.Type: return try readInteger(tree, as: Int.self) as? T
        case is UInt64.Type: return try readInteger(tree, as: UInt64.self) as? T
        case is Double.Type: return try readNumber(tree) as? T
        case is Bool.Type: return try readFlag(tree) as? T
        case is String.Type: return try readText(tree) as? T
        case is [String: String].Type: return try readWords(tree) as? T
        case let choice as any ConfigChoice.Type: return try readChoice(choice, tree) as? T
        default: return nil
        }
    }
}

private struct KeyedReader<Key: CodingKey>: KeyedDecodingContainerProtocol {
    let section: ConfigTree
    let fallback: ConfigTree?
    let path: String
    let record: DecodingRecord
    var codingPath: [any CodingKey] { [] }
    var allKeys: [Key] {
        guard case .map(let entries) = section.kind else { return [] }
        return entries.compactMap { Key(stringValue: $0.key) }
    }

    private func child(_ key: Key) -> TreeDecoder? {
        let name = snakeCase(key.stringValue)
        record.ask(name, in: path)
        guard let tree = section[name] else { return nil }
        return TreeDecoder(
            tree: tree, fallback: fallback?[name], path: path.isEmpty ? name : "\(path).\(name)", record: record)
    }

    func contains(_ key: Key) -> Bool { child(key) != nil }
    func decodeNil(forKey key: Key) throws -> Bool {
        guard let child = child(key) else { return true }
        if case .null = child.tree.kind { return true }
        return false
    }
    func decode<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T {
        guard let child = child(key) else { throw UndecodableField() }
        return try child.value(type)
    }
    // One witness a type, since the protocol's own defaults for these would throw where a wrong value can be nil.
    func decodeIfPresent(_ type: Bool.Type, forKey key: Key) throws -> Bool? { try optional(type, key) }
    func decodeIfPresent(_ type: String.Type, forKey key: Key) throws -> String? { try optional(type, key) }
    func decodeIfPresent(_ type: Int.Type, forKey key: Key) throws -> Int? { try optional(type, key) }
    func decodeIfPresent(_ type: UInt64.Type, forKey key: Key) throws -> UInt64? { try optional(type, key) }
    func decodeIfPresent(_ type: Double.Type, forKey key: Key) throws -> Double? { try optional(type, key) }
    func decodeIfPresent<T: Decodable>(_ type: T.Type, forKey key: Key) throws -> T? { try optional(type, key) }

    private func optional<T: Decodable>(_ type: T.Type, _ key: Key) throws -> T? {
        guard let child = child(key) else { return nil }
        if case .null = child.tree.kind { return nil }
        do {
            return try child.value(type)
        } catch is UndecodableField {
            return nil
        }
    }

    func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type, forKey key: Key
    ) throws -> KeyedDecodingContainer<Nested> { throw UndecodableField() }
    func nestedUnkeyedContainer(forKey key: Key) throws -> any UnkeyedDecodingContainer { throw UndecodableField() }
    func superDecoder() throws -> any Decoder { throw UndecodableField() }
    func superDecoder(forKey key: Key) throws -> any Decoder { throw UndecodableField() }
}

private struct ListReader: UnkeyedDecodingContainer {
    let items: [ConfigTree]
    let path: String
    let record: DecodingRecord
    var currentIndex = 0
    var codingPath: [any CodingKey] { [] }
    var count: Int? { items.count }
    var isAtEnd: Bool { currentIndex >= items.count }

    init(items: [ConfigTree], path: String, record: DecodingRecord) {
        (self.items, self.path, self.record) = (items, path, record)
    }

    private mutating func next() throws -> TreeDecoder {
        guard !isAtEnd else { throw UndecodableField() }
        defer { currentIndex += 1 }
        return TreeDecoder(
            tree: items[currentIndex], fallback: nil, path: "\(path)[\(currentIndex)]", record: record)
    }

    mutating func decodeNil() throws -> Bool { false }
    mutating func decode<T: Decodable>(_ type: T.Type) throws -> T { try next().value(type) }
    mutating func nestedContainer<Nested: CodingKey>(
        keyedBy type: Nested.Type
    ) throws -> KeyedDecodingContainer<Nested> { try next().container(keyedBy: type) }
    mutating func nestedUnkeyedContainer() throws -> any UnkeyedDecodingContainer { try next().unkeyedContainer() }
    mutating func superDecoder() throws -> any Decoder { try next() }
}

private struct ScalarReader: SingleValueDecodingContainer {
    let decoder: TreeDecoder
    var codingPath: [any CodingKey] { [] }
    func decodeNil() -> Bool { if case .null = decoder.tree.kind { true } else { false } }
    func decode<T: Decodable>(_ type: T.Type) throws -> T { try decoder.value(type) }
}
