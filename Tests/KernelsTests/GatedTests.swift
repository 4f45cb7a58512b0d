// SwiGLU, GeGLU and GELU: every level against the f64 twin, the twin against its formula and finite differences.
internal import Foundation
internal import Kernels
internal import Testing

private struct GatedKernels<T: Element> {
    typealias In = UnsafePointer<T>?
    typealias Out = UnsafeMutablePointer<T>?
    let forward: (nt_gate, Int64, Int64, In, Int64, In, Int64, Out, Int64, nt_parallel?) -> Void
    let backward: (nt_gate, Int64, Int64, In, Int64, In, Int64, In, Int64, Out, Int64, Out, Int64, nt_parallel?) -> Void
}
private var bf16: GatedKernels<UInt16> { GatedKernels(forward: nt_gated_bf16, backward: nt_gated_backward_bf16) }
private var f32: GatedKernels<Float> { GatedKernels(forward: nt_gated_f32, backward: nt_gated_backward_f32) }
private var f64: GatedKernels<Double> { GatedKernels(forward: nt_gated_f64, backward: nt_gated_backward_f64) }

/// h of forward; dgate, dup of backward. GELU has no up: it is not even given one, and dup is empty.
private func run<T: Element, R: Element>(
    _ kernels: GatedKernels<T>, _ kind: nt_gate, _ count: Int, _ width: Int, scale: Double, inputs _: R.Type,
    parallel: nt_parallel? = nil
) -> [[Double]] {
    let stride = 2 * width + 1, S = Int64(stride), D = Int64(width), N = Int64(count)
    let matrix = { (seed: UInt64, scale: Double) -> [T] in
        strided(rounded(noise(count * width, seed, scale: scale), to: R.self), width: width, stride: stride)
    }
    let gate = matrix(1, scale), dh = matrix(3, 2), up = kind == NT_GELU ? [] : matrix(2, 2)
    var h = dh, dgate = dh, dup = kind == NT_GELU ? [] : dh, overGate = gate, overUp = up
    if kind == NT_GELU {
        kernels.forward(kind, N, D, gate, S, nil, 0, &h, S, parallel)
        kernels.backward(kind, N, D, dh, S, gate, S, nil, 0, &dgate, S, nil, 0, parallel)
    } else {
        kernels.forward(kind, N, D, gate, S, up, S, &h, S, parallel)
        kernels.backward(kind, N, D, dh, S, gate, S, up, S, &dgate, S, &dup, S, parallel)
    }
    overGate.withUnsafeMutableBufferPointer { gate in
        overUp.withUnsafeMutableBufferPointer { up in
            let (g, u) = (gate.baseAddress, kind == NT_GELU ? nil : up.baseAddress)
            kernels.backward(kind, N, D, dh, S, g, S, u, S, g, S, u, S, parallel)
        }
    }
    let values = [h, dgate, dup].map { rows($0, width: width, stride: stride) }
    let same = [overGate, overUp].map { rows($0, width: width, stride: stride) } == Array(values[1...])
    #expect(same, "the gradients over gate and up, bit for bit")
    return values
}

extension KernelSuite {
    @Suite struct GatedTests {
        static let kinds = [NT_SWIGLU.rawValue, NT_GEGLU.rawValue, NT_GELU.rawValue]
        /// Kind, range of gate.
        static let inputs: [(UInt32, Double)] = [(0, 8), (0, 400), (1, 8), (1, 400), (2, 8), (2, 400)]
        static let sizes = [(1, 1), (3, 7), (5, 33), (2, 130), (70, 513)]

        /// Also far out, where the exponential over- and underflows.
        @Test(arguments: sizes, inputs)
        func everyLevel(_ size: (Int, Int), _ kind: (UInt32, Double)) {
            let (count, width) = size, (gate, scale) = (nt_gate(rawValue: kind.0), kind.1)
            let singleTwin = run(f64, gate, count, width, scale: scale, inputs: Float.self)
            let halfTwin = run(f64, gate, count, width, scale: scale, inputs: UInt16.self)
            atEachLevel { level in
                let single = run(f32, gate, count, width, scale: scale, inputs: Float.self, parallel: twoThreads)
                let half = run(bf16, gate, count, width, scale: scale, inputs: UInt16.self, parallel: twoThreads)
                for i in 0..<3 {
                    #expect(distance(single[i], singleTwin[i]) < 1e-5, "output \(i), level \(level)")
                    #expect(distance(half[i], halfTwin[i]) < 0x1p-8, "output \(i), level \(level)")
                }
            }
        }

        @Test(arguments: kinds) func definition(_ raw: UInt32) {
            let kind = nt_gate(rawValue: raw)
            let gate = noise(30, 1, scale: 8), dh = noise(30, 3)
            let up = kind == NT_GELU ? [Double](repeating: 1, count: 30) : noise(30, 2)
            let act = { (a: Double) -> Double in
                kind == NT_SWIGLU
                    ? a / (1 + exp(-a)) : a / 2 * (1 + tanh((2 / Double.pi).squareRoot() * (a + 0.044715 * a * a * a)))
            }
            let found = run(f64, kind, 1, 30, scale: 8, inputs: Double.self)
            #expect(distance(found[0], zip(gate, up).map { act($0) * $1 }) < 1e-14)
            let loss = { (gate: [Double], up: [Double]) in dot(dh, zip(gate, up).map { act($0) * $1 }) }
            #expect(distance(found[1], numericGradient(gate) { loss($0, up) }) < 1e-8)
            if kind == NT_GELU {
                #expect(found[2].isEmpty)
            } else {
                #expect(distance(found[2], numericGradient(up) { loss(gate, $0) }) < 1e-8)
            }
        }
    }
}
