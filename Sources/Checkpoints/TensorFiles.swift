// Tensors from safetensors and back.
internal import Diagnostics
public import Formats
public import Tensors

extension DType {
    /// The dtype of a safetensors element type; nil for the unsigned ones LibTorch has no arithmetic for.
    public init?(_ type: ElementType) {
        switch type {
        case .f32: self = .float32
        case .f64: self = .float64
        case .bf16: self = .bfloat16
        case .f16: self = .float16
        case .i64: self = .int64
        case .i32: self = .int32
        case .i16: self = .int16
        case .i8: self = .int8
        case .u8: self = .uint8
        case .bool: self = .bool
        default: return nil
        }
    }

    public var elementType: ElementType {
        switch self {
        case .float32: .f32
        case .float64: .f64
        case .bfloat16: .bf16
        case .float16: .f16
        case .int64: .i64
        case .int32: .i32
        case .int16: .i16
        case .int8: .i8
        case .uint8: .u8
        case .bool: .bool
        }
    }
}

/// A copy of one tensor of a file.
public func tensor(_ info: TensorInfo, _ bytes: UnsafeRawBufferPointer, in path: String) throws -> Tensor {
    guard let dtype = DType(info.elementType) else {
        throw UserError("\(path): tensor \(info.name) has type \(info.elementType.rawValue), which is not supported")
    }
    return .copying(bytes, dtype: dtype, shape: info.shape)
}

extension SafetensorsFile {
    /// A copy of the named tensor.
    public func tensor(_ name: String) throws -> Tensor {
        guard let info = self[name] else { throw UserError("\(path): no tensor \(name)") }
        return try Checkpoints.tensor(info, bytes(of: name), in: path)
    }
}

extension SafetensorsWriter.Tensor {
    /// Writes `value` under `name`, converted to `dtype` if one is given, when its turn comes.
    public init(_ name: String, _ value: Tensor, _ dtype: DType? = nil) {
        let dtype = dtype ?? value.dtype
        self.init(name: name, elementType: dtype.elementType, shape: value.shape) { emit in
            try value.detached().stored(as: dtype, of: name).withBytes { try emit($0) }
        }
    }
}

extension Tensor {
    /// The numbers as the memory of a file holds them.
    ///
    /// - Throws: `UserError` naming the file's tensor `name` for a number that would be rounded to infinity.
    public func stored(as dtype: DType, of name: String) throws -> Tensor {
        if dtype != self.dtype, dtype == .float16 || dtype == .bfloat16 {
            let range = NumberRange(dtype.elementType)
            try to(.float32, .cpu).contiguous().withBytes {
                try range.check($0.bindMemory(to: Float.self), of: name)
            }
        }
        return to(dtype, .cpu).contiguous()
    }
}

/// What of a model's parameters a set of weights does not cover, in one line; nil when they match.
public func mismatch(parameters: [String], tensors: [String]) -> String? {
    let wanted = Set(parameters.map { ExactString($0) }), found = Set(tensors.map { ExactString($0) })
    func list(_ names: [String]) -> String {
        names.prefix(3).joined(separator: ", ") + (names.count > 3 ? " and \(names.count - 3) more" : "")
    }
    let missing = parameters.filter { !found.contains(ExactString($0)) }
    let unexpected = tensors.filter { !wanted.contains(ExactString($0)) }
    if missing.isEmpty && unexpected.isEmpty { return nil }
    return [
        missing.isEmpty ? nil : "missing \(list(missing))", unexpected.isEmpty ? nil : "unexpected \(list(unexpected))",
    ]
    .compactMap { $0 }.joined(separator: "; ")
}
