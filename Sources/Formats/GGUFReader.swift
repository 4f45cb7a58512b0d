// The parser behind `GGUFFile`: a cursor that never reads past the end and never trusts a length.
// Layout: magic | u32 version | u64 tensors | u64 pairs | pairs | tensor infos | padding | tensors, each padded.
import Diagnostics

/// Kinds of metadata values, by their numbers in the file.
enum GGUFKind: UInt32 {
    case u8, i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64

    /// Least number of bytes that one value takes.
    var bytes: Int {
        switch self {
        case .u8, .i8, .bool: 1
        case .u16, .i16: 2
        case .u32, .i32, .f32: 4
        case .u64, .i64, .f64, .string: 8
        case .array: 12
        }
    }
}

struct GGUFReader {
    private let bytes: UnsafeRawBufferPointer
    private let path: String
    /// Which of a model's files this is, from 0.
    private let part: Int
    private var at = 0
    private(set) var version = 0
    private(set) var metadata: GGUFMetadata
    /// Where kind and value of each metadata entry are.
    private(set) var entryRanges: [Range<Int>] = []
    private(set) var tensors: [GGUFTensor] = []

    static let maxKeyBytes = 65_535
    static let maxTensorNameBytes = 1_024
    static let maxDimensions = 4
    /// Elements of one array of numbers; vocabularies hold below a million.
    static let maxArrayCount = 1 << 24

    init(bytes: UnsafeRawBufferPointer, path: String, part: Int) {
        (self.bytes, self.path, self.part) = (bytes, path, part)
        metadata = GGUFMetadata(path: path)
    }

    mutating func readAll() throws {
        let (tensorCount, pairCount) = try header()
        for _ in 0..<pairCount { try pair() }
        let alignment = try alignment()
        var infos: [TensorEntry] = []
        var names = Set<ExactString>()
        for _ in 0..<tensorCount {
            let info = try tensorEntry()
            guard names.insert(ExactString(info.name)).inserted else {
                throw invalid("tensor \"\(printable(info.name))\" appears twice")
            }
            infos.append(info)
        }
        try place(infos, alignment: alignment)
    }

    private func invalid(_ reason: String) -> UserError {
        UserError("\(printable(path)): not a valid GGUF file: \(reason)")
    }

    // MARK: Header

    private mutating func header() throws -> (tensors: Int, pairs: Int) {
        guard bytes.count >= 4, bytes.prefix(4).elementsEqual("GGUF".utf8) else {
            throw invalid("it does not begin with \"GGUF\"")
        }
        at = 4
        let version = try integer(UInt32.self, "version")
        guard version == 2 || version == 3 else {
            if version.byteSwapped == 2 || version.byteSwapped == 3 { throw invalid("big-endian files are not read") }
            throw invalid("version \(version); versions 2 and 3 are read")
        }
        self.version = Int(version)
        // The shortest tensor entry: name length, one byte of name, dimensions, type, offset. The shortest pair: key
        // length, one byte of key, type, one byte of value.
        let tensors = try count("tensors", atLeastBytesEach: 8 + 1 + 4 + 4 + 8)
        let pairs = try count("metadata entries", atLeastBytesEach: 8 + 1 + 4 + 1)
        return (tensors, pairs)
    }

    // MARK: Metadata

    private mutating func pair() throws {
        let key = try string("metadata key", maxBytes: Self.maxKeyBytes)
        if key.isEmpty { throw invalid("an empty metadata key") }
        let what = "metadata \"\(printable(key, limit: 100))\""
        let begin = at
        let value = try value(of: try kind(what), what)
        entryRanges.append(begin..<at)
        guard metadata.append(key, value) else { throw invalid("\(what) appears twice") }
    }

    private mutating func kind(_ what: String) throws -> GGUFKind {
        let number = try integer(UInt32.self, what)
        guard let kind = GGUFKind(rawValue: number) else { throw invalid("\(what) has the unknown type \(number)") }
        return kind
    }

    private mutating func value(of kind: GGUFKind, _ what: String) throws -> GGUFValue {
        switch kind {
        case .f32: .float(Double(Float(bitPattern: try integer(UInt32.self, what))))
        case .f64: .float(Double(bitPattern: try integer(UInt64.self, what)))
        case .bool: .bool(try bool(what))
        case .string: .string(try string(what, maxBytes: bytes.count))
        case .array: try array(what)
        case .u64:
            switch try integer(UInt64.self, what) {
            case let value where value > UInt64(Int.max): .unsigned(value)
            case let value: .integer(Int(value))
            }
        default: .integer(try int(kind, what))
        }
    }

    private mutating func array(_ what: String) throws -> GGUFValue {
        let kind = try kind(what)
        if kind == .array { throw invalid("\(what) is a list of lists; only flat lists are read") }
        let count = try count("elements of \(what)", atLeastBytesEach: kind.bytes)
        guard count <= Self.maxArrayCount else {
            throw invalid("\(what) has \(counted(count, "element")); at most \(Self.maxArrayCount) are read")
        }
        return switch kind {
        case .f32: .floats(try list(count) { Float(bitPattern: try $0.integer(UInt32.self, what)) })
        case .f64: .doubles(try list(count) { Double(bitPattern: try $0.integer(UInt64.self, what)) })
        case .bool: .bools(try list(count) { try $0.bool(what) })
        case .string: .stringArray(try list(count) { try $0.string(what, maxBytes: $0.bytes.count) })
        default: .integers(try list(count) { try $0.int(kind, what) })
        }
    }

    private mutating func list<Value>(_ count: Int, _ next: (inout GGUFReader) throws -> Value) throws -> [Value] {
        var values: [Value] = []
        values.reserveCapacity(count)
        for _ in 0..<count { values.append(try next(&self)) }
        return values
    }

