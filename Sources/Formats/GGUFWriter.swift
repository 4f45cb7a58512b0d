// Writing GGUF version 3, little-endian, tensors at multiples of 32.

/// A key-value pair as it stands in a file. GGUF keeps the width of numbers, and programs ask for the right one, so an entry
/// is made with its width or taken from a file unchanged.
public struct GGUFEntry: Sendable {
    public let key: String
    /// The value's kind and the value.
    let bytes: [UInt8]

    init(key: String, bytes: [UInt8]) { (self.key, self.bytes) = (key, bytes) }

    private init(_ key: String, _ kind: GGUFKind, _ value: [UInt8]) {
        self.init(key: key, bytes: littleEndianBytes(kind.rawValue) + value)
    }

    private init<Items: Collection>(
        _ key: String, listOf kind: GGUFKind, _ items: Items, _ bytes: (Items.Element) -> [UInt8]
    ) {
        var list = littleEndianBytes(kind.rawValue) + littleEndianBytes(UInt64(items.count))
        for item in items { list += bytes(item) }
        self.init(key, .array, list)
    }

    public static func uint32(_ key: String, _ value: Int) -> GGUFEntry {
        GGUFEntry(key, .u32, littleEndianBytes(UInt32(value)))
    }
    public static func float(_ key: String, _ value: Float) -> GGUFEntry {
        GGUFEntry(key, .f32, littleEndianBytes(value.bitPattern))
    }
    public static func bool(_ key: String, _ value: Bool) -> GGUFEntry { GGUFEntry(key, .bool, [value ? 1 : 0]) }
    public static func string(_ key: String, _ value: String) -> GGUFEntry {
        GGUFEntry(key, .string, stringBytes(value))
    }
    public static func strings(_ key: String, _ values: [String]) -> GGUFEntry {
        GGUFEntry(key, listOf: .string, values, stringBytes)
    }
    public static func int32s(_ key: String, _ values: [Int32]) -> GGUFEntry {
        GGUFEntry(key, listOf: .i32, values, littleEndianBytes)
    }
    public static func uint8s(_ key: String, _ values: [UInt8]) -> GGUFEntry {
        GGUFEntry(key, listOf: .u8, values) { [$0] }
    }
    public static func floats(_ key: String, _ values: [Float]) -> GGUFEntry {
        GGUFEntry(key, listOf: .f32, values) { littleEndianBytes($0.bitPattern) }
    }
    public static func bools(_ key: String, _ values: [Bool]) -> GGUFEntry {
        GGUFEntry(key, listOf: .bool, values) { [$0 ? 1 : 0] }
    }
}

private func littleEndianBytes(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

private func stringBytes(_ text: String) -> [UInt8] { littleEndianBytes(UInt64(text.utf8.count)) + Array(text.utf8) }

/// Writes GGUF files that appear complete or not at all.
public enum GGUFWriter {
    /// A tensor to write.
    public struct Tensor {
        public let name: String
        public let type: GGMLType
        /// Row-major; the last dimension is whole blocks.
        public let shape: [Int]
        /// Hands over its blocks, piece by piece.
        public let produce: ((UnsafeRawBufferPointer) throws -> Void) throws -> Void

        public init(
            name: String, type: GGMLType, shape: [Int],
            produce: @escaping ((UnsafeRawBufferPointer) throws -> Void) throws -> Void
        ) {
            (self.name, self.type, self.shape, self.produce) = (name, type, shape, produce)
        }

        public var byteCount: Int { type.byteCount(of: shape.reduce(1, *)) }
    }

    private static let alignment = 32

    /// - Parameter progress: told after each piece the share of the tensors that is written.
    /// - Throws: `UserError` (73) when the file cannot be written, or what `produce` throws; then the old file stays.
    public static func write(
        path: String, metadata: [GGUFEntry], tensors: [Tensor], progress: (Double) -> Void = { _ in }
    ) throws {
        // The alignment of a file that entries were copied from means nothing here.
        let metadata = metadata.filter { $0.key != "general.alignment" }
        precondition(Set(metadata.map { ExactString($0.key) }).count == metadata.count, "a metadata key given twice")
        var header = Array("GGUF".utf8) + littleEndianBytes(UInt32(3))
        header += littleEndianBytes(UInt64(tensors.count)) + littleEndianBytes(UInt64(metadata.count))
        for entry in metadata { header += stringBytes(entry.key) + entry.bytes }
        var offset = 0
        for tensor in tensors {
            precondition(
                (tensor.shape.last ?? 1) % tensor.type.block.elements == 0, "\(tensor.name): rows of half blocks")
            header += stringBytes(tensor.name) + littleEndianBytes(UInt32(tensor.shape.count))
            for size in tensor.shape.reversed() { header += littleEndianBytes(UInt64(size)) }
            header += littleEndianBytes(tensor.type.rawValue) + littleEndianBytes(UInt64(offset))
            offset += padded(tensor.byteCount)
        }
        let file = try OutputFile(replacing: path)
        try file.append(header)
        try pad(file)
        var written = 0
        let total = tensors.reduce(0) { $0 + $1.byteCount }
        for tensor in tensors {
            let begin = file.offset
            try tensor.produce {
                try file.append($0)
                written += $0.count
                progress(Double(written) / Double(total))
            }
            precondition(file.offset == begin + tensor.byteCount, "tensor \(tensor.name): not the bytes of its shape")
            try pad(file)
        }
        try file.close()
    }

    private static func padded(_ count: Int) -> Int { (count + alignment - 1) / alignment * alignment }

    private static func pad(_ file: OutputFile) throws {
        try file.append([UInt8](repeating: 0, count: padded(file.offset) - file.offset))
    }
}
