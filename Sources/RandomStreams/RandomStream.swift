// Random numbers as a pure function of (seed, stream, index): skipping costs nothing and nothing needs saving.
internal import Kernels

/// A counter-based generator (Philox4x32-10, Salmon et al. 2011). A value, not a state: the same index always gives the
/// same number, on any machine and in any order.
public struct RandomStream: Sendable, Equatable {
    public let seed: UInt64
    public let stream: UInt64

    public init(seed: UInt64, stream: UInt64) { (self.seed, self.stream) = (seed, stream) }

    /// A stream named by several numbers (layer, step, sample ...), mixed so that different lists give different streams.
    public init(seed: UInt64, _ parts: UInt64...) {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        for part in parts {
            // splitmix64's finalizer (Steele et al. 2014)
            state = (state ^ part) &+ 0x9E37_79B9_7F4A_7C15
            state = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
            state = (state ^ (state >> 27)) &* 0x94D0_49BB_1331_11EB
            state ^= state >> 31
        }
        self.init(seed: seed, stream: state)
    }

    /// 32-bit words `offset ..< offset + count`.
    public func words(_ count: Int, offset: UInt64 = 0) -> [UInt32] {
        [UInt32](unsafeUninitializedCapacity: count) { buffer, filled in
            nt_random_words(seed, stream, offset, buffer.baseAddress, count)
            filled = count
        }
    }

    /// Numbers in [0, 1) with 24 random bits.
    public func uniform(_ count: Int, offset: UInt64 = 0) -> [Float] {
        words(count, offset: offset).map { Float($0 >> 8) * 0x1p-24 }
    }
}

extension RandomStream {
    /// Writes words `offset ..< offset + count`, without an array of their own.
    public func fill(_ destination: UnsafeMutablePointer<UInt32>, count: Int, offset: UInt64 = 0) {
        nt_random_words(seed, stream, offset, destination, count)
    }
}
