// Blocks whose codes name points of a grid (IQ1, IQ2, IQ3), entries of a table (IQ4, MXFP4, NVFP4), or the three values
// -1, 0, 1 (TQ). As in Dequantize.swift every operation is rounded to 32 bits in the reference's order.
//
// In every block d is a half-precision scale unless said otherwise.

/// A table of `width` small numbers a code, never freed.
struct BlockGrid: @unchecked Sendable {  // written in init only
    private let points: UnsafePointer<Int8>
    private let width: Int

    /// - Parameter digits: hexadecimal, two digits a byte; a byte holds the places in `values` of 8 / `bits` numbers, the
    ///   first in its lowest bits.
    init(width: Int, bits: Int, values: [Int8], digits: StaticString) {
        let count = digits.utf8CodeUnitCount * 4 / bits
        let table = UnsafeMutablePointer<Int8>.allocate(capacity: count)
        func value(_ digit: UInt8) -> Int { Int(digit) - (digit < 58 ? 48 : 87) }
        let perByte = 8 / bits, mask = 1 << bits - 1
        for i in 0..<count {
            let at = digits.utf8Start + i / perByte * 2
            let byte = value(at[0]) << 4 | value(at[1])
            table[i] = values[byte >> (i % perByte * bits) & mask]
        }
        (points, self.width) = (UnsafePointer(table), width)
    }

    @inline(__always)
    subscript(code: Int) -> UnsafePointer<Int8> { points + code * width }
}

@inline(__always)
private func word(_ block: UnsafePointer<UInt8>, _ offset: Int) -> Int {
    Int(UnsafeRawPointer(block).loadUnaligned(fromByteOffset: offset, as: UInt16.self))
}

@inline(__always)
private func longWord(_ block: UnsafePointer<UInt8>, _ offset: Int) -> UInt32 {
    UnsafeRawPointer(block).loadUnaligned(fromByteOffset: offset, as: UInt32.self)
}

/// The low or high half of a byte.
@inline(__always)
private func nibble(_ bytes: UnsafePointer<UInt8>, _ index: Int) -> UInt8 {
    bytes[index / 2] >> UInt8(index % 2 * 4) & 0xF
}

/// Seven signs, and an eighth that makes the number of minus signs even.
@inline(__always)
private func evenSigns(_ seven: UInt32) -> UInt8 {
    let bits = UInt8(seven & 0x7F)
    return bits | UInt8(bits.nonzeroBitCount % 2) << 7
}

/// out = scale · points, minus where the bit of `signs` is set.
@inline(__always)
private func writeSigned(
    _ points: UnsafePointer<Int8>, _ count: Int, _ scale: Float, _ signs: UInt8, _ out: UnsafeMutablePointer<Float>
) {
    for i in 0..<count { out[i] = scale * Float(points[i]) * (signs >> UInt8(i) & 1 == 0 ? 1 : -1) }
}

// MARK: Grids of eight numbers

/// d; for 32 elements each four codes of 8 bits, then four times 7 signs and a 4-bit scale. (d (scale + ½) / 4) point
func decodeIQ2_XXS(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for group in 0..<8 {
        let codes = block + 2 + 8 * group, rest = longWord(codes, 4)
        let db = d * (0.5 + Float(rest >> 28)) * 0.25
        for i in 0..<4 {
            writeSigned(
                BlockGrid.iq2_xxs[Int(codes[i])], 8, db, evenSigns(rest >> UInt32(7 * i)), out + 32 * group + 8 * i)
        }
    }
}

/// d; 32 times a code of 9 bits and 7 signs; 16 scales of 4 bits. (d (scale + ½) / 4) point
func decodeIQ2_XS(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for i in 0..<32 {
        let code = word(block, 2 + 2 * i), db = d * (0.5 + Float(nibble(block + 66, i / 2))) * 0.25
        writeSigned(BlockGrid.iq2_xs[code & 511], 8, db, evenSigns(UInt32(code >> 9)), out + 8 * i)
    }
}

