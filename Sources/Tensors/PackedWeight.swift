// Frozen matrices in few bits: NF4, bytes, and the blocks of files as they are.
// N rows of x, I inputs, O outputs
internal import CTorch
internal import Kernels

/// A frozen matrix `[O, I]` on the CPU whose rows are blocks of few bits a number; products decode a panel at a time.
public final class PackedWeight {
    /// How numbers are stored; the names are GGUF's, but for NF4.
    public enum Format: Int32, Sendable, CaseIterable {
        case bfloat16 = 1
        case q8_0 = 3
        case q4_0, q4_1, q4_K, q6_K
        /// 16 quantiles of a normal distribution, in blocks of 64 with scales of 8 bits (Dettmers et al. 2023,
        /// arXiv:2305.14314): 4.127 bits a number.
        case nf4 = 16
        case float16, q5_0, q5_1, q2_K, q3_K, q5_K
        // Decoded by whoever knows them (`teach`).
        case iq2_xxs = 64
        case iq2_xs, iq2_s, iq3_xxs, iq3_s, iq1_s, iq1_m, iq4_nl, iq4_xs, tq1_0, tq2_0, mxfp4, nvfp4, q1_0, q2_0, q8_1,
            q8_K

        /// Says how blocks of a taught format are decoded, before there is a weight of it.
        ///
        /// - Parameters:
        ///   - elements: of a block; a divisor of 512.
        ///   - decode: writes `elements` fp32 numbers for each of `count` neighbouring blocks of `bytes` bytes.
        public func teach(
            elements: Int, bytes: Int,
            _ decode: @convention(c) (_ blocks: UnsafeRawPointer?, _ count: Int64, UnsafeMutablePointer<Float>?) -> Void
        ) {
            precondition(rawValue >= NT_W_TAUGHT && 512 % elements == 0)
            nt_packed_teach(rawValue, Int64(elements), Int64(bytes), decode)
        }

        /// Bytes of `count` numbers of a row, scales included; a last block counts whole.
        public func bytes(ofRow count: Int) -> Int {
            precondition(nt_packed_block(rawValue) > 0, "\(self) was not taught")
            let blocks = Int(nt_packed_row_bytes(rawValue, Int64(count)))
            return self == .nf4 ? blocks + (count + Int(NT_NF4_BLOCK) - 1) / Int(NT_NF4_BLOCK) : blocks
        }
    }

    public let format: Format
    public let rows: Int, columns: Int
    private let data: Tensor  // u8 [O, bytes of a row]
    private let scales: Scales?

    /// NF4's scales in 8 bits: mean + step · code, a step for 256 codes.
    private struct Scales {
        let codes: Tensor  // i8, one a block
        let steps: Tensor  // fp32
        let mean: Float
    }

    /// Quantises a matrix `[O, I]` of any float dtype to NF4 or Q8_0.
    ///
    /// - Returns: nil when a number is not finite or, for Q8_0, beyond its largest scale (8.3 million).
    public init?(_ matrix: Tensor, as format: Quantised) {
        self.format = format == .nf4 ? .nf4 : .q8_0
        (rows, columns) = matrix.shape2
        let (O, I) = (Int64(rows), Int64(columns))
        let plain = withoutGradients { matrix.detached().to(.float32, .cpu).contiguous() }
        let most = plain.count == 0 ? 0 : plain.maxAbs().item
        guard most <= (format == .nf4 ? Double(Float.greatestFiniteMagnitude) : 127 * 65504) else { return nil }
        let data = Tensor.empty([rows, Int(nt_packed_row_bytes(self.format.rawValue, I))], .uint8)
        var magnitudes = [Float](
            repeating: 0, count: format == .nf4 ? rows * ((columns + Self.nf4Block - 1) / Self.nf4Block) : 0)
        plain.withBytes { source in
            let source = source.bindMemory(to: Float.self).baseAddress
            data.withMutableBytes { target in
                let target = target.bindMemory(to: UInt8.self).baseAddress
                switch format {
                case .nf4: nt_nf4_encode(O, I, source, target, &magnitudes, ct_parallel_for)
                case .int8: nt_q8_0_encode(O, I, source, target, ct_parallel_for)
                }
            }
        }
        self.data = data
        scales = format == .nf4 ? Self.scales(magnitudes) : nil
    }

