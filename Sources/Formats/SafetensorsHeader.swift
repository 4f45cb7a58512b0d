// The header of a safetensors file, read as strictly as the reference implementation does, with tighter limits.
// Layout: u64 length of the header | header (JSON) | bytes of the tensors, without holes.
import Diagnostics

/// What a safetensors header says, already checked against the length of its file.
struct SafetensorsHeader {
    /// In the order of their bytes.
    private(set) var tensors: [TensorInfo] = []
    private(set) var metadata: [(String, String)] = []

    static let maxHeaderBytes = 25_000_000
    static let maxTensors = 100_000
    private static let metadataKey: ExactString = "__metadata__"
    /// Types that the format knows and this program does not.
    private static let unsupportedTypes: Set<String> = [
        "F4", "F6_E2M3", "F6_E3M2", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64",
    ]

    /// - Parameters:
    ///   - bytes: the whole file.
    ///   - path: for messages.
    init(_ bytes: UnsafeRawBufferPointer, path: String) throws {
        func invalid(_ reason: String) -> UserError {
            UserError("\(printable(path)): not a valid safetensors file: \(reason)")
        }
        guard bytes.count >= 8 else { throw invalid("\(counted(bytes.count, "byte")), too few for a header") }
        let announced = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        guard announced <= UInt64(Self.maxHeaderBytes) else {
            throw invalid("header of \(announced) bytes; at most \(Self.maxHeaderBytes) are read")
        }
        let dataStart = 8 + Int(announced)
        guard dataStart <= bytes.count else { throw invalid("the file ends inside its header; download it again") }
        let text = UnsafeRawBufferPointer(rebasing: bytes[8..<dataStart])
        guard text.first == UInt8(ascii: "{") else { throw invalid("the header does not begin with {") }
        let object: JSONObject
        do {
            guard case .object(let parsed) = try JSONValue.parse(text, maxDepth: 8) else {
                throw invalid("the header is not an object")
            }
            object = parsed
        } catch let error as JSONError {
            throw invalid("header \(error)")
        }
        for (name, value) in object {
            do {
                if ExactString(name) == Self.metadataKey {
                    metadata = try Self.metadata(value)
                } else {
                    tensors.append(try Self.tensor(name, value, dataStart: dataStart))
                }
            } catch let reason as Reason {
                throw reason.isFault ? invalid(reason.text) : UserError("\(printable(path)): \(reason.text)")
            }
        }
        guard tensors.count <= Self.maxTensors else { throw invalid("more than \(Self.maxTensors) tensors") }
        tensors.sort {
            ($0.byteRange.lowerBound, $0.byteRange.upperBound) < ($1.byteRange.lowerBound, $1.byteRange.upperBound)
        }
        do { try checkLayout(dataStart..<bytes.count) } catch let reason as Reason { throw invalid(reason.text) }
    }

    /// True for the beginning of what can be a safetensors file: a header length that is allowed, then `{`.
    static func isPlausible(_ beginning: UnsafeRawBufferPointer) -> Bool {
        guard beginning.count >= 9, beginning[8] == UInt8(ascii: "{") else { return false }
        return UInt64(littleEndian: beginning.loadUnaligned(as: UInt64.self)) <= UInt64(maxHeaderBytes)
    }

    private struct Reason: Error {
        let text: String
        /// False for a valid file that is not read all the same.
        var isFault = true
    }

    private static func metadata(_ value: JSONValue) throws -> [(String, String)] {
        guard let object = value.object else { throw Reason(text: "__metadata__ is \(value.kind), not an object") }
        return try object.map { key, value in
            guard let text = value.string else {
                throw Reason(text: "__metadata__ \"\(printable(key))\" is \(value.kind); only strings are allowed")
            }
            return (key, text)
        }
    }

    private static func tensor(_ name: String, _ value: JSONValue, dataStart: Int) throws -> TensorInfo {
        func invalid(_ reason: String) -> Reason { Reason(text: "tensor \"\(printable(name))\": \(reason)") }
        guard let fields = value.object else { throw invalid("is \(value.kind), not an object") }
        guard let typeName = fields["dtype"]?.string else { throw invalid("no \"dtype\" string") }
        guard let type = ElementType(rawValue: typeName) else {
            guard unsupportedTypes.contains(typeName) else {
                throw invalid("unknown dtype \"\(printable(typeName, limit: 40))\"")
            }
            throw Reason(
                text: "tensor \"\(printable(name))\" has dtype \(typeName), which is not read; convert the weights to "
                    + "bf16", isFault: false)
        }
        guard let shape = fields["shape"].flatMap(sizes) else { throw invalid("\"shape\" is not a list of sizes") }
        guard let offsets = fields["data_offsets"].flatMap(sizes), offsets.count == 2 else {
            throw invalid("\"data_offsets\" is not a list of two offsets")
        }
        guard let count = checkedProduct(shape + [type.byteCount]) else {
            throw invalid("shape \(shape) is larger than any file")
        }
        guard offsets[0] <= offsets[1], offsets[1] <= Int.max - dataStart else {
            throw invalid("offsets \(offsets[0])..<\(offsets[1]) are not a range")
        }
        guard offsets[1] - offsets[0] == count else {
            throw invalid(
                "\(typeName) \(shape) needs \(counted(count, "byte")), its offsets give \(offsets[1] - offsets[0])")
        }
        let range = dataStart + offsets[0]..<dataStart + offsets[1]
        return TensorInfo(name: name, elementType: type, shape: shape, byteRange: range)
    }

    /// Non-negative whole numbers spelled with digits only (`-0` and `1e3` are not sizes).
    private static func sizes(_ value: JSONValue) -> [Int]? {
        guard let items = value.array else { return nil }
        let sizes = items.compactMap { $0.number.flatMap { $0.literal.utf8.first == UInt8(ascii: "-") ? nil : $0.int } }
        return sizes.count == items.count ? sizes : nil
    }

    private func checkLayout(_ data: Range<Int>) throws {
        var end = data.lowerBound
        for tensor in tensors {
            if tensor.byteRange.lowerBound != end {
                let overlaps = tensor.byteRange.lowerBound < end
                let fault = overlaps ? "overlaps the tensor before it" : "leaves a hole before it"
                throw Reason(text: "tensor \"\(printable(tensor.name))\" \(fault)")
            }
            end = tensor.byteRange.upperBound
        }
        if end > data.upperBound {
            throw Reason(
                text: "\(counted(end - data.upperBound, "byte")) missing at the end; copy or download it again")
        }
        if end < data.upperBound {
            throw Reason(text: "\(counted(data.upperBound - end, "byte")) after the last tensor")
        }
    }
}
