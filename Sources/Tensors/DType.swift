// Element types and devices as values.
internal import CTorch

/// The type of a tensor's elements.
public enum DType: Int32, Sendable, CaseIterable {
    case float32 = 0, float64, bfloat16, float16, int64, int32, int16, int8, uint8, bool

    /// Bytes of one element.
    public var byteCount: Int {
        switch self {
        case .float64, .int64: 8
        case .float32, .int32: 4
        case .bfloat16, .float16, .int16: 2
        case .int8, .uint8, .bool: 1
        }
    }

    public var isFloatingPoint: Bool { rawValue <= DType.float16.rawValue }
}

/// Where a tensor lives.
public enum Device: Sendable, Hashable, CustomStringConvertible {
    case cpu
    case cuda(Int)

    /// "cpu", "cuda", "cuda:1"; nil for anything else.
    public init?(_ name: String) {
        switch name {
        case "cpu": self = .cpu
        case "cuda": self = .cuda(0)
        default:
            guard name.hasPrefix("cuda:"), let index = Int(name.dropFirst(5)), index >= 0 else { return nil }
            self = .cuda(index)
        }
    }

    public var description: String {
        switch self {
        case .cpu: "cpu"
        case .cuda(let index): "cuda:\(index)"
        }
    }

    var handle: ct_device {
        switch self {
        case .cpu: ct_device(kind: 0, index: 0)
        case .cuda(let index): ct_device(kind: 1, index: Int32(index))
        }
    }

    init(_ handle: ct_device) { self = handle.kind == 0 ? .cpu : .cuda(Int(handle.index)) }
}
