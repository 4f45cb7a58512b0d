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

/// Blocks of grouped-query attention and an MLP between norms, as all families of decoders have them.
///
///     h = x + n2(Wo attention(turned(Wq n1(x)), turned(Wk n1(x)), Wv n1(x)));  y = h + n4(Wd (act(Wg n3(h)) · Wu n3(h)))
///
/// A family lacks some of the norms, or the gate, or its MLP reads x in the place of h.
///
/// Products, sums and the residual are fp32; bf16 weights are met by inputs rounded to bf16, blocks by inputs rounded to
/// bytes in blocks of 32 (on processors that multiply those; see `Kernels/include/decode.h`).
public final class FusedDecoder {
    /// RMSNorm, or LayerNorm where there is a bias.
    public struct Norm {
        private let weight: Tensor, bias: Tensor?  // [D], fp32

        /// - Parameters:
        ///   - weight, bias: `[D]`, any float dtype.
        ///   - offset: added to the weight.
        public init(_ weight: Tensor, bias: Tensor? = nil, offset: Double = 0) {
            self.weight = offset == 0 ? weight.plainFloats : weight.plainFloats + offset
            self.bias = bias?.plainFloats
        }

        fileprivate var handle: nt_norm { nt_norm(weight: weight.floats, bias: bias?.floats) }
    }

    public enum Activation: Int32, Sendable { case silu = 0, tanhGELU, gelu }

    public struct Layer {
        let q, k, v, o, up, down: StoredWeight
        /// nil where the MLP is `Wd act(Wu x)`.
        let gate: StoredWeight?
        /// Before attention and before the MLP; nil where they read x as it is.
        public var inputNorm: Norm?, mlpInputNorm: Norm?
        /// Of what attention and the MLP add.
        public var attentionNorm: Norm?, mlpNorm: Norm?
        /// Of queries and keys before they turn: of each head, or of all together (`Shape.normalizesAllHeads`).
        public var queryNorm: Norm?, keyNorm: Norm?
        /// Tokens seen, oneself included; nil for all.
        public var window: Int?
        /// Which of the rotations turns its heads.
        public var rotation = 0

        public init(
            q: StoredWeight, k: StoredWeight, v: StoredWeight, o: StoredWeight, gate: StoredWeight?, up: StoredWeight,
            down: StoredWeight
        ) {
            (self.q, self.k, self.v, self.o, self.gate, self.up, self.down) = (q, k, v, o, gate, up, down)
        }

        fileprivate var weights: [StoredWeight] { [q, k, v, o, up, down] + (gate.map { [$0] } ?? []) }

        fileprivate var handle: nt_decoder_layer {
            func norm(_ norm: Norm?) -> nt_norm { norm?.handle ?? nt_norm() }
            return nt_decoder_layer(
                q: q.handle, k: k.handle, v: v.handle, o: o.handle, gate: gate?.handle ?? nt_weight(), up: up.handle,
                down: down.handle, input_norm: norm(inputNorm), attention_norm: norm(attentionNorm),
                mlp_input_norm: norm(mlpInputNorm), mlp_norm: norm(mlpNorm), query_norm: norm(queryNorm),
                key_norm: norm(keyNorm), window: Int64(window ?? 0), rotation: Int64(rotation))
        }
    }

    /// What all layers have in common.
    public struct Shape: Sendable {
        public var hiddenSize: Int, heads: Int, kvHeads: Int, headDim: Int, intermediateSize: Int
        public var epsilon: Double
        /// Numbers of a head that turn, the first ones.
        public var rotaryWidth: Int
        /// What scores of attention are multiplied by.
        public var scale: Double
        /// Caps of the scores and of the logits, as `softCap`; nil for none.
        public var scoreCap: Double?, logitCap: Double?
        public var activation = Activation.silu
        /// Whether `queryNorm` and `keyNorm` are of all heads' numbers together.
        public var normalizesAllHeads = false
        /// Whether the MLP reads what attention reads, before it has added anything.
        public var isParallel = false
        /// What rows of the token table are multiplied by.
        public var tableScale = 1.0

