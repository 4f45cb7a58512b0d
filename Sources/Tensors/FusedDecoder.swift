// A decoder whose whole step is one call: no graph, no operation by operation, weights as they are stored.
// n tokens of a step, I inputs, O outputs, D hidden size, H query heads, K key/value heads, E head dimension, V vocabulary
internal import CTorch
internal import Kernels

/// A matrix `[O, I]` in memory: a tensor's, or blocks of a mapped file.
public struct StoredWeight {
    /// How elements are stored; the names are GGUF's.
    public enum Format: Int32, Sendable {
        case float32 = 0, bfloat16
        /// Signed bytes with one scale a row.
        case int8
        case q8_0, q4_0, q4_1, q4_K, q6_K
    }

    public let format: Format
    public let rows: Int, columns: Int
    let data: UnsafeRawPointer
    /// Keeps `data` alive.
    let owner: AnyObject
    /// fp32 `[O]`
    let bias: Tensor?

    /// The memory of a contiguous fp32 or bf16 CPU tensor `[O, I]`, seen as it changes; nil for any other.
    public init?(_ tensor: Tensor, bias: Tensor? = nil) {
        let shape = tensor.shape
        guard shape.count == 2, tensor.device == .cpu, [.float32, .bfloat16].contains(tensor.dtype) else { return nil }
        let plain = tensor.detached().contiguous()
        format = plain.dtype == .float32 ? .float32 : .bfloat16
        (rows, columns) = (shape[0], shape[1])
        data = plain.withBytes { $0.baseAddress! }
        owner = plain
        self.bias = bias?.detached().to(.float32).contiguous()
    }

    /// Blocks that `owner` keeps in memory; nil when a row is no whole number of blocks.
    public init?(
        _ format: Format, rows: Int, columns: Int, bytes: UnsafeRawBufferPointer, owner: AnyObject, bias: Tensor? = nil
    ) {
        let rowBytes = Int(nt_weight_row_bytes(format.rawValue, Int64(columns)))
        guard rowBytes > 0, format != .int8, rows * rowBytes == bytes.count, let data = bytes.baseAddress else {
            return nil
        }
        (self.format, self.rows, self.columns, self.data) = (format, rows, columns, data)
        self.owner = owner
        self.bias = bias?.detached().to(.float32).contiguous()
    }

    /// Bytes of the matrix.
    public var byteCount: Int { rows * Int(nt_weight_row_bytes(format.rawValue, Int64(columns))) }

    var handle: nt_weight {
        nt_weight(
            data: data, type: format.rawValue, rows: Int64(rows), columns: Int64(columns), scales: nil,
            bias: bias?.floats)
    }
}

extension Tensor {
    /// The memory of a contiguous fp32 CPU tensor, for as long as it lives.
    fileprivate var floats: UnsafePointer<Float> {
        withBytes { $0.baseAddress!.assumingMemoryBound(to: Float.self) }
    }
}

/// Pre-norm blocks of RMSNorm, rotary grouped-query attention and a gated MLP: what Llama, Mistral, Qwen2 and Qwen3 share.
///
///     h = x + Wo attention(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x));  y = h + Wd (silu(Wg norm(h)) · Wu norm(h))
///
/// Products, sums and the residual are fp32; bf16 weights are met by inputs rounded to bf16, blocks by inputs rounded to
/// bytes in blocks of 32 (on processors that multiply those; see `Kernels/include/decode.h`).
public final class FusedDecoder {
    public struct Layer {
        let q, k, v, o, gate, up, down: StoredWeight
        let inputNorm, postNorm: Tensor
        let queryNorm, keyNorm: Tensor?
        let window: Int

        /// - Parameters:
        ///   - inputNorm, postNorm: weights `[D]`, any float dtype.
        ///   - queryNorm, keyNorm: weights `[E]` of the norm of each head, of a family that has one (QK-norm).
        ///   - window: tokens seen, oneself included; nil for all.
        public init(
            q: StoredWeight, k: StoredWeight, v: StoredWeight, o: StoredWeight, gate: StoredWeight, up: StoredWeight,
            down: StoredWeight, inputNorm: Tensor, postNorm: Tensor, queryNorm: Tensor? = nil,
            keyNorm: Tensor? = nil, window: Int?
        ) {
            (self.q, self.k, self.v, self.o, self.gate, self.up, self.down) = (q, k, v, o, gate, up, down)
            (self.inputNorm, self.postNorm) = (inputNorm.plainFloats, postNorm.plainFloats)
            (self.queryNorm, self.keyNorm) = (queryNorm?.plainFloats, keyNorm?.plainFloats)
            self.window = window ?? 0
        }
    }