/// d; 32 low bytes of codes; 32 bytes of signs; 32 times 2 upper bits of codes; 16 scales of 4 bits.
/// (d (scale + ½) / 4) point
func decodeIQ2_S(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), high = block + 66
    for i in 0..<32 {
        let code = Int(block[2 + i]) | Int(high[i / 4] >> UInt8(i % 4 * 2) & 3) << 8
        let db = d * (0.5 + Float(nibble(block + 74, i / 2))) * 0.25
        writeSigned(BlockGrid.iq2_s[code], 8, db, block[34 + i], out + 8 * i)
    }
}

/// d; 32 low bytes of codes; for 32 elements each four times 3 upper bits, a 3-bit scale and the sign of the shift ⅛.
/// (d (2 scale + 1)) (point ± ⅛)
func decodeIQ1_S(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for group in 0..<8 {
        let high = word(block, 34 + 2 * group)
        let dl = d * Float(2 * (high >> 12 & 7) + 1), shift: Float = high & 0x8000 == 0 ? 0.125 : -0.125
        for i in 0..<4 {
            let code = Int(block[2 + 4 * group + i]) | (high >> (3 * i) & 7) << 8, points = BlockGrid.iq1_s[code]
            for j in 0..<8 { out[32 * group + 8 * i + j] = dl * (Float(points[j]) + shift) }
        }
    }
}

/// 32 low bytes of codes; 32 times 3 upper bits and the sign of the shift ⅛; 16 scales of 3 bits, in the upper quarters of
/// whose words lies d. (d (2 scale + 1)) (point ± ⅛)
func decodeIQ1_M(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let bits = (0..<4).reduce(0) { $0 | (word(block, 48 + 2 * $1) >> 12) << (4 * $1) }
    let d = floatFromF16(UInt16(bits)), high = block + 32
    for i in 0..<32 {
        let upper = Int(nibble(high, i)), points = BlockGrid.iq1_s[Int(block[i]) | (upper & 7) << 8]
        let dl = d * Float(2 * (word(block, 48 + i / 8 * 2) >> (i / 2 % 4 * 3) & 7) + 1)
        let shift: Float = upper & 8 == 0 ? 0.125 : -0.125
        for j in 0..<8 { out[8 * i + j] = dl * (Float(points[j]) + shift) }
    }
}

// MARK: Grids of four numbers

/// d; 64 codes of 8 bits; for 32 elements each four times 7 signs and a 4-bit scale. (d (scale + ½) / 2) point
func decodeIQ3_XXS(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for group in 0..<8 {
        let rest = longWord(block, 66 + 4 * group), db = d * (0.5 + Float(rest >> 28)) * 0.5
        for i in 0..<8 {
            let signs = evenSigns(rest >> UInt32(i / 2 * 7)) >> UInt8(i % 2 * 4)
            writeSigned(
                BlockGrid.iq3_xxs[Int(block[2 + 8 * group + i])], 4, db, signs, out + 32 * group + 4 * i)
        }
    }
}

/// d; 64 low bytes of codes; 64 ninth bits; 32 bytes of signs; 8 scales of 4 bits. (d (2 scale + 1)) point
func decodeIQ3_S(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), high = block + 66, signs = block + 74
    for i in 0..<64 {
        let code = Int(block[2 + i]) | Int(high[i / 8] >> UInt8(i % 8) & 1) << 8
        let db = d * Float(2 * Int(nibble(block + 106, i / 8)) + 1)
        writeSigned(BlockGrid.iq3_s[code], 4, db, nibble(signs, i), out + 4 * i)
    }
}

// MARK: Tables

private typealias Sixteen = (
    Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float, Float
)

/// The values of IQ4 codes: nearer to each other around zero.
private let iq4Values: Sixteen = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
/// Twice the numbers of 1 sign, 2 exponent and 1 fraction bit (E2M1).
private let fp4Values: Sixteen = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

