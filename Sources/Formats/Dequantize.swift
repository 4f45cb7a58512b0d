// Blocks of quantised weights to 32-bit floats, bit-equal to the reference `dequantize` of the `gguf` package (where that
// has none, to ggml's own): the same operations in the same order, each rounded to 32 bits. Formats: ggml's
// `ggml-common.h`.
//
// In every block d (and m or dmin) are half-precision scales; q are the small integers.

typealias BlockDecoder = (_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) -> Void

/// - Parameters:
///   - count: blocks.
///   - destination: room for `count * type.block.elements` floats.
public func dequantizeBlocks(
    _ type: GGMLType, _ source: UnsafeRawPointer, count: Int, _ destination: UnsafeMutablePointer<Float>
) {
    switch type {
    case .f32: UnsafeMutableRawPointer(destination).copyMemory(from: source, byteCount: 4 * count)
    case .f16: convertF16ToF32(source, destination, count: count)
    case .bf16: convertBF16ToF32(source, destination, count: count)
    case .f64: convertNumbers(source, count, destination) { (value: UInt64) in Float(Double(bitPattern: value)) }
    case .i8: convertNumbers(source, count, destination) { (value: Int8) in Float(value) }
    case .i16: convertNumbers(source, count, destination) { (value: Int16) in Float(value) }
    case .i32: convertNumbers(source, count, destination) { (value: Int32) in Float(value) }
    case .i64: convertNumbers(source, count, destination) { (value: Int64) in Float(value) }
    case .q4_0: eachBlock(type, source, count, destination, decodeQ4_0)
    case .q4_1: eachBlock(type, source, count, destination, decodeQ4_1)
    case .q5_0: eachBlock(type, source, count, destination, decodeQ5_0)
    case .q5_1: eachBlock(type, source, count, destination, decodeQ5_1)
    case .q8_0: eachBlock(type, source, count, destination, decodeQ8_0)
    case .q8_1: eachBlock(type, source, count, destination, decodeQ8_1)
    case .q2_K: eachBlock(type, source, count, destination, decodeQ2_K)
    case .q3_K: eachBlock(type, source, count, destination, decodeQ3_K)
    case .q4_K: eachBlock(type, source, count, destination, decodeQ4_K)
    case .q5_K: eachBlock(type, source, count, destination, decodeQ5_K)
    case .q6_K: eachBlock(type, source, count, destination, decodeQ6_K)
    case .q8_K: eachBlock(type, source, count, destination, decodeQ8_K)
    case .iq2_xxs: eachBlock(type, source, count, destination, decodeIQ2_XXS)
    case .iq2_xs: eachBlock(type, source, count, destination, decodeIQ2_XS)
    case .iq2_s: eachBlock(type, source, count, destination, decodeIQ2_S)
    case .iq3_xxs: eachBlock(type, source, count, destination, decodeIQ3_XXS)
    case .iq3_s: eachBlock(type, source, count, destination, decodeIQ3_S)
    case .iq1_s: eachBlock(type, source, count, destination, decodeIQ1_S)
    case .iq1_m: eachBlock(type, source, count, destination, decodeIQ1_M)
    case .iq4_nl: eachBlock(type, source, count, destination, decodeIQ4_NL)
    case .iq4_xs: eachBlock(type, source, count, destination, decodeIQ4_XS)
    case .tq1_0: eachBlock(type, source, count, destination, decodeTQ1_0)
    case .tq2_0: eachBlock(type, source, count, destination, decodeTQ2_0)
    case .mxfp4: eachBlock(type, source, count, destination, decodeMXFP4)
    case .nvfp4: eachBlock(type, source, count, destination, decodeNVFP4)
    case .q1_0: eachBlock(type, source, count, destination, decodeQ1_0)
    case .q2_0: eachBlock(type, source, count, destination, decodeQ2_0)
    }
}

@inline(__always)
private func convertNumbers<Number: BitwiseCopyable>(
    _ source: UnsafeRawPointer, _ count: Int, _ destination: UnsafeMutablePointer<Float>, _ float: (Number) -> Float
) {
    for i in 0..<count {
        destination[i] = float(source.loadUnaligned(fromByteOffset: i * MemoryLayout<Number>.size, as: Number.self))
    }
}

