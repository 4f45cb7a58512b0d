// Golden files and the formula that fills tensors on both sides.
public import Formats
public import Tensors

/// Reads Fixtures/`name` beside the test file.
public func golden(_ name: String, besideFile file: String) throws -> JSONValue {
    try readJSONFile(joinPath(parentFolder(of: file), "Fixtures/\(name)"))
}

extension JSONValue {
    /// Numbers of nested lists in row-major order.
    public var flatNumbers: [Double] { array?.flatMap(\.flatNumbers) ?? [double!] }
    public var ints: [Int] { array!.map { $0.int! } }
}

/// Tensor number `index` of a golden case: the integer formula of `make_goldens.py`, equal to it bit for bit.
public func filled(_ shape: [Int], _ index: Int, scale: Double, offset: Double = 0) -> Tensor {
    let count = shape.reduce(1, *)
    let values = (0..<count).map { i -> Float in
        var x = UInt32(truncatingIfNeeded: i + 1_000_003 * index) &* 0x9E37_79B1
        x ^= x >> 15
        x = x &* 0x85EB_CA77
        x ^= x >> 13
        return Float((Double(x) / 0x1p32 - 0.5) * scale + offset)
    }
    return Tensor(values, shape)
}
