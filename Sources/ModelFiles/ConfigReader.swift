// Reading config.json and adapter_config.json with messages that name file and key.
internal import Diagnostics
package import Formats

/// Typed access to a JSON object, with messages that name file and key.
package struct ConfigReader {
    package let json: JSONValue
    package let file: String

    package init(json: JSONValue, file: String) { (self.json, self.file) = (json, file) }

    package func isPresent(_ key: String) -> Bool { json[key].map { !$0.isNull } ?? false }
    package func isNull(_ key: String) -> Bool { json[key]?.isNull ?? false }

    private func value<T>(_ key: String, _ fallback: T?, _ wanted: String, _ read: (JSONValue) -> T?) throws -> T {
        guard let found = json[key], !found.isNull else {
            guard let fallback else { throw UserError("\(file): no \"\(key)\"; \(wanted) is needed") }
            return fallback
        }
        guard let value = read(found) else {
            let number = found.double == nil ? "" : found.serialized(.compact), isShort = 1...30 ~= number.count
            throw UserError("\(file): \"\(key)\" is \(isShort ? number : found.kind); \(wanted) is needed")
        }
        return value
    }

    package func string(_ key: String, _ fallback: String? = nil) throws -> String {
        try value(key, fallback, "a string") { $0.string }
    }
    package func bool(_ key: String, _ fallback: Bool) throws -> Bool {
        try value(key, fallback, "true or false") { $0.bool }
    }
    package func number(_ key: String, _ fallback: Double? = nil) throws -> Double {
        try value(key, fallback, "a number") { $0.double }
    }
    package func count(_ key: String, _ fallback: Int) throws -> Int {
        try value(key, fallback, "a whole number from 0") { $0.int.flatMap { $0 >= 0 ? $0 : nil } }
    }
    package func positive(_ key: String, _ fallback: Int? = nil) throws -> Int {
        // Sizes beyond 2³⁰ are no model's, and their products would overflow.
        try value(key, fallback, "a whole number from 1 to 2^30") {
            $0.int.flatMap { (1...1 << 30).contains($0) ? $0 : nil }
        }
    }

    /// A number of layers: no more than tensors fit into a file, so that what is kept for each fits into memory.
    package func layers(_ key: String = "num_hidden_layers") throws -> Int {
        try value(key, nil, "a whole number from 1 to 100,000") {
            $0.int.flatMap { (1...100_000).contains($0) ? $0 : nil }
        }
    }

    package func section(_ key: String) throws -> ConfigReader? {
        guard isPresent(key) else { return nil }
        guard let object = json[key], object.object != nil else {
            throw UserError("\(file): \"\(key)\" must be an object or null")
        }
        return ConfigReader(json: object, file: "\(file) \(key)")
    }

    package func require(_ key: String, oneOf allowed: [String], default fallback: String) throws {
        let value = try string(key, fallback)
        guard allowed.contains(value) else {
            throw UserError(
                "\(file): \"\(key)\" is \(value), which is not supported; \(allowed.joined(separator: ", ")) is")
        }
    }

    /// `layer_types`: whether each layer sees a window; nil where there is no such list.
    package func slidingLayers(of layers: Int) throws -> [Bool]? {
        guard isPresent("layer_types") else { return nil }
        let types = json["layer_types"]?.array?.compactMap(\.string) ?? []
        guard types.count == layers, types.allSatisfy({ ["full_attention", "sliding_attention"].contains($0) }) else {
            throw UserError(
                "\(file): \"layer_types\" must name full_attention or sliding_attention for each of \(layers) layers")
        }
        return types.map { $0 == "sliding_attention" }
    }

    package func refuse(_ key: String, unless harmless: [JSONValue]) throws {
        guard let value = json[key], !value.isNull, !harmless.contains(value) else { return }
        throw UserError("\(file): \"\(key)\": \(value.serialized()) is not supported")
    }
}
