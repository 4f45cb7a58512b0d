// Rotary positions against the definition.
// E head dimension
import Glibc
import Layers
import Tensors
import TestSupport
import Testing

@Suite struct RotaryTests {
    private func angles(_ rope: RotaryEmbedding, at position: Int, _ half: Int) -> [Double] {
        let rotation = rope.rotation(at: Tensor([Int64(position)]), below: position + 1)
        let row = { (table: Tensor) in table.narrow(0, position, 1).contiguous().values(Double.self) }
        let cos = row(rotation.cos), sin = row(rotation.sin)
        #expect(cos.count == half)
        return (0..<half).map { atan2(sin[$0], cos[$0]) }
    }

    @Test func frequenciesFollowTheFormula() {
        let E = 8, rope = RotaryEmbedding(width: E, theta: 10_000, scaling: .none, on: .cpu)
        for (i, angle) in angles(rope, at: 3, E / 2).enumerated() {
            let expected = 3 * pow(10_000, -2 * Double(i) / Double(E))
            #expect(abs(angle - expected) < 1e-6)
        }
    }

    @Test func linearScalingStretchesPositions() {
        let plain = RotaryEmbedding(width: 8, theta: 10_000, scaling: .none, on: .cpu)
        let scaled = RotaryEmbedding(width: 8, theta: 10_000, scaling: .linear(factor: 4), on: .cpu)
        for (a, b) in zip(angles(scaled, at: 12, 4), angles(plain, at: 3, 4)) { #expect(abs(a - b) < 1e-6) }
    }

    /// Wavelengths 6.28, 62.8, 628, 6283 with an original context of 64: kept, blended, divided, divided.
    @Test func llama3ScalesByWavelength() {
        let scaling = RotaryScaling.llama3(
            factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 64)
        let rope = RotaryEmbedding(width: 8, theta: 10_000, scaling: scaling, on: .cpu)
        let found = angles(rope, at: 1, 4)
        let smooth = (64 / (2 * Double.pi / 0.1) - 1) / 3
        let expected = [1, (1 - smooth) * 0.1 / 8 + smooth * 0.1, 0.01 / 8, 0.001 / 8]
        for (a, b) in zip(found, expected) { #expect(abs(a - b) < 1e-6) }
    }

    /// Rotation leaves lengths alone, and products of rotated vectors depend on the distance only.
    @Test func onlyTheDistanceCounts() {
        let rope = RotaryEmbedding(width: 6, theta: 100, scaling: .none, on: .cpu)
        let q = normal64([1, 1, 6], seed: 1), k = normal64([1, 1, 6], seed: 2)
        func rotated(_ x: Tensor, _ position: Int) -> Tensor {
            rope.rotation(at: Tensor([Int64(position)]), below: position + 1)(x, x).k
        }
        func product(_ i: Int, _ j: Int) -> Double { (rotated(q, i) * rotated(k, j)).sum().item }
        #expect(abs(product(7, 4) - product(23, 20)) < 1e-5)
        #expect(abs(product(7, 4) - product(7, 5)) > 1e-2)
        #expect(abs(rotated(q, 9).pow(2).sum().item - q.pow(2).sum().item) < 1e-6)
        #expect(relativeDifference(rotated(q, 0), q) < 1e-12)
    }

    /// The table grows as positions come; rows made before and after agree.
    @Test func growingChangesNothing() {
        let rope = RotaryEmbedding(width: 4, theta: 10_000, scaling: .none, on: .cpu)
        let first = rope.rotation(at: .arange(0..<5), below: 5).sin.values(Float.self)
        let all = rope.rotation(at: .arange(0..<300), below: 300).sin.values(Float.self)
        #expect(Array(all[..<first.count]) == first && first.count >= 10)
        #expect(abs(Double(all[299 * 2]) - sin(299)) < 1e-5)
    }
}
