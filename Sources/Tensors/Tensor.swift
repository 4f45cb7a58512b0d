// The tensor: a counted handle to LibTorch's, with dtype and device as values.
internal import CTorch

/// An array of numbers of one type on one device, with LibTorch's semantics (broadcasting, promotion, autograd).
///
/// Not `Sendable`: tensors, modules and optimizers stay on the thread that made them. Shapes that cannot meet stop the
/// program with the operands named, or throw at the end of `catchingEngineErrors`.
public final class Tensor {
    let handle: ct_tensor
    /// True after a failure inside an error scope: the value means nothing and is not looked at.
    var isPoison: Bool { handle.impl == nil }

    init(owning handle: ct_tensor) { self.handle = handle }
    deinit { ct_tensor_free(handle) }

    static var poison: Tensor { Tensor(owning: ct_tensor(impl: nil)) }

    /// Size along each dimension.
    public var shape: [Int] {
        if isPoison { return [] }
        return withExtendedLifetime(self) {
            withUnsafeTemporaryAllocation(of: Int64.self, capacity: 8) { sizes in
                var rank = 0
                let status = ct_shape(handle, sizes.baseAddress!, 8, &rank)
                guard status == CT_OK else {
                    engineFailed("shape", [], status)
                    return []
                }
                return sizes.prefix(rank).map { Int($0) }
            }
        }
    }

    public var rank: Int { shape.count }
    /// Number of elements.
    public var count: Int { shape.reduce(1, *) }
    public var dtype: DType {
        isPoison ? .float32 : withExtendedLifetime(self) { DType(rawValue: ct_tensor_dtype(handle))! }
    }
    public var device: Device { isPoison ? .cpu : withExtendedLifetime(self) { Device(ct_tensor_device(handle)) } }

    /// The sizes of a matrix; a tensor of another rank is a programmer's mistake.
    public var shape2: (Int, Int) {
        let s = sizes(2)
        return (s[0], s[1])
    }
    public var shape3: (Int, Int, Int) {
        let s = sizes(3)
        return (s[0], s[1], s[2])
    }
    public var shape4: (Int, Int, Int, Int) {
        let s = sizes(4)
        return (s[0], s[1], s[2], s[3])
    }

    private func sizes(_ rank: Int) -> [Int] {
        if isPoison { return Array(repeating: 0, count: rank) }
        let sizes = shape
        precondition(sizes.count == rank, "a tensor of rank \(rank) is needed here, not \(summary)")
        return sizes
    }

    /// "float32[2, 3]", with the device when it is not the CPU.
    public var summary: String {
        if isPoison { return "poison" }
        return "\(dtype)\(shape)" + (device == .cpu ? "" : "@\(device)")
    }
}

/// Runs one call of the shim that gives one tensor. The operands outlive the call; poison in gives poison out.
func perform(_ operation: String, _ operands: Tensor?..., call: (inout ct_tensor) -> ct_status) -> Tensor {
    perform(operation, operands.compactMap { $0 }, call: call)
}

func perform(_ operation: String, _ operands: [Tensor], call: (inout ct_tensor) -> ct_status) -> Tensor {
    withExtendedLifetime(operands) {
        if operands.contains(where: \.isPoison) { return .poison }
        var out = ct_tensor(impl: nil)
        let status = call(&out)
        if status != CT_OK { engineFailed(operation, operands, status) }
        return Tensor(owning: out)
    }
}

/// The same for calls without a result.
func performInPlace(_ operation: String, _ operands: [Tensor], call: () -> ct_status) {
    withExtendedLifetime(operands) {
        if operands.contains(where: \.isPoison) { return }
        let status = call()
        if status != CT_OK { engineFailed(operation, operands, status) }
    }
}

extension Tensor? {
    /// The handle, or the null handle; valid while `self` is.
    var handle: ct_tensor { self?.handle ?? ct_tensor(impl: nil) }
}

extension [Tensor] {
    /// The handles, valid while `self` is.
    var handles: [ct_tensor] { map(\.handle) }
}

extension [Int] {
    var int64: [Int64] { map { Int64($0) } }
}
