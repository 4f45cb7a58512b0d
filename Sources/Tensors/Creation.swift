// Tensors from plain memory and back.
internal import CTorch

/// A Swift type with the memory layout of a dtype.
public protocol TensorElement: BitwiseCopyable, Sendable {
    static var dtype: DType { get }
}
extension Float: TensorElement { public static var dtype: DType { .float32 } }
extension Double: TensorElement { public static var dtype: DType { .float64 } }
extension Int64: TensorElement { public static var dtype: DType { .int64 } }
extension Int32: TensorElement { public static var dtype: DType { .int32 } }
extension UInt8: TensorElement { public static var dtype: DType { .uint8 } }

extension Tensor {
    /// A copy of `values` in row-major order.
    /// - Precondition: `shape` has as many elements as `values`.
    public convenience init<Element: TensorElement>(
        _ values: [Element], _ shape: [Int]? = nil, on device: Device = .cpu
    ) {
        let shape = shape ?? [values.count]
        precondition(shape.reduce(1, *) == values.count, "\(values.count) values do not fill \(shape)")
        let tensor = values.withUnsafeBytes { Tensor.copying($0, dtype: Element.dtype, shape: shape, on: device) }
        self.init(owning: tensor.takeHandle())
    }

    /// Copies raw little-endian elements.
    public static func copying(_ bytes: UnsafeRawBufferPointer, dtype: DType, shape: [Int], on device: Device = .cpu)
        -> Tensor
    {
        precondition(
            shape.reduce(dtype.byteCount, *) == bytes.count, "\(bytes.count) bytes do not fill \(dtype)\(shape)")
        let tensor = perform("copying") {
            ct_from_bytes(bytes.baseAddress, shape.int64, shape.count, dtype.rawValue, &$0)
        }
        return device == .cpu ? tensor : tensor.to(device)
    }

    public static func full(_ shape: [Int], _ value: Double, _ dtype: DType = .float32, on device: Device = .cpu)
        -> Tensor
    {
        perform("full") { ct_full(shape.int64, shape.count, value, dtype.rawValue, device.handle, &$0) }
    }

    public static func zeros(_ shape: [Int], _ dtype: DType = .float32, on device: Device = .cpu) -> Tensor {
        full(shape, 0, dtype, on: device)
    }

    public static func ones(_ shape: [Int], _ dtype: DType = .float32, on device: Device = .cpu) -> Tensor {
        full(shape, 1, dtype, on: device)
    }

    /// Memory with no particular content.
    public static func empty(_ shape: [Int], _ dtype: DType = .float32, on device: Device = .cpu) -> Tensor {
        perform("empty") { ct_empty(shape.int64, shape.count, dtype.rawValue, device.handle, &$0) }
    }

    /// int64 `start ..< end`.
    public static func arange(_ range: Range<Int>, on device: Device = .cpu) -> Tensor {
        perform("arange") { ct_arange(Int64(range.lowerBound), Int64(range.upperBound), device.handle, &$0) }
    }

    /// The elements in row-major order, converted to `Element`'s dtype if they have another.
    public func values<Element: TensorElement>(_ type: Element.Type = Element.self) -> [Element] {
        let plain = detached().to(Element.dtype, .cpu).contiguous()
        return plain.withBytes { Array($0.bindMemory(to: Element.self)) }
    }

    /// The single element; waits for the device.
    public var item: Double {
        var value = 0.0
        performInPlace("item", [self]) { ct_item(handle, &value) }
        return value
    }

    /// Reads the memory of a contiguous CPU tensor.
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try withMutableBytes { try body(UnsafeRawBufferPointer($0)) }
    }

    /// Writes into the memory of a contiguous CPU tensor: for initialization and loading only.
    public func withMutableBytes<R>(_ body: (UnsafeMutableRawBufferPointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(self) {
            if isPoison { return try body(UnsafeMutableRawBufferPointer(start: nil, count: 0)) }
            var data: UnsafeMutableRawPointer?
            let status = ct_data(handle, &data)
            if status != CT_OK { engineFailed("withBytes", [self], status) }
            return try body(
                UnsafeMutableRawBufferPointer(start: data, count: data == nil ? 0 : count * dtype.byteCount))
        }
    }

    /// Hands the handle's reference to another owner.
    private func takeHandle() -> ct_tensor {
        withExtendedLifetime(self) {
            if isPoison { return ct_tensor(impl: nil) }
            // A second reference, since this object frees its own when it goes.
            var out = ct_tensor(impl: nil)
            let status = ct_detach(handle, &out)
            if status != CT_OK { engineFailed("init", [self], status) }
            return out
        }
    }
}