    /// Tokens of one step: flat, several tokens of a sequence in order of their positions.
    public struct Step {
        var ids: [Int32] = [], sequences: [Int64] = [], positions: [Int64] = [], outputs: [Int64] = []

        public init() {}

        /// Appends tokens of a cached sequence; their scores are wanted after the last one.
        public mutating func append(_ ids: some Sequence<Int32>, sequence: Int, from position: Int) {
            for (i, id) in ids.enumerated() {
                self.ids.append(id)
                sequences.append(Int64(sequence))
                positions.append(Int64(position + i))
            }
            outputs.append(Int64(self.ids.count - 1))
        }

        public var count: Int { ids.count }
    }

    /// Scores of a step, one row per stretch of tokens; valid until the decoder's next step.
    public struct Scores {
        private let values: UnsafeBufferPointer<Float>
        private let width: Int
        private let owner: AnyObject

        fileprivate init(_ values: UnsafeBufferPointer<Float>, width: Int, owner: AnyObject) {
            (self.values, self.width, self.owner) = (values, width, owner)
        }

        /// Rows of a tensor `[rows, V]`.
        public init(_ tensor: Tensor) {
            let plain = tensor.detached().to(.float32, .cpu).contiguous()
            let values = plain.withBytes { $0.bindMemory(to: Float.self) }
            self.init(values, width: plain.shape2.1, owner: plain)
        }

        public var rows: Int { values.count / width }
        /// The V scores of a row, valid inside `body`.
        public func withRow<R>(_ row: Int, _ body: (UnsafeBufferPointer<Float>) throws -> R) rethrows -> R {
            try withExtendedLifetime(owner) {
                try body(UnsafeBufferPointer(rebasing: values[row * width..<(row + 1) * width]))
            }
        }
    }

    private let layers: [Layer]
    private let layerHandles: UnsafeMutablePointer<nt_decoder_layer>
    private let finalNorm: Tensor
    private let table: StoredWeight, head: StoredWeight
    private var shape: nt_decoder
    private var scratch = Memory(), logits = Memory()
    /// Steps computed so far: tests ask whether this path was taken.
    public private(set) var steps = 0

    /// - Parameters:
    ///   - table, head: token and output table `[V, D]`, perhaps the same memory.
    ///   - scale: what scores of attention are multiplied by.
    public init(
        hiddenSize: Int, heads: Int, kvHeads: Int, headDim: Int, intermediateSize: Int, epsilon: Double, scale: Double,
        layers: [Layer], finalNorm: Tensor, table: StoredWeight, head: StoredWeight
    ) {
        self.layers = layers
        self.finalNorm = finalNorm.plainFloats
        (self.table, self.head) = (table, head)
        layerHandles = .allocate(capacity: max(layers.count, 1))
        for (i, layer) in layers.enumerated() {
            (layerHandles + i).initialize(
                to: nt_decoder_layer(
                    q: layer.q.handle, k: layer.k.handle, v: layer.v.handle, o: layer.o.handle,
                    gate: layer.gate.handle, up: layer.up.handle, down: layer.down.handle,
                    input_norm: layer.inputNorm.floats, post_norm: layer.postNorm.floats,
                    query_norm: layer.queryNorm?.floats, key_norm: layer.keyNorm?.floats, window: Int64(layer.window)))
        }
        shape = nt_decoder(
            hidden: Int64(hiddenSize), heads: Int64(heads), kv_heads: Int64(kvHeads), head_dim: Int64(headDim),
            mlp: Int64(intermediateSize), vocabulary: Int64(head.rows), layer_count: Int64(layers.count),
            epsilon: Float(epsilon), scale: Float(scale), layers: layerHandles, final_norm: self.finalNorm.floats,
            table: table.handle, head: head.handle, cosines: nil, sines: nil)
    }

    deinit { layerHandles.deallocate() }

    /// Whether vector kernels exist for this processor; the scalar ones are for tests.
    public static var isFast: Bool { nt_isa_level() > 0 }

