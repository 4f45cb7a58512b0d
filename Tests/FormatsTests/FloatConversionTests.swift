// Half-width floats: numpy's and gguf's rounding, and every half-precision number against the compiler's own.
import Formats
import Testing

@Suite struct FloatConversionTests {
    @Test func roundsLikeNumpyAndGGUF() throws {
        let rows = try readFile(fixture("halves.bin"))
        var checked = 0
        rows.withUnsafeBytes { rows in
            for at in stride(from: 0, to: rows.count, by: 8) {
                let bits = rows.loadUnaligned(fromByteOffset: at, as: UInt32.self), value = Float(bitPattern: bits)
                let f16 = rows.loadUnaligned(fromByteOffset: at + 4, as: UInt16.self)
                let bf16 = rows.loadUnaligned(fromByteOffset: at + 6, as: UInt16.self)
                #expect(f16FromFloat(value) == f16 && bf16FromFloat(value) == bf16, "\(String(bits, radix: 16))")
                checked += 1
            }
        }
        #expect(checked > 2000)
    }

    @Test func everyHalfSurvivesTheRoundTrip() {
        var wrong: [UInt16] = []
        for bits in UInt16.min...UInt16.max {
            let value = floatFromF16(bits)
            let same =
                value.isNaN
                ? Float16(bitPattern: bits).isNaN && Float16(bitPattern: f16FromFloat(value)).isNaN
                : value == Float(Float16(bitPattern: bits)) && f16FromFloat(value) == bits
            if !same { wrong.append(bits) }
        }
        #expect(wrong.isEmpty)
    }

    @Test func notANumberStaysSo() {
        for bits: UInt32 in [0x7FC0_0000, 0xFFC0_0001, 0x7F80_0001, 0xFFFF_FFFF, 0x7F80_2000] {
            let value = Float(bitPattern: bits)
            #expect(floatFromBF16(bf16FromFloat(value)).isNaN && floatFromF16(f16FromFloat(value)).isNaN)
            #expect(bf16FromFloat(value) >> 15 == UInt16(bits >> 31) && f16FromFloat(value) >> 15 == UInt16(bits >> 31))
        }
    }

    @Test func buffersNeedNoAlignment() {
        let values: [Float] = [1, -2.5, 0, 65504, .infinity]
        var bytes = [UInt8](repeating: 0, count: 11), back = [Float](repeating: 0, count: 5)
        bytes.withUnsafeMutableBytes { room in
            convertF32ToF16(values, room.baseAddress! + 1, count: 5)
            convertF16ToF32(room.baseAddress! + 1, &back, count: 5)
        }
        #expect(back == values)
        bytes.withUnsafeMutableBytes { room in
            convertF32ToBF16(values, room.baseAddress! + 1, count: 5)
            convertBF16ToF32(room.baseAddress! + 1, &back, count: 5)
        }
        #expect(back == [1, -2.5, 0, 65536, .infinity])
    }
}
