// The two widths that merging works in, each with its kernels.
internal import Kernels

/// Float, or Double when an input is stored in 64 bits.
protocol MergeElement: BinaryFloatingPoint {
    static var kernels: MergeKernels<Self> { get }
    /// Cuts the bits of a magnitude, from the top, into digits for histograms.
    static var digits: [(shift: UInt32, bits: UInt32)] { get }
    static func read(_ reader: any TensorReader, _ range: Range<Int>, into destination: UnsafeMutablePointer<Self>)
        throws
    static func block(_ elements: UnsafeBufferPointer<Self>) -> MergedBlock
    /// The number whose bits are `key`.
    static func magnitude(_ key: UInt64) -> Self
}

/// The kernels of one width; formulas in `merge.h`.
struct MergeKernels<T> {
    typealias Pointers = UnsafePointer<UnsafePointer<T>?>
    typealias Reduction = (UnsafePointer<T>?, Int, UnsafeMutablePointer<Double>?) -> Void
    typealias Pairing =
        (UnsafePointer<T>?, UnsafePointer<T>?, Int, UnsafeMutablePointer<Double>?) -> Void
    typealias Binary =
        (UnsafePointer<T>?, UnsafePointer<T>?, Int, UnsafeMutablePointer<T>?) -> Void
    typealias Scalar = (UnsafeMutablePointer<T>?, Int, Double) -> Void

    let firstNonFinite: (UnsafePointer<T>?, Int) -> Int
    let absSum: Reduction
    let absMax: Reduction
    let dot: Pairing
    let gram2: Pairing
    let subtract: Binary
    let add: Binary
    let addProduct: Binary
    let scale: Scalar
    let divide: Scalar
    let combine: (Pointers?, UnsafePointer<Double>?, Int, Int, UnsafeMutablePointer<T>?) -> Void
    let absHistogram: (UnsafePointer<T>?, Int, UInt32, UInt32, UInt64, UnsafeMutablePointer<UInt64>?) -> Void
    let window: (UnsafeMutablePointer<T>?, Int, UnsafePointer<nt_window>?, UnsafeMutablePointer<UInt64>?) -> Void
    let mask: (UnsafeMutablePointer<T>?, UnsafePointer<T>?, Int) -> Void
    let keepRandom: (UnsafeMutablePointer<T>?, UnsafePointer<UInt32>?, Int, UInt32, Double) -> Void
    let keepByRank:
        (
            UnsafeMutablePointer<T>?, UnsafePointer<UInt32>?, Int, Double, Double, Int32, UnsafeMutablePointer<UInt64>?
        ) -> Void
    let consensus:
        (
            Pointers?, UnsafePointer<Double>?, Int, UnsafePointer<T>?, Int, UnsafePointer<nt_consensus>?,
            UnsafeMutablePointer<T>?
        ) -> Void
    let variance: (Pointers?, Int, Int, UnsafeMutablePointer<T>?) -> Void
    let nearswap: (UnsafePointer<T>?, UnsafePointer<T>?, Int, Double, UnsafeMutablePointer<T>?) -> Void
    let ramCounts: (Pointers?, Int, Int, Double, UnsafeMutablePointer<UInt64>?, UnsafeMutablePointer<UInt64>?) -> Void
    let ram:
        (
            Pointers?, UnsafePointer<Double>?, Int, UnsafePointer<T>?, Int, Double, UnsafeMutablePointer<T>?
        ) -> Void
    let softmaxDivergence: (UnsafePointer<T>?, UnsafePointer<T>?, Int, UnsafeMutablePointer<Double>?) -> Double
    let scaledDistance: (UnsafePointer<T>?, UnsafePointer<T>?, Int, Double, UnsafeMutablePointer<T>?) -> Void
    let choose:
        (
            UnsafePointer<T>?, Double, UnsafePointer<T>?, UnsafePointer<T>?, Int, UnsafeMutablePointer<T>?
        ) -> Void
}

extension Float: MergeElement {
    static var digits: [(shift: UInt32, bits: UInt32)] { [(15, 16), (0, 15)] }
    static func read(_ reader: any TensorReader, _ range: Range<Int>, into destination: UnsafeMutablePointer<Float>)
        throws
    {
        try reader.read(range, into: destination)
    }
    static func block(_ elements: UnsafeBufferPointer<Float>) -> MergedBlock { .float32(elements) }
    static func magnitude(_ key: UInt64) -> Float { Float(bitPattern: UInt32(key)) }
    static var kernels: MergeKernels<Float> {
        MergeKernels(
            firstNonFinite: nt_first_nonfinite_f32, absSum: nt_abs_sum_f32, absMax: nt_abs_max_f32, dot: nt_dot_f32,
            gram2: nt_gram2_f32, subtract: nt_subtract_f32, add: nt_add_f32, addProduct: nt_add_product_f32,
            scale: nt_scale_f32, divide: nt_divide_f32, combine: nt_combine_f32, absHistogram: nt_abs_histogram_f32,
            window: nt_window_f32, mask: nt_mask_f32, keepRandom: nt_keep_random_f32, keepByRank: nt_keep_by_rank_f32,
            consensus: nt_consensus_f32, variance: nt_variance_f32, nearswap: nt_nearswap_f32,
            ramCounts: nt_ram_counts_f32, ram: nt_ram_f32, softmaxDivergence: nt_softmax_divergence_f32,
            scaledDistance: nt_scaled_distance_f32, choose: nt_choose_f32)
    }
}

extension Double: MergeElement {
    static var digits: [(shift: UInt32, bits: UInt32)] { [(47, 16), (31, 16), (15, 16), (0, 15)] }
    static func read(_ reader: any TensorReader, _ range: Range<Int>, into destination: UnsafeMutablePointer<Double>)
        throws
    {
        try reader.read(range, into: destination)
    }
    static func block(_ elements: UnsafeBufferPointer<Double>) -> MergedBlock { .float64(elements) }
    static func magnitude(_ key: UInt64) -> Double { Double(bitPattern: key) }
    static var kernels: MergeKernels<Double> {
        MergeKernels(
            firstNonFinite: nt_first_nonfinite_f64, absSum: nt_abs_sum_f64, absMax: nt_abs_max_f64, dot: nt_dot_f64,
            gram2: nt_gram2_f64, subtract: nt_subtract_f64, add: nt_add_f64, addProduct: nt_add_product_f64,
            scale: nt_scale_f64, divide: nt_divide_f64, combine: nt_combine_f64, absHistogram: nt_abs_histogram_f64,
            window: nt_window_f64, mask: nt_mask_f64, keepRandom: nt_keep_random_f64, keepByRank: nt_keep_by_rank_f64,
            consensus: nt_consensus_f64, variance: nt_variance_f64, nearswap: nt_nearswap_f64,
            ramCounts: nt_ram_counts_f64, ram: nt_ram_f64, softmaxDivergence: nt_softmax_divergence_f64,
            scaledDistance: nt_scaled_distance_f64, choose: nt_choose_f64)
    }
}
