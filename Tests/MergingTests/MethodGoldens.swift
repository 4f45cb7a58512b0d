// Merges of tensors in memory, and the golden values of methods.json.
internal import Formats
internal import Foundation

internal import Merging

/// A tensor in memory.
struct MemoryTensor: TensorReader {
    let shape: [Int]
    let elementType: ElementType
    let values: [Double]

    init(_ shape: [Int], _ values: [Double], _ elementType: ElementType = .f32) {
        (self.shape, self.values, self.elementType) = (shape, values, elementType)
    }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        for (place, index) in range.enumerated() { destination[place] = Float(values[index]) }
    }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        for (place, index) in range.enumerated() { destination[place] = values[index] }
    }
}

extension TensorMerge {
    /// All elements of the result; a Float becomes the Double of its value.
    func result(blockElements: Int = 1024, warn: (String) -> Void = { _ in }) throws -> [Double] {
        var out: [Double] = []
        try run(blockElements: blockElements, warn: warn) { block in
            switch block {
            case .float32(let elements): out += elements.map { Double($0) }
            case .float64(let elements): out += elements
            }
        }
        return out
    }
}

/// One case of methods.json.
struct MethodGolden: CustomStringConvertible, Sendable {
    let merge: @Sendable () -> TensorMerge
    let expected: [Double]
    let expectedType: ElementType
    let description: String
}

enum MethodGoldens {
    static let table = read { $0["table"].map { [$0] } ?? [] }
    static let random = read { $0["random"]?.array ?? [] }

    private static func read(_ groups: (JSONValue) -> [JSONValue]) -> [MethodGolden] {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent(
            "Fixtures/methods.json")
        guard let text = try? String(contentsOf: path, encoding: .utf8), let json = try? JSONValue.parse(text) else {
            return []
        }
        return groups(json).flatMap { group -> [MethodGolden] in
            let tensors = Dictionary(
                uniqueKeysWithValues: group["tensors"]!.object!.map { ($0, tensor($1)) })
            return group["cases"]!.array!.map { golden($0, tensors) }
        }
    }

    private static func golden(_ json: JSONValue, _ tensors: [String: MemoryTensor]) -> MethodGolden {
        let method = MergeMethod(rawValue: json["method"]!.string!)!, base = json["base"]!.string
        let names = json["inputs"]!.array!.map { $0.string! }, parameters = json["parameters"]!.object!
        var inputs = names.enumerated().map { MergeInput(tensors[$1]!, model: $0, isBase: $1 == base) }
        var shared: [String: MergeValue] = [:]
        for (name, value) in parameters {
            let parameter = method.parameters.first { $0.name == name }!
            if parameter.scope == .shared {
                shared[name] = value.bool.map { .flag($0) } ?? .number(value.double!)
                continue
            }
            let owners = inputs.indices.filter { parameter.scope == .input || !inputs[$0].isBase }
            for (place, index) in owners.enumerated() {
                inputs[index].settings[name] = .number(value.array![place].double!)
            }
        }
        let merge = TensorMerge(name: json["name"]!.string!, method: method, inputs: inputs, settings: shared)
        let expected = tensor(json["expected"]!), type = tensors[names[0]]!.elementType
        nonisolated(unsafe) let fixed = merge  // never changed after this line
        return MethodGolden(
            merge: { fixed }, expected: expected.values, expectedType: expected.elementType,
            description: "\(method.rawValue) of \(names.joined()) \(type.rawValue) \(expected.shape) \(parameters.keys)"
        )
    }

    private static func tensor(_ json: JSONValue) -> MemoryTensor {
        let type = ElementType(rawValue: json["dtype"]!.string!)!,
            bytes = [UInt8](Data(base64Encoded: json["data"]!.string!)!)
        let values = bytes.withUnsafeBytes { raw in
            (0..<bytes.count / type.byteCount).map { i -> Double in
                switch type {
                case .f64: raw.loadUnaligned(fromByteOffset: 8 * i, as: Double.self)
                case .f32: Double(raw.loadUnaligned(fromByteOffset: 4 * i, as: Float.self))
                case .f16: Double(floatFromF16(raw.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
                default: Double(floatFromBF16(raw.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
                }
            }
        }
        return MemoryTensor(json["shape"]!.array!.map { $0.int! }, values, type)
    }
}
