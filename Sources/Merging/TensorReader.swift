// What merging reads: tensors whose elements come block by block, so that memory does not grow with their size.
public import Formats

/// A tensor that is read in blocks of its row-major elements.
public protocol TensorReader {
    var shape: [Int] { get }
    /// How the elements are stored.
    var elementType: ElementType { get }
    /// Elements `range` as 32-bit floats: exact from F32, F16 and BF16, rounded once from F64.
    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws
    /// Elements `range` as 64-bit floats, exact from every floating-point type.
    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws
}

extension TensorReader {
    public var elementCount: Int { shape.reduce(1, *) }
}
