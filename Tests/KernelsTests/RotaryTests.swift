// Rotary positions: every level against the f64 twin, the twin against complex multiplication, and backwards.
internal import Foundation
internal import Kernels
internal import Testing

private typealias RotaryKernel<Side, W> = (
    Int64, Int64, Int64, Side, Side, UnsafePointer<W>?, UnsafePointer<W>?, UnsafePointer<Int64>?, Int32, nt_parallel?
) -> Void

/// What becomes of q or k, by element type.
private protocol Turned<T> {
    associatedtype T: Element
    init(x: UnsafePointer<T>!, x_stride: Int64, to: UnsafeMutablePointer<T>!, to_stride: Int64, heads: Int64)
}
extension nt_turned_bf16: Turned {}
extension nt_turned_f32: Turned {}
extension nt_turned_f64: Turned {}

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

/// q then k, turned by each of the signs in turn: at first to another place, then there.
private func run<Side: Turned, W: Element, R: Element>(
    _ kernel: RotaryKernel<Side, W>, _ c: Case, inputs _: R.Type, signs: [Int32] = [1], parallel: nt_parallel? = nil
) -> [Double] {
    let widths = (c.heads * c.width, c.kvHeads * c.width), stride = widths.0 + widths.1 + 3, S = Int64(stride)
    let q: [Side.T] = strided(rounded(c.q, to: R.self), width: widths.0, stride: stride)
    let k: [Side.T] = strided(rounded(c.k, to: R.self), width: widths.1, stride: stride)
    var toQ: [Side.T] = strided(c.q.map { _ in 0 }, width: widths.0, stride: stride + 2)
    var toK: [Side.T] = strided(c.k.map { _ in 0 }, width: widths.1, stride: stride + 2)
    let cosine: [W] = stored(rounded(c.table(cos), to: Float.self)),
        sine: [W] = stored(rounded(c.table(sin), to: Float.self))
    toQ.withUnsafeMutableBufferPointer { toQ in
        toK.withUnsafeMutableBufferPointer { toK in
            q.withUnsafeBufferPointer { q in
                k.withUnsafeBufferPointer { k in
                    for (i, sign) in signs.enumerated() {
                        let side = {
                            (x: UnsafeBufferPointer<Side.T>, to: UnsafeMutableBufferPointer<Side.T>, heads: Int) in
                            Side(
                                x: i == 0 ? x.baseAddress : UnsafePointer(to.baseAddress), x_stride: i == 0 ? S : S + 2,
                                to: to.baseAddress, to_stride: S + 2, heads: Int64(heads))
                        }
                        kernel(
                            Int64(c.tokens), Int64(c.width), Int64(c.rotary), side(q, toQ, c.heads),
                            side(k, toK, c.kvHeads), cosine, sine, c.positions, sign, parallel)
                    }
                }
            }
        }
    }
    return rows(toQ, width: widths.0, stride: stride + 2)
        + (widths.1 > 0 ? rows(toK, width: widths.1, stride: stride + 2) : [])
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