@inline(__always)
private func eachBlock(
    _ type: GGMLType, _ source: UnsafeRawPointer, _ count: Int, _ destination: UnsafeMutablePointer<Float>,
    _ decode: BlockDecoder
) {
    let (elements, bytes) = type.block
    let blocks = source.assumingMemoryBound(to: UInt8.self)
    for i in 0..<count { decode(blocks + i * bytes, destination + i * elements) }
}

/// The half-precision scale at `offset` of a block.
@inline(__always)
func halfScale(_ block: UnsafePointer<UInt8>, _ offset: Int) -> Float {
    floatFromF16(UInt16(block[offset]) | UInt16(block[offset + 1]) << 8)
}

// MARK: Blocks of 32

/// d, then 16 bytes: low halves are elements 0..15, high halves 16..31. d (q - 8)
@inline(__always)
private func decodeQ4_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), q = block + 2
    for i in 0..<16 {
        out[i] = d * Float(Int32(q[i] & 0xF) - 8)
        out[i + 16] = d * Float(Int32(q[i] >> 4) - 8)
    }
}

/// d, m, then as Q4_0. d q + m
@inline(__always)
private func decodeQ4_1(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), m = halfScale(block, 2), q = block + 4
    for i in 0..<16 {
        out[i] = d * Float(Int32(q[i] & 0xF)) + m
        out[i + 16] = d * Float(Int32(q[i] >> 4)) + m
    }
}

/// The fifth bits of 32 elements.
@inline(__always)
private func highBits(_ block: UnsafePointer<UInt8>, _ offset: Int) -> UInt32 {
    UnsafeRawPointer(block).loadUnaligned(fromByteOffset: offset, as: UInt32.self)
}

/// d, 32 fifth bits, then as Q4_0. d (q - 16)
@inline(__always)
private func decodeQ5_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), high = highBits(block, 2), q = block + 6
    for i in 0..<16 {
        let low = UInt32(q[i] & 0xF) | (high >> UInt32(i) & 1) << 4
        let upper = UInt32(q[i] >> 4) | (high >> UInt32(i + 16) & 1) << 4
        out[i] = d * Float(Int32(low) - 16)
        out[i + 16] = d * Float(Int32(upper) - 16)
    }
}

/// d, m, 32 fifth bits, then as Q4_0. d q + m
@inline(__always)
private func decodeQ5_1(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), m = halfScale(block, 2), high = highBits(block, 4), q = block + 8
    for i in 0..<16 {
        let low = UInt32(q[i] & 0xF) | (high >> UInt32(i) & 1) << 4
        let upper = UInt32(q[i] >> 4) | (high >> UInt32(i + 16) & 1) << 4
        out[i] = d * Float(Int32(low)) + m
        out[i + 16] = d * Float(Int32(upper)) + m
    }
}

/// d, then 32 signed bytes. d q
@inline(__always)
private func decodeQ8_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), q = block + 2
    for i in 0..<32 { out[i] = d * Float(Int8(bitPattern: q[i])) }
}

/// d, the half-precision sum that products need, then 32 signed bytes. d q
@inline(__always)
private func decodeQ8_1(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), q = block + 4
    for i in 0..<32 { out[i] = d * Float(Int8(bitPattern: q[i])) }
}

// MARK: Blocks of 256

/// 16 bytes of scales (low half) and minima (high half), one for 16 elements; 64 bytes of 2-bit q; d; dmin.
/// (d scale) q - dmin min
@inline(__always)
private func decodeQ2_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let q = block + 16, d = halfScale(block, 80), dmin = halfScale(block, 82)
    for group in 0..<16 {
        let dl = d * Float(Int32(block[group] & 0xF)), ml = dmin * Float(Int32(block[group] >> 4))
        let from = q + 32 * (group / 8) + 16 * (group % 2), shift = UInt8(group / 2 % 4 * 2)
        for i in 0..<16 { out[16 * group + i] = dl * Float(Int32(from[i] >> shift & 3)) - ml }
    }
}