    private mutating func int(_ kind: GGUFKind, _ what: String) throws -> Int {
        switch kind {
        case .u8: Int(try integer(UInt8.self, what))
        case .i8: Int(try integer(Int8.self, what))
        case .u16: Int(try integer(UInt16.self, what))
        case .i16: Int(try integer(Int16.self, what))
        case .u32: Int(try integer(UInt32.self, what))
        case .i32: Int(try integer(Int32.self, what))
        case .i64: Int(try integer(Int64.self, what))
        case .u64:
            if let value = Int(exactly: try integer(UInt64.self, what)) {
                value
            } else {
                throw invalid("\(what) holds a number beyond \(Int.max)")
            }
        case .f32, .f64, .bool, .string, .array: preconditionFailure("not an integer kind: \(kind)")
        }
    }

    private mutating func bool(_ what: String) throws -> Bool {
        switch try integer(UInt8.self, what) {
        case 0: false
        case 1: true
        case let value: throw invalid("\(what) is the boolean \(value); 0 and 1 are")
        }
    }

    private func alignment() throws -> Int {
        guard let value = metadata["general.alignment"] else { return 32 }
        guard let alignment = value.int, alignment > 0, alignment & (alignment - 1) == 0, alignment <= 1 << 20 else {
            let found = value.int.map { "\($0)" } ?? "no whole number"
            throw invalid("general.alignment is \(found), not a power of two up to \(1 << 20)")
        }
        return alignment
    }

    // MARK: Tensors

    private struct TensorEntry {
        let name: String, type: GGMLType, shape: [Int], offset: Int, byteCount: Int
    }

    private mutating func tensorEntry() throws -> TensorEntry {
        let name = try string("tensor name", maxBytes: Self.maxTensorNameBytes)
        if name.isEmpty { throw invalid("an empty tensor name") }
        let what = "tensor \"\(printable(name))\""
        let dimensions = try integer(UInt32.self, what)
        guard dimensions <= Self.maxDimensions else { throw invalid("\(what) has \(dimensions) dimensions") }
        var shape: [Int] = []
        for _ in 0..<dimensions {
            let size = try integer(UInt64.self, what)
            guard size > 0, size <= UInt64(Int.max) else { throw invalid("\(what) has a dimension of \(size)") }
            shape.append(Int(size))
        }
        let typeNumber = try integer(UInt32.self, what)
        guard let type = GGMLType(rawValue: typeNumber) else {
            throw invalid("\(what) has the unknown type \(typeNumber); the file may be newer than this program")
        }
        let block = type.block
        guard (shape.first ?? 1) % block.elements == 0 else {
            throw invalid("\(what): rows of \(shape.first ?? 1) are not whole \(type.name) blocks of \(block.elements)")
        }
        guard let elements = checkedProduct(shape),
            let size = checkedProduct([elements / block.elements, block.bytes])
        else { throw invalid("\(what): \(shape) is larger than any file") }
        guard let offset = Int(exactly: try integer(UInt64.self, what)) else {
            throw invalid("\(what): offset too large")
        }
        return TensorEntry(name: name, type: type, shape: shape.reversed(), offset: offset, byteCount: size)
    }

    /// Tensors lie one after the other, each begun at a multiple of the alignment, as llama.cpp demands; padding after
    /// the last one is optional.
    private mutating func place(_ entries: [TensorEntry], alignment: Int) throws {
        if entries.isEmpty { return }
        let (paddedStart, overflow) = at.addingReportingOverflow(alignment - 1)
        let start = paddedStart & ~(alignment - 1)
        guard !overflow, start <= bytes.count else { throw invalid("the file ends before its tensors") }
        var expected = 0
        for entry in entries {
            let what = "tensor \"\(printable(entry.name))\""
            guard entry.offset == expected else {
                throw invalid("\(what) begins at \(entry.offset), not at \(expected)")
            }
            guard entry.byteCount <= bytes.count - start - min(expected, bytes.count - start) else {
                throw invalid("the file ends inside \(what); copy or download it again")
            }
            let begin = start + expected
            let range = begin..<begin + entry.byteCount
            tensors.append(
                GGUFTensor(name: entry.name, type: entry.type, shape: entry.shape, part: part, byteRange: range))
            expected += (entry.byteCount + alignment - 1) & ~(alignment - 1)
        }
    }

    // MARK: Cursor

    private var remaining: Int { bytes.count - at }

    private mutating func integer<Value: FixedWidthInteger & BitwiseCopyable>(
        _: Value.Type, _ what: String
    ) throws -> Value {
        let size = MemoryLayout<Value>.size
        guard remaining >= size else { throw invalid("the file ends inside \(what)") }
        defer { at += size }
        return Value(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: Value.self))
    }

    /// A count whose items take at least `size` bytes each, so that a lie shows before memory is taken.
    private mutating func count(_ what: String, atLeastBytesEach size: Int) throws -> Int {
        let count = try integer(UInt64.self, "number of \(what)")
        guard count <= UInt64(remaining / size) else {
            throw invalid("\(count) \(what) cannot be in the \(remaining) bytes that are left")
        }
        return Int(count)
    }

    private mutating func string(_ what: String, maxBytes: Int) throws -> String {
        let length = try integer(UInt64.self, what)
        guard length <= UInt64(maxBytes) else {
            throw invalid("\(what): \(length) bytes; at most \(maxBytes) are read")
        }
        guard length <= UInt64(remaining) else { throw invalid("the file ends inside \(what)") }
        let text = UnsafeRawBufferPointer(rebasing: bytes[at..<at + Int(length)])
        at += Int(length)
        guard let string = String(validating: text, as: UTF8.self) else { throw invalid("\(what) is not UTF-8") }
        return string
    }
}
