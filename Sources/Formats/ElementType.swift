// The element types of stored tensors and what is known of a tensor before its bytes are touched.

/// Type of the elements of a tensor in a safetensors file, spelled as there.
public enum ElementType: String, Sendable, CaseIterable {
    // In the order in which the reference implementation lays tensors out, from the end of the file to its beginning.
    case bool = "BOOL"
    case u8 = "U8"
    case i8 = "I8"
    case i16 = "I16"
    case u16 = "U16"
    case f16 = "F16"
    case bf16 = "BF16"
    case i32 = "I32"
    case u32 = "U32"
    case f32 = "F32"
    case f64 = "F64"
    case i64 = "I64"
    case u64 = "U64"

    /// Bytes of one element.
    public var byteCount: Int {
        switch self {
        case .bool, .u8, .i8: 1
        case .i16, .u16, .f16, .bf16: 2
        case .i32, .u32, .f32: 4
        case .f64, .i64, .u64: 8
        }
    }

    /// True for F64, F32, F16 and BF16.
    public var isFloatingPoint: Bool {
        switch self {
        case .f64, .f32, .f16, .bf16: true
        default: false
        }
    }

    /// Place in `allCases`: tensors are written in descending order of it.
    var layoutRank: Int { Self.allCases.firstIndex(of: self)! }
}

/// A tensor in a file.
public struct TensorInfo: Sendable, Equatable {
    public let name: String
    public let elementType: ElementType
    /// Row-major; empty for a scalar.
    public let shape: [Int]
    /// Where its bytes are in the file, little-endian; not necessarily aligned to the element.
    public let byteRange: Range<Int>

    public init(name: String, elementType: ElementType, shape: [Int], byteRange: Range<Int>) {
        (self.name, self.elementType, self.shape, self.byteRange) = (name, elementType, shape, byteRange)
    }

    public var elementCount: Int { shape.reduce(1, *) }

    public static func == (a: TensorInfo, b: TensorInfo) -> Bool {
        ExactString(a.name) == ExactString(b.name) && a.elementType == b.elementType && a.shape == b.shape
            && a.byteRange == b.byteRange
    }
}

/// The product of `factors`, nil when it does not fit or a factor is negative.
func checkedProduct(_ factors: some Sequence<Int>) -> Int? {
    var product = 1
    for factor in factors {
        if factor < 0 { return nil }
        let (next, overflow) = product.multipliedReportingOverflow(by: factor)
        if overflow { return nil }
        product = next
    }
    return product
}
