// Which numbers a type of stored weights can hold: every writer asks before it rounds, so that all refuse in the same words.
import Diagnostics

/// The numbers that stay finite in a type.
public struct NumberRange: Sendable {
    private let type: String
    /// The types to write instead.
    private let wider: String
    /// Numbers from here on are rounded to infinity: halfway between the largest and the power of two above it.
    @usableFromInline let bound: Double

    private init(_ type: String, _ wider: String, _ bound: Double) {
        (self.type, self.wider, self.bound) = (type, wider, bound)
    }

    public init(_ type: GGMLType) {
        switch type {
        case .f32: self.init(ElementType.f32)
        case .bf16: self.init(ElementType.bf16)
        // The scales of blocks are half-precision numbers.
        default: self.init(type.name, "bf16 or f32", 65_520)
        }
    }

    public init(_ type: ElementType) {
        switch type {
        case .f16: self.init(type.rawValue, "bf16 or f32", 65_520)
        case .bf16: self.init(type.rawValue, "f32", 0x1.FFp127)
        case .f32: self.init(type.rawValue, "f64", 0x1.FF_FFFFp127)
        default: self.init(type.rawValue, "f64", .infinity)
        }
    }

    /// - Throws: `UserError` naming the tensor and its first number that the type cannot hold; infinities and what is no
    ///   number are refused for every type.
    @inlinable
    public func check<Number: BinaryFloatingPoint>(_ values: UnsafeBufferPointer<Number>, of tensor: String) throws {
        let bound = Number(self.bound)  // infinity where the numbers are no wider than the type
        guard let bad = values.first(where: { !($0.magnitude < bound) }) else { return }
        try refuse("\(bad)", isFinite: bad.isFinite, tensor)
    }

    @usableFromInline
    func refuse(_ number: String, isFinite: Bool, _ tensor: String) throws {
        let reason = isFinite ? ", which \(type) cannot; write \(wider)" : "; weights must be finite"
        throw UserError("tensor \(tensor) holds the number \(number)\(reason)")
    }
}
