// What the tests of kernels share: noise, element types, instruction sets, two threads, comparisons.
internal import Dispatch
internal import Kernels
internal import Testing

/// All suites of kernels, one test at a time: a test spreads over threads by itself. The instruction set limit is its thread's.
@Suite(.serialized) enum KernelSuite {}

/// An element type of kernels, seen as the f64 numbers it holds.
protocol Element: Equatable {
    init(rounding x: Double)
    var double: Double { get }
    /// Error allowed against the f64 twin, relative to the largest value.
    static var tolerance: Double { get }
}

extension Double: Element {
    init(rounding x: Double) { self = x }
    var double: Double { self }
    static var tolerance: Double { 1e-12 }
}

extension Float: Element {
    init(rounding x: Double) { self = Float(x) }
    var double: Double { Double(self) }
    static var tolerance: Double { 1e-5 }
}

/// bf16 as its bits.
extension UInt16: Element {
    init(rounding x: Double) {
        let bits = Float(x).bitPattern
        self = UInt16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
    }
    var double: Double { Double(Float(bitPattern: UInt32(self) << 16)) }
    static var tolerance: Double { 0x1p-7 }
}

/// Every level of this machine, the twin first. Those above are not run, which is said once.
let levels: [Int32] = {
    nt_set_isa_limit(.max)
    let names = ["scalar", "AVX2", "AVX512", "AVX512-BF16", "AMX-BF16"], ran = Int(nt_isa_level()) + 1
    let left = ran == names.count ? "" : "; this processor cannot run \(names[ran...].joined(separator: ", "))"
    print("Kernels are tested at the levels \(names[..<ran].joined(separator: ", "))\(left)")
    return Array(0..<Int32(ran))
}()

/// `body` at every level; afterwards the limit is off.
func atEachLevel(_ body: (Int32) throws -> Void) rethrows {
    defer { nt_set_isa_limit(.max) }
    for level in levels {
        nt_set_isa_limit(level)
        try body(level)
    }
}

func noise(_ count: Int, _ seed: UInt64, scale: Double = 2) -> [Double] {
    var state = seed &* 0x9E37_79B9_7F4A_7C15 &+ 1
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (Double(state >> 11) * 0x1p-53 - 0.5) * scale
    }
}

/// The numbers as `T` holds them.
func stored<T: Element>(_ x: [Double], as _: T.Type = T.self) -> [T] { x.map { T(rounding: $0) } }
func rounded<T: Element>(_ x: [Double], to _: T.Type) -> [Double] { x.map { T(rounding: $0).double } }

/// A matrix whose rows lie `stride` apart; what is between them is `filler`.
func strided<T: Element>(_ x: [Double], width: Int, stride: Int, filler: Double = 7) -> [T] {
    guard width > 0 else { return [] }
    var out = [T](repeating: T(rounding: filler), count: x.count / width * stride)
    for i in x.indices { out[i / width * stride + i % width] = T(rounding: x[i]) }
    return out
}

/// The rows of such a matrix; complains when something was written between them.
func rows<T: Element>(_ x: [T], width: Int, stride: Int, filler: Double = 7) -> [Double] {
    let between = x.indices.filter { $0 % stride >= width && x[$0] != T(rounding: filler) }
    #expect(between.isEmpty, "written between rows")
    return x.indices.filter { $0 % stride < width }.map { x[$0].double }
}

/// Largest |x - y|, relative to the largest |y| (1e-30 at least); infinite when one is not finite and the other is.
func distance(_ x: [Double], _ y: [Double]) -> Double {
    guard x.count == y.count else { return .infinity }
    let largest = y.reduce(1e-30) { max($0, abs($1)) }
    return zip(x, y).reduce(0) { worst, pair in
        let error = abs(pair.0 - pair.1) / largest
        return error.isNaN ? .infinity : max(worst, error)
    }
}

/// Central differences of `function` in every entry of `x`.
func numericGradient(_ x: [Double], step: Double = 1e-5, _ function: ([Double]) -> Double) -> [Double] {
    x.indices.map { i in
        var up = x, down = x
        up[i] += step
        down[i] -= step
        return (function(up) - function(down)) / (2 * step)
    }
}

func dot(_ x: [Double], _ y: [Double]) -> Double { zip(x, y).reduce(0) { $0 + $1.0 * $1.1 } }

/// A parallel loop on two threads, in uneven parts that do not heed the grain: no result may depend on it.
let twoThreads: nt_parallel = { count, _, body, context in
    nonisolated(unsafe) let context = context
    DispatchQueue.concurrentPerform(iterations: 2) { part in
        let range = part == 0 ? 0..<count / 3 : count / 3..<count
        if !range.isEmpty { body!(context, range.lowerBound, range.upperBound) }
    }
}

/// A parallel loop that does its parts one by one, the last first: what depends on their order shows.
let backwards: nt_parallel = { count, _, body, context in
    for i in stride(from: count - 1, through: 0, by: -1) { body!(context, i, i + 1) }
}