/// `2 half` elements: the low halves of the bytes are the first, the high halves the others.
@inline(__always)
private func writeHalves(
    _ q: UnsafePointer<UInt8>, _ half: Int, _ scale: Float, _ table: Sixteen, _ out: UnsafeMutablePointer<Float>
) {
    withUnsafeBytes(of: table) { table in
        let table = table.assumingMemoryBound(to: Float.self)
        for i in 0..<half {
            out[i] = scale * table[Int(q[i] & 0xF)]
            out[i + half] = scale * table[Int(q[i] >> 4)]
        }
    }
}

/// d, 16 bytes of codes.
func decodeIQ4_NL(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    writeHalves(block + 2, 16, halfScale(block, 0), iq4Values, out)
}

/// d, 16 bits and then 32 of 6-bit scales (upper 2, lower 4) for 32 elements each; 128 bytes of codes.
/// (d (scale - 32)) value
func decodeIQ4_XS(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0), upper = word(block, 2)
    for group in 0..<8 {
        let scale = Int(nibble(block + 4, group)) | (upper >> (2 * group) & 3) << 4
        writeHalves(block + 8 + 16 * group, 16, d * Float(scale - 32), iq4Values, out + 32 * group)
    }
}

/// A byte e that means 2^(e - 128), halved because the table is doubled; 16 bytes of codes.
func decodeMXFP4(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let e = UInt32(block[0])
    let d = Float(bitPattern: e < 2 ? 0x0020_0000 << e : (e - 1) << 23)
    writeHalves(block + 1, 16, d, fp4Values, out)
}

/// Four scales of 4 exponent and 3 fraction bits for 16 elements each; 32 bytes of codes.
func decodeNVFP4(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    for group in 0..<4 { writeHalves(block + 4 + 8 * group, 8, halfOfE4M3(block[group]), fp4Values, out + 16 * group) }
}

/// Half of an unsigned number of 4 exponent (bias 7) and 3 fraction bits; the not-a-number counts as 0.
private func halfOfE4M3(_ bits: UInt8) -> Float {
    if bits == 0x7F { return 0 }
    let exponent = UInt32(bits >> 3 & 0xF), fraction = Float(bits & 7)
    if exponent == 0 { return fraction * 0x1p-10 }
    return (1 + fraction / 8) * Float(bitPattern: (exponent + 119) << 23)  // 2^(exponent - 8)
}

// MARK: Three values

/// 48 bytes of five digits to the base 3, 4 bytes of four, d. A byte is the digits as a fraction of 256: the first digit is
/// the whole part of three times it. Digits of 32 bytes go to 160 elements, those of 16 to 80, of 4 to 16. d (digit - 1)
func decodeTQ1_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 52)
    var at = 0
    for (from, count, digits) in [(0, 32, 5), (32, 16, 5), (48, 4, 4)] {
        var power: UInt8 = 1
        for _ in 0..<digits {
            for i in 0..<count { out[at + i] = d * Float((Int(block[from + i] &* power) * 3) >> 8 - 1) }
            power &*= 3
            at += count
        }
    }
}

/// 64 bytes of 2-bit q, d. d (q - 1)
func decodeTQ2_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 64)
    for part in 0..<8 {
        let from = block + 32 * (part / 4), shift = UInt8(part % 4 * 2)
        for i in 0..<32 { out[32 * part + i] = d * Float(Int32(from[i] >> shift & 3) - 1) }
    }
}

/// d, a bit an element: set is d, clear -d.
func decodeQ1_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for i in 0..<128 { out[i] = block[2 + i / 8] >> UInt8(i % 8) & 1 == 1 ? d : -d }
}

/// d, 2-bit q one after the other. (q - 1) d
func decodeQ2_0(_ block: UnsafePointer<UInt8>, _ out: UnsafeMutablePointer<Float>) {
    let d = halfScale(block, 0)
    for i in 0..<64 { out[i] = Float(Int32(block[2 + i / 4] >> UInt8(i % 4 * 2) & 3) - 1) * d }
}
