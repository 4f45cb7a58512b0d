// Half-width floats to and from 32 bits, by bits: the same results on every machine.

/// The value of an IEEE half-precision number, exact; NaN stays NaN with its payload.
@inlinable
public func floatFromF16(_ bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) << 16, magnitude = UInt32(bits & 0x7FFF)
    // All three are computed and one is chosen, which the compiler turns into vector code.
    let special = (magnitude << 13) &+ (224 << 23)  // infinity and NaN
    let normal = (magnitude << 13) &+ (112 << 23)  // the exponent's bias is 127 instead of 15
    let subnormal = (Float(Int32(bitPattern: magnitude)) * 0x1p-24).bitPattern  // a count of 2^-24, exact in 32 bits
    return Float(bitPattern: sign | (magnitude >= 0x7C00 ? special : magnitude >= 0x0400 ? normal : subnormal))
}

/// The value of a bfloat16, exact.
@inlinable
public func floatFromBF16(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }

/// The nearest half-precision number, ties to even; too large becomes infinity; NaN stays NaN (quiet).
@inlinable
public func f16FromFloat(_ value: Float) -> UInt16 {
    let bits = value.bitPattern, sign = UInt16(truncatingIfNeeded: bits >> 16) & 0x8000
    let magnitude = bits & 0x7FFF_FFFF
    if magnitude > 0x7F80_0000 { return sign | 0x7E00 | UInt16(truncatingIfNeeded: magnitude >> 13) & 0x3FF }
    if magnitude >= 0x477F_F000 { return sign | 0x7C00 }  // 65520 and above round to infinity
    if magnitude >= 0x3880_0000 {  // 2^-14: normal; rounding may carry into the exponent, which is right
        let rounded = magnitude - (112 << 23) + 0xFFF + (magnitude >> 13 & 1)
        return sign | UInt16(truncatingIfNeeded: rounded >> 13)
    }
    // Subnormal: adding 0.5 (whose last place is 2^-24) makes the processor round to a multiple of 2^-24.
    let shifted = (Float(bitPattern: magnitude) + 0.5).bitPattern
    return sign | UInt16(truncatingIfNeeded: shifted - Float(0.5).bitPattern)
}

/// The nearest bfloat16, ties to even; NaN stays NaN (quiet).
@inlinable
public func bf16FromFloat(_ value: Float) -> UInt16 {
    let bits = value.bitPattern
    if bits & 0x7FFF_FFFF > 0x7F80_0000 { return UInt16(truncatingIfNeeded: bits >> 16) | 0x40 }
    return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
}

/// Converts `count` little-endian half-precision numbers at `source` (any alignment).
public func convertF16ToF32(_ source: UnsafeRawPointer, _ destination: UnsafeMutablePointer<Float>, count: Int) {
    for i in 0..<count { destination[i] = floatFromF16(source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)) }
}

public func convertBF16ToF32(_ source: UnsafeRawPointer, _ destination: UnsafeMutablePointer<Float>, count: Int) {
    for i in 0..<count { destination[i] = floatFromBF16(source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)) }
}

/// Converts `count` floating-point numbers of a type at `source` (any alignment); F64 is rounded.
///
/// - Precondition: `type.isFloatingPoint`
public func convertToF32(
    _ type: ElementType, _ source: UnsafeRawPointer, _ destination: UnsafeMutablePointer<Float>, count: Int
) {
    switch type {
    case .f32: UnsafeMutableRawPointer(destination).copyMemory(from: source, byteCount: 4 * count)
    case .f16: convertF16ToF32(source, destination, count: count)
    case .bf16: convertBF16ToF32(source, destination, count: count)
    case .f64:
        for i in 0..<count {
            destination[i] = Float(source.loadUnaligned(fromByteOffset: 8 * i, as: Double.self))
        }
    default: preconditionFailure("\(type) is no floating-point type")
    }
}

/// Floating-point numbers of a type in fp32.
public func floats32(_ type: ElementType, _ bytes: UnsafeRawBufferPointer) -> [Float] {
    let count = bytes.count / type.byteCount
    return [Float](unsafeUninitializedCapacity: count) { values, initialized in
        if count > 0 { convertToF32(type, bytes.baseAddress!, values.baseAddress!, count: count) }
        initialized = count
    }
}

public func convertF32ToF16(_ source: UnsafePointer<Float>, _ destination: UnsafeMutableRawPointer, count: Int) {
    for i in 0..<count { destination.storeBytes(of: f16FromFloat(source[i]), toByteOffset: 2 * i, as: UInt16.self) }
}

public func convertF32ToBF16(_ source: UnsafePointer<Float>, _ destination: UnsafeMutableRawPointer, count: Int) {
    for i in 0..<count { destination.storeBytes(of: bf16FromFloat(source[i]), toByteOffset: 2 * i, as: UInt16.self) }
}