    /// Bytes of weights that a step of one token reads.
    public var bytesPerStep: Int {
        layers.reduce(head.byteCount) { sum, l in
            sum + [l.q, l.k, l.v, l.o, l.gate, l.up, l.down].reduce(0) { $0 + $1.byteCount }
        }
    }

    /// Reads those bytes and does nothing else: what a benchmark compares a step with.
    public func readWeights() { _ = nt_read_weights(&shape, ct_parallel_for) }

    /// Writes the tokens' keys and values into the caches and gives the scores that are wanted.
    ///
    /// - Parameters:
    ///   - keys, values: per layer `[sequences, slots, K, E]`, contiguous, fp32 or bf16.
    ///   - cosines, sines: fp32 `[positions, E / 2]`, a row for every position of the step.
    public func callAsFunction(
        _ step: Step, keys: [Tensor], values: [Tensor], slots: Int, cosines: Tensor, sines: Tensor
    ) -> Scores {
        precondition(keys.count == layers.count && values.count == layers.count, "one cache a layer")
        precondition(step.ids.allSatisfy { $0 >= 0 && $0 < table.rows }, "a token id beyond the table")
        precondition(
            cosines.shape[0] > Int(step.positions.max() ?? -1) && step.positions.allSatisfy { $0 < slots },
            "a position beyond the cache")
        let width = head.rows, count = step.outputs.count * width
        logits.reserve(4 * count)
        let output = logits.start.assumingMemoryBound(to: Float.self)
        func memory(_ tensors: [Tensor]) -> [UnsafeMutableRawPointer?] {
            tensors.map { tensor in tensor.withMutableBytes { $0.baseAddress } }
        }
        withExtendedLifetime((keys, values, cosines, sines)) {
            shape.cosines = cosines.floats
            shape.sines = sines.floats
            var batch = nt_decoder_batch()
            batch.count = Int64(step.count)
            batch.cache_type = keys.first?.dtype == .bfloat16 ? Int32(NT_BF16) : Int32(NT_F32)
            batch.slots = Int64(slots)
            batch.output_count = Int64(step.outputs.count)
            batch.logits = output
            run(&batch, step.ids, step.sequences, step.positions, step.outputs, memory(keys), memory(values))
        }
        steps += 1
        return Scores(UnsafeBufferPointer(start: output, count: count), width: width, owner: logits)
    }

    /// The arrays become pointers that are valid during the call.
    private func run(
        _ batch: inout nt_decoder_batch, _ ids: UnsafePointer<Int32>, _ sequences: UnsafePointer<Int64>,
        _ positions: UnsafePointer<Int64>, _ outputs: UnsafePointer<Int64>,
        _ keys: UnsafePointer<UnsafeMutableRawPointer?>, _ values: UnsafePointer<UnsafeMutableRawPointer?>
    ) {
        (batch.ids, batch.sequences, batch.positions, batch.outputs) = (ids, sequences, positions, outputs)
        (batch.keys, batch.values) = (keys, values)
        scratch.reserve(nt_decoder_scratch_bytes(&shape, &batch))
        nt_decoder_step(&shape, &batch, scratch.start, ct_parallel_for)
    }
}

/// Memory that grows and is reused.
private final class Memory {
    private(set) var start = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64)
    private var capacity = 64

    func reserve(_ bytes: Int) {
        guard bytes > capacity else { return }
        start.deallocate()
        capacity = bytes + bytes / 4
        start = .allocate(byteCount: capacity, alignment: 64)
    }

    deinit { start.deallocate() }
}

extension Tensor {
    /// Outside the graph, fp32, contiguous.
    fileprivate var plainFloats: Tensor { detached().to(.float32).contiguous() }
}

/// `exp(factor · (x - max x))` of every score.
///
/// - Returns: the weights and their sum.
public func softmaxWeights(_ scores: UnsafeBufferPointer<Float>, factor: Double) -> (weights: [Float], total: Double) {
    var total = 0.0
    let weights = [Float](unsafeUninitializedCapacity: scores.count) { weights, count in
        // Factors beyond fp32 act like the largest one: only the best score is left.
        total = nt_softmax_weights_f32(
            scores.baseAddress, Int64(scores.count), Float(min(factor, 1e30)), weights.baseAddress)
        count = scores.count
    }
    return (weights, total)
}

/// Index of the first largest value.
public func argmax(_ values: UnsafeBufferPointer<Float>) -> Int {
    Int(nt_argmax_f32(values.baseAddress, Int64(values.count)))
}