/// 32 bytes of third bits (clear means minus 4), 64 bytes of 2-bit q, 12 bytes of 6-bit scales for 16 elements each; d.
/// (d (scale - 32)) q
@inline(__always)
private func decodeQ3_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let q = block + 32, scales = block + 96, d = halfScale(block, 108)
    for group in 0..<16 {
        let low = group < 8 ? scales[group] & 0xF : scales[group - 8] >> 4
        let high = scales[8 + group % 4] >> UInt8(group / 4 * 2) & 3
        let dl = d * Float(Int32(low | high << 4) - 32)
        let half = 16 * (group % 2), from = q + 32 * (group / 8) + half, shift = UInt8(group / 2 % 4 * 2)
        let bit = UInt8(group / 2)
        for i in 0..<16 {
            let third = Int32(block[half + i] >> bit & 1)
            out[16 * group + i] = dl * Float(Int32(from[i] >> shift & 3) - (1 - third) * 4)
        }
    }
}

/// The 6-bit scale and minimum of 32 elements, of eight packed into 12 bytes.
@inline(__always)
func packedScale(_ scales: UnsafePointer<UInt8>, _ group: Int) -> (scale: Float, min: Float) {
    if group < 4 { return (Float(Int32(scales[group] & 0x3F)), Float(Int32(scales[group + 4] & 0x3F))) }
    let low = scales[group + 4]
    let scale = low & 0xF | scales[group - 4] >> 2 & 0x30, min = low >> 4 | scales[group] >> 2 & 0x30
    return (Float(Int32(scale)), Float(Int32(min)))
}

/// d, dmin, 12 bytes of scales and minima, 128 bytes of 4-bit q. (d scale) q - dmin min
@inline(__always)
private func decodeQ4_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), dmin = halfScale(block, 2), q = block + 16
    for group in 0..<8 {
        let packed = packedScale(block + 4, group)
        let dl = d * packed.scale, ml = dmin * packed.min
        let from = q + 32 * (group / 2), shift = UInt8(group % 2 * 4)
        for i in 0..<32 { out[32 * group + i] = dl * Float(Int32(from[i] >> shift & 0xF)) - ml }
    }
}

/// d, dmin, 12 bytes of scales and minima, 32 bytes of fifth bits, 128 bytes of 4-bit q. (d scale) q - dmin min
@inline(__always)
private func decodeQ5_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), dmin = halfScale(block, 2), high = block + 16, q = block + 48
    for group in 0..<8 {
        let packed = packedScale(block + 4, group)
        let dl = d * packed.scale, ml = dmin * packed.min
        let from = q + 32 * (group / 2), shift = UInt8(group % 2 * 4), bit = UInt8(group)
        for i in 0..<32 {
            let value = from[i] >> shift & 0xF | (high[i] >> bit & 1) << 4
            out[32 * group + i] = dl * Float(Int32(value)) - ml
        }
    }
}

/// 128 bytes of low halves, 64 bytes of upper 2 bits, 16 signed scales for 16 elements each, d. (d scale) (q - 32)
@inline(__always)
private func decodeQ6_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let low = block, high = block + 128, scales = block + 192, d = halfScale(block, 208)
    for group in 0..<16 {
        let dl = d * Float(Int8(bitPattern: scales[group]))
        let half = group / 8, part = group / 2 % 4, column = 16 * (group % 2)  // 8 parts of 32 in two halves
        let lowFrom = low + 64 * half + 32 * (part % 2) + column, lowShift = UInt8(part / 2 * 4)
        let highFrom = high + 32 * half + column, highShift = UInt8(part * 2)
        for i in 0..<16 {
            let value = lowFrom[i] >> lowShift & 0xF | (highFrom[i] >> highShift & 3) << 4
            out[16 * group + i] = dl * Float(Int32(value) - 32)
        }
    }
}

/// d in 32 bits, 256 signed bytes, 16 sums that products need. d q
@inline(__always)
private func decodeQ8_K(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = UnsafeRawPointer(block).loadUnaligned(as: Float.self), q = block + 4
    for i in 0..<256 { out[i] = d * Float(Int8(bitPattern: q[i])) }
}
