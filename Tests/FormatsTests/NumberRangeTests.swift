// What a type can hold is what its rounding keeps finite, and the words in which the rest is refused.
import Formats
import Testing

@Suite struct NumberRangeTests {
    private func refusal<Number: BinaryFloatingPoint>(_ range: NumberRange, _ values: [Number]) -> String? {
        do {
            try values.withUnsafeBufferPointer { try range.check($0, of: "w") }
            return nil
        } catch { return "\(error)" }
    }

    /// The last number of a type and the first that rounds to infinity, asked of the rounding itself.
    @Test(arguments: [(.f16, 65_520), (.bf16, 0x1.FFp127)] as [(ElementType, Float)]) func theBoundIsTheRoundings(
        _ type: ElementType, _ first: Float
    ) {
        let round = { (value: Float) in
            type == .f16 ? floatFromF16(f16FromFloat(value)) : floatFromBF16(bf16FromFloat(value))
        }
        #expect(round(first).isInfinite && round(first.nextDown).isFinite)
        for sign in [Float(1), -1] {
            #expect(refusal(NumberRange(type), [0, sign * first.nextDown]) == nil)
            #expect(refusal(NumberRange(type), [0, sign * first]) != nil)
        }
    }

    @Test func doublesAreHeldToTheirRoundingToFloat() {
        let first = 0x1.FF_FFFFp127
        #expect(Float(first).isInfinite && Float(first.nextDown).isFinite)
        #expect(refusal(NumberRange(ElementType.f32), [first.nextDown]) == nil)
        #expect(refusal(NumberRange(ElementType.f32), [first]) != nil)
        #expect(refusal(NumberRange(ElementType.f32), [Float.greatestFiniteMagnitude]) == nil)
    }

    @Test(arguments: GGMLType.writable) func whatIsNoNumberFitsNowhere(_ type: GGMLType) {
        for bad in [Float.nan, .infinity, -.infinity] {
            let words = "tensor w holds the number \(bad); weights must be finite"
            #expect(refusal(NumberRange(type), [1, bad, 2]) == words)
        }
        #expect(refusal(NumberRange(type), [-65_504, 1e-30 as Float]) == nil)
    }

    @Test func allWritersSayTheSame() {
        #expect(
            refusal(NumberRange(ElementType.f16), [1, Float(1e30)])
                == "tensor w holds the number 1e+30, which F16 cannot; write bf16 or f32")
        #expect(
            refusal(NumberRange(GGMLType.f16), [Float(1e30)])
                == "tensor w holds the number 1e+30, which F16 cannot; write bf16 or f32")
        #expect(
            refusal(NumberRange(GGMLType.q8_0), [Float(1e30)])
                == "tensor w holds the number 1e+30, which Q8_0 cannot; write bf16 or f32")
        #expect(
            refusal(NumberRange(GGMLType.bf16), [Float(-3.4e38)])
                == "tensor w holds the number -3.4e+38, which BF16 cannot; write f32")
    }
}
