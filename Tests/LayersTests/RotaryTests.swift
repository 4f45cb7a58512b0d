// Rotary positions against the definition.
// E head dimension
import Glibc
import Layers
import Tensors
import TestSupport
import Testing

@Suite struct RotaryTests {
    /// - Parameter length: of the document.
    private func angles(_ rope: RotaryEmbedding, at position: Int, _ half: Int, length: Int = 1) -> [Double] {
        let tables = rope.tables(below: position + 1, kind: rope.kind(ofLength: length))
        let row = { (table: Tensor) in table.narrow(0, position, 1).contiguous().values(Double.self) }
        let cos = row(tables.cos), sin = row(tables.sin)
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
            let (cos, sin) = rope.tables(below: position + 1, kind: 0)
            return Rotation(cos: cos, sin: sin, positions: Tensor([Int64(position)]))(x, x).k
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
        let first = rope.tables(below: 5, kind: 0).sin.values(Float.self)
        let all = rope.tables(below: 300, kind: 0).sin.values(Float.self)
        #expect(Array(all[..<first.count]) == first && first.count >= 10)
        #expect(abs(Double(all[299 * 2]) - sin(299)) < 1e-5)
    }

    /// θ (4·24/16 - 3)^(8/6) = 10,000 · 3^(4/3) for 24 tokens where 16 were trained; up to 16 plain.
    @Test func dynamicScalingGrowsWithTheDocument() {
        let rope = RotaryEmbedding(width: 8, theta: 10_000, scaling: .dynamic(factor: 4, context: 16), on: .cpu)
        for (length, theta) in [(9, 1e4), (16, 1e4), (24, 1e4 * pow(3, 4 / 3.0)), (40, 1e4 * pow(7, 4 / 3.0))] {
            for (i, angle) in angles(rope, at: 1, 4, length: length).enumerated() {
                #expect(abs(angle - pow(theta, -2 * Double(i) / 8)) < 1e-6, "\(length)")
            }
        }
    }

    @Test func longRoPEHasFactorsForLongDocuments() {
        let scaling = RotaryScaling.longRoPE(.init(short: [1, 2], long: [4, 8], originalContext: 10, attention: 1.5))
        let rope = RotaryEmbedding(width: 4, theta: 100, scaling: scaling, on: .cpu)
        for (length, factors) in [(10, [1.0, 2.0]), (11, [4.0, 8.0]), (99, [4.0, 8.0])] {
            let found = angles(rope, at: 2, 2, length: length)
            for (i, angle) in found.enumerated() {
                #expect(abs(angle - 2 * pow(100, -Double(i) / 2) / factors[i]) < 1e-6, "\(length)")
            }
        }
        #expect(abs(rope.tables(below: 1, kind: 1).cos.values(Float.self)[0] - 1.5) < 1e-6)
    }

    /// Documents of several lengths in one row turn as each does alone, in more kinds than tables are kept.
    @Test func everyDocumentTurnsByItsOwnLength() {
        let rope = RotaryEmbedding(width: 4, theta: 100, scaling: .dynamic(factor: 2, context: 6), on: .cpu)
        let lengths = [5, 9, 6, 7] + Array(10...30), N = lengths.reduce(0, +)
        let starts = lengths.reduce(into: [0]) { $0.append($0.last! + $1) }
        let x = normal64([N, 1, 4], seed: 5).to(.float32)
        let together = rope.rotation(AttentionPlan(documentStarts: starts))(x, x).q
        for (start, length) in zip(starts, lengths) {
            let part = x.narrow(0, start, length), plan = AttentionPlan(documentStarts: [0, length])
            let alone = RotaryEmbedding(width: 4, theta: 100, scaling: .dynamic(factor: 2, context: 6), on: .cpu)
                .rotation(plan)(part, part).q
            #expect(relativeDifference(together.narrow(0, start, length), alone) < 1e-6, "\(length)")
        }
    }
}