    /// What weights are quantised to.
    public enum Quantised: Sendable { case nf4, int8 }

    /// Blocks as a file holds them, copied; nil unless they fill the matrix. Not for NF4, whose scales stand apart.
    public init?(_ format: Format, rows: Int, columns: Int, blocks: Tensor) {
        guard format != .nf4, columns % Int(nt_packed_block(format.rawValue)) == 0,
            blocks.shape == [rows, Int(nt_packed_row_bytes(format.rawValue, Int64(columns)))], blocks.dtype == .uint8
        else { return nil }
        (self.format, self.rows, self.columns) = (format, rows, columns)
        data = blocks.contiguous()
        scales = nil
    }

    /// Double quantisation (section 3 of the paper).
    private static func scales(_ magnitudes: [Float]) -> Scales {
        let codes = Tensor.empty([magnitudes.count], .int8)
        let steps = Tensor.empty([(magnitudes.count + Int(NT_NF4_SCALES) - 1) / Int(NT_NF4_SCALES)])
        var mean: Float = 0
        codes.withMutableBytes { codes in
            steps.withMutableBytes { steps in
                nt_nf4_encode_scales(
                    Int64(magnitudes.count), magnitudes, codes.bindMemory(to: Int8.self).baseAddress,
                    steps.bindMemory(to: Float.self).baseAddress, &mean)
            }
        }
        return Scales(codes: codes, steps: steps, mean: mean)
    }

    private static let nf4Block = Int(NT_NF4_BLOCK)

    /// Bytes of the matrix with its scales.
    public var byteCount: Int { tensors.reduce(0) { $0 + $1.count * $1.dtype.byteCount } }

    /// The numbers `[O, I]`: fp32, bf16 or fp64.
    public func decoded(in dtype: DType) -> Tensor { decoded(0..<rows, in: dtype) }

    /// Some of the rows: fp32, bf16 or fp64.
    public func decoded(_ range: Range<Int>, in dtype: DType) -> Tensor {
        perform("decoded", tensors) { out in
            withHandle { ct_packed_rows($0, Int64(range.lowerBound), Int64(range.count), dtype.rawValue, &out) }
        }
    }

    fileprivate var tensors: [Tensor] { [data] + (scales.map { [$0.codes, $0.steps] } ?? []) }

    fileprivate func withHandle<R>(_ body: (UnsafePointer<ct_packed>) -> R) -> R {
        var handle = ct_packed(
            type: format.rawValue, columns: Int64(columns), data: data.handle,
            scale_codes: scales?.codes.handle ?? .init(),
            scale_steps: scales?.steps.handle ?? .init(), scale_mean: scales?.mean ?? 0)
        return withExtendedLifetime(self) { body(&handle) }
    }
}

/// `x Wᵀ + bias` with a packed W, which gets no gradient: x `[N, I]` in fp32, bf16 or fp64 on the CPU, bias `[O]`.
public func linear(_ x: Tensor, _ weight: PackedWeight, _ bias: Tensor? = nil) -> Tensor {
    perform("linear", [x] + weight.tensors + (bias.map { [$0] } ?? [])) { out in
        weight.withHandle { ct_packed_linear(x.handle, $0, bias.handle, &out) }
    }
}

/// `adaptedLinear` on a packed weight.
public func adaptedLinear(
    _ x: Tensor, _ weight: PackedWeight, a: Tensor, aCopy: Tensor?, b: Tensor, bCopy: Tensor?, scaling: Double,
    dropout: Dropout? = nil
) -> Tensor {
    perform("adaptedLinear", [x, a, b] + [aCopy, bCopy].compactMap { $0 } + weight.tensors) { out in
        weight.withHandle {
            ct_adapted_linear(
                x.handle, ct_tensor(impl: nil), $0, a.handle, aCopy.handle, b.handle, bCopy.handle, scaling,
                dropout.options, &out)
        }
    }
}