        public init(
            hiddenSize: Int, heads: Int, kvHeads: Int, headDim: Int, intermediateSize: Int, epsilon: Double,
            rotaryWidth: Int
        ) {
            (self.hiddenSize, self.heads, self.kvHeads, self.headDim) = (hiddenSize, heads, kvHeads, headDim)
            (self.intermediateSize, self.epsilon, self.rotaryWidth) = (intermediateSize, epsilon, rotaryWidth)
            scale = 1 / Double(headDim).squareRoot()
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
        let width: Int
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
    private let finalNorm: Norm
    private let table: StoredWeight, head: StoredWeight
    /// Learned positions.
    private let positions: StoredWeight?
    /// Rotations that the layers count.
    private let rotationCount: Int
    private var decoder: nt_decoder
    private var scratch = Memory(), logits = Memory()
    /// Steps computed so far: tests ask whether this path was taken.
    public private(set) var steps = 0

    /// - Parameters:
    ///   - table, head: token and output table `[V, D]`, perhaps the same memory.
    ///   - positions: `[positions, D]`, added to the tokens' rows; nil for a family without.
    public init(
        _ shape: Shape, layers: [Layer], finalNorm: Norm, table: StoredWeight, head: StoredWeight,
        positions: StoredWeight? = nil
    ) {
        (self.layers, self.finalNorm) = (layers, finalNorm)
        (self.table, self.head, self.positions) = (table, head, positions)
        rotationCount = layers.reduce(0) { max($0, $1.rotation + 1) }
        layerHandles = .allocate(capacity: max(layers.count, 1))
        for (i, layer) in layers.enumerated() { (layerHandles + i).initialize(to: layer.handle) }
        decoder = nt_decoder(
            hidden: Int64(shape.hiddenSize), heads: Int64(shape.heads), kv_heads: Int64(shape.kvHeads),
            head_dim: Int64(shape.headDim), mlp: Int64(shape.intermediateSize), vocabulary: Int64(head.rows),
            layer_count: Int64(layers.count), epsilon: Float(shape.epsilon), scale: Float(shape.scale),
            score_cap: Float(shape.scoreCap ?? 0), logit_cap: Float(shape.logitCap ?? 0),
            table_scale: Float(shape.tableScale), activation: shape.activation.rawValue,
            norms_all_heads: shape.normalizesAllHeads ? 1 : 0, is_parallel: shape.isParallel ? 1 : 0,
            layers: layerHandles, final_norm: finalNorm.handle, table: table.handle, head: head.handle,
            positions: positions?.handle ?? nt_weight(), rotary: Int64(shape.rotaryWidth), rotations: nil)
    }

    deinit { layerHandles.deallocate() }

    /// Whether vector kernels exist for this processor; the scalar ones are for tests.
    public static var isFast: Bool { nt_isa_level() > 0 }

    /// Bytes of weights that a step of one token reads.
    public var bytesPerStep: Int {
        layers.flatMap(\.weights).reduce(head.byteCount) { $0 + $1.byteCount }
    }

    /// Floating-point operations of one token that sees `keys` keys, itself included: the products of weights and of attention,
    /// a multiplication and an addition being two.
    public func operations(seeing keys: Int) -> Double {
        let weights = layers.flatMap(\.weights).reduce(head.rows * head.columns) { $0 + $1.rows * $1.columns }
        let seen = layers.reduce(0) { $0 + min(keys, $1.window ?? keys) }
        return 2 * Double(weights) + 4 * Double(decoder.heads * decoder.head_dim) * Double(seen)
    }

    /// Reads those bytes and does nothing else: what a benchmark compares a step with.
    public func readWeights() { _ = nt_read_weights(&decoder, ct_parallel_for) }

    /// Writes the tokens' keys and values into the caches and gives the scores that are wanted.
    ///
    /// - Parameters:
    ///   - keys, values: per layer `[sequences, slots, K, E]`, contiguous, fp32 or bf16.
    ///   - rotations: cosines and sines, fp32 `[positions, R / 2]`, a row for every position of the step.
    public func callAsFunction(
        _ step: Step, keys: [Tensor], values: [Tensor], slots: Int, rotations: [(cos: Tensor, sin: Tensor)]
    ) -> Scores {
        precondition(keys.count == layers.count && values.count == layers.count, "one cache a layer")
        precondition(step.ids.allSatisfy { $0 >= 0 && $0 < table.rows }, "a token id beyond the table")
        let reach = rotations.reduce(min(slots, positions?.rows ?? slots)) { min($0, $1.cos.shape[0]) }
        precondition(step.positions.allSatisfy { $0 < reach }, "a position beyond the cache or the tables")
        precondition(decoder.rotary == 0 || rotations.count >= rotationCount, "no such rotation")
        let width = head.rows, count = step.outputs.count * width
        logits.reserve(4 * count)
        let output = logits.start.assumingMemoryBound(to: Float.self)
        func memory(_ tensors: [Tensor]) -> [UnsafeMutableRawPointer?] {
            tensors.map { tensor in tensor.withMutableBytes { $0.baseAddress } }
        }
        let turns = rotations.map { nt_rotation(cosines: $0.cos.floats, sines: $0.sin.floats) }
        withExtendedLifetime((keys, values, rotations)) {
            var batch = nt_decoder_batch()
            batch.count = Int64(step.count)
            batch.cache_type = keys.first?.dtype == .bfloat16 ? Int32(NT_BF16) : Int32(NT_F32)
            batch.slots = Int64(slots)
            batch.output_count = Int64(step.outputs.count)
            batch.logits = output
            run(&batch, step.ids, step.sequences, step.positions, step.outputs, memory(keys), memory(values), turns)
        }
        steps += 1
        return Scores(UnsafeBufferPointer(start: output, count: count), width: width, owner: logits)
    }

    /// The arrays become pointers that are valid during the call.
    private func run(
        _ batch: inout nt_decoder_batch, _ ids: UnsafePointer<Int32>, _ sequences: UnsafePointer<Int64>,
        _ positions: UnsafePointer<Int64>, _ outputs: UnsafePointer<Int64>,
        _ keys: UnsafePointer<UnsafeMutableRawPointer?>, _ values: UnsafePointer<UnsafeMutableRawPointer?>,
        _ rotations: UnsafePointer<nt_rotation>
    ) {
        decoder.rotations = rotations
        (batch.ids, batch.sequences, batch.positions, batch.outputs) = (ids, sequences, positions, outputs)
        (batch.keys, batch.values) = (keys, values)
        scratch.reserve(nt_decoder_scratch_bytes(&decoder, &batch))
        nt_decoder_step(&decoder, &batch, scratch.start, ct_parallel_for)
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
