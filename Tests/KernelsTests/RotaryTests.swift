// Rotary positions: every level against the f64 twin, the twin against complex multiplication, and backwards.
internal import Foundation
internal import Kernels
internal import Testing

private typealias RotaryKernel<T, W> = (
    Int64, Int64, Int64, UnsafeMutablePointer<T>?, Int64, Int64, UnsafeMutablePointer<T>?, Int64, Int64,
    UnsafePointer<W>?, UnsafePointer<W>?, UnsafePointer<Int64>?, Int32, nt_parallel?
) -> Void

private struct Case: CustomTestStringConvertible {
    var tokens: Int, heads: Int, kvHeads: Int, width: Int, rotary: Int
    var testDescription: String { "\(tokens) x \(heads)/\(kvHeads) x \(rotary) of \(width)" }
    var q: [Double] { noise(tokens * heads * width, 1) }
    var k: [Double] { noise(tokens * kvHeads * width, 2) }
    /// Positions in no order, as documents in a row have them.
    var positions: [Int64] { (0..<tokens).map { Int64($0 * 5 % 11) } }
    func table(_ function: (Double) -> Double) -> [Double] {
        (0..<11 * rotary / 2).map { i in
            let pair = i % (rotary / 2), position = i / (rotary / 2)
            return function(Double(position) * pow(100, -2 * Double(pair) / Double(rotary)))
        }
    }
}

/// q then k, rotated in place by `T`'s kernel.
private func run<T: Element, W: Element, R: Element>(
    _ kernel: RotaryKernel<T, W>, _ c: Case, inputs _: R.Type, signs: [Int32] = [1], parallel: nt_parallel? = nil
) -> [Double] {
    let qWidth = c.heads * c.width, kWidth = c.kvHeads * c.width, stride = qWidth + kWidth + 3
    var q: [T] = strided(rounded(c.q, to: R.self), width: qWidth, stride: stride)
    var k: [T] = strided(rounded(c.k, to: R.self), width: kWidth, stride: stride)
    let cosine: [W] = stored(rounded(c.table(cos), to: Float.self)),
        sine: [W] = stored(rounded(c.table(sin), to: Float.self))
    for sign in signs {
        kernel(
            Int64(c.tokens), Int64(c.width), Int64(c.rotary), &q, Int64(stride), Int64(c.heads), &k, Int64(stride),
            Int64(c.kvHeads), cosine, sine, c.positions, sign, parallel)
    }
    return rows(q, width: qWidth, stride: stride) + (kWidth > 0 ? rows(k, width: kWidth, stride: stride) : [])
}

private let cases = [
    Case(tokens: 1, heads: 1, kvHeads: 0, width: 2, rotary: 2),
    Case(tokens: 13, heads: 3, kvHeads: 1, width: 64, rotary: 64),
    Case(tokens: 7, heads: 2, kvHeads: 2, width: 70, rotary: 38),
    Case(tokens: 500, heads: 9, kvHeads: 3, width: 8, rotary: 6),
]

extension KernelSuite {
    @Suite struct RotaryTests {
        @Test(arguments: cases) fileprivate func everyLevel(_ c: Case) {
            for sign: Int32 in [1, -1] {
                let singleTwin = run(nt_rotary_f64, c, inputs: Float.self, signs: [sign])
                let halfTwin = run(nt_rotary_f64, c, inputs: UInt16.self, signs: [sign])
                atEachLevel { level in
                    let single = run(nt_rotary_f32, c, inputs: Float.self, signs: [sign], parallel: twoThreads)
                    let half = run(nt_rotary_bf16, c, inputs: UInt16.self, signs: [sign], parallel: twoThreads)
                    let (f32, bf16) = (distance(single, singleTwin), distance(half, halfTwin))
                    #expect(f32 < 1e-6 && bf16 < 0x1p-8, "level \(level), sign \(sign): \(f32), \(bf16)")
                }
            }
        }

        /// The twin is (x1 + i x2) e^(i angle), the rest of the head untouched; sign -1 is its transpose and inverse.
        @Test(arguments: cases) fileprivate func definition(_ c: Case) {
            let found = run(nt_rotary_f64, c, inputs: Double.self), half = c.rotary / 2
            let x = c.q + c.k
            var expected = x
            for head in 0..<x.count / c.width {
                let token = head < c.tokens * c.heads ? head / c.heads : (head - c.tokens * c.heads) / c.kvHeads
                for i in 0..<half {
                    let angle = Double(c.positions[token]) * pow(100, -2 * Double(i) / Double(c.rotary))
                    let x1 = x[head * c.width + i], x2 = x[head * c.width + i + half]
                    expected[head * c.width + i] = x1 * cos(angle) - x2 * sin(angle)
                    expected[head * c.width + i + half] = x2 * cos(angle) + x1 * sin(angle)
                }
            }
            #expect(distance(found, expected) < 1e-6)  // the tables are f32
            #expect(distance(run(nt_rotary_f64, c, inputs: Double.self, signs: [1, -1]), x) < 1e-6)
        }
    }
}
