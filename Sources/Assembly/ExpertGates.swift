// Rows of the routers of a mixture: what the base model makes of prompts that belong to each expert.
// E experts, H hidden size, L layers, N tokens of all prompts together
internal import Diagnostics
internal import Layers
public import Merging
public import Models
internal import RandomStreams
internal import Tensors
public import Tokenizers

/// What gates are computed from.
public struct GateSource {
    let model: any CausalLanguageModel
    let tokenizer: Tokenizer

    public init(_ model: any CausalLanguageModel, _ tokenizer: Tokenizer) {
        (self.model, self.tokenizer) = (model, tokenizer)
    }

    /// Prompts as documents of one row, each after the beginning-of-sequence token where the tokenizer has one.
    private func row(_ prompts: [String]) throws -> (ids: [Int32], starts: [Int]) {
        var ids: [Int32] = [], starts = [0]
        for prompt in prompts {
            let new = tokenizer.encode((tokenizer.bosToken?.text ?? "") + prompt, addSpecialTokens: false)
            guard !new.isEmpty else {
                throw UserError("experts: an empty prompt says nothing about what its expert is for")
            }
            guard new.count <= model.contextLength else {
                throw UserError(
                    "experts: a prompt of \(counted(new.count, "token")); the base model takes \(model.contextLength)")
            }
            ids += new
            starts.append(ids.count)
        }
        if let id = ids.first(where: { $0 >= model.vocabSize }) {
            throw UserError(
                "experts: the tokenizer gives id \(id), the base model has \(counted(model.vocabSize, "token"))")
        }
        return (ids, starts)
    }

    /// h_l of the prompts, mean over them: the input of each layer at the last token, or the mean over the tokens.
    ///
    /// - Returns: L vectors of H numbers.
    func hiddenStates(_ prompts: [String], averages: Bool) throws -> [[Double]] {
        let (ids, starts) = try row(prompts)
        var layers: [[Double]] = []
        withoutGradients {
            model.layerObserver = { _, x in layers.append(Self.mean(x, starts, averages: averages)) }
            defer { model.layerObserver = nil }
            let plan = AttentionPlan(documentStarts: starts, on: model.device)
            _ = model.hiddenStates(Tensor(ids.map(Int64.init), on: model.device), plan, cache: nil)
        }
        return layers
    }

    /// Mean over the documents of x `[N, H]`.
    private static func mean(_ x: Tensor, _ starts: [Int], averages: Bool) -> [Double] {
        let (_, H) = x.shape2, values = x.to(.float32, .cpu).contiguous().values(Float.self)
        var sum = [Double](repeating: 0, count: H)
        for (start, end) in zip(starts, starts.dropFirst()) {
            let rows = averages ? start..<end : end - 1..<end
            for row in rows { for i in 0..<H { sum[i] += Double(values[row * H + i]) / Double(rows.count) } }
        }
        return sum.map { $0 / Double(starts.count - 1) }
    }

    /// Sum of the token embeddings of all prompts, H numbers.
    func embeddings(_ prompts: [String]) throws -> [Double] {
        let (ids, _) = try row(prompts)
        let rows = withoutGradients {
            embedding(model.tokenTable.weight.value.detached(), Tensor(ids.map(Int64.init), on: model.device))
        }
        let sum = rows.to(.float32).sum(dim: 0).to(.cpu).contiguous().values(Float.self)
        return sum.map(Double.init)
    }
}

extension MoEAssembly {
    /// The routers' rows as the configuration's gate mode makes them.
    ///
    ///     g = v / ‖v‖,  v = h(positive prompts) - h(negative prompts)        hidden, hidden_avg, cheap_embed
    ///
    /// - Parameter source: needed unless the mode is random.
    /// - Throws: `UserError` for prompts that cannot be used.
    public func routerRows(_ source: GateSource?) throws -> RouterRows {
        let gated = config.experts + (gatesShared ? config.sharedExperts : [])
        let vectors = try gated.enumerated().map { e, expert in try layerVectors(expert, e, source) }
        let E = config.experts.count
        return RouterRows(
            experts: (0..<layers).map { layer in vectors[..<E].flatMap { $0[layer] } },
            shared: !gatesShared ? [] : (0..<layers).map { vectors[E][$0] })
    }

    /// One row for each layer.
    private func layerVectors(_ expert: MoEConfig.Expert, _ index: Int, _ source: GateSource?) throws -> [[Float]] {
        switch config.gateMode {
        case .random, .uniformRandom:
            return (0..<layers).map { layer in
                let stream = RandomStream(seed: config.seed, Self.gateStream, UInt64(layer), UInt64(index))
                if config.gateMode == .random { return stream.normal([hiddenSize]).values(Float.self) }
                let bound = 1 / Float(hiddenSize).squareRoot()
                return stream.uniform([hiddenSize], -bound, bound).values(Float.self)
            }
        case .hidden, .hiddenAverage, .cheapEmbed:
            let positive = try states(expert.positivePrompts ?? [], source!)
            guard let prompts = expert.negativePrompts, !prompts.isEmpty else { return positive.map(Self.normalized) }
            let negative = try states(prompts, source!)
            return zip(positive, negative).map { p, n in Self.normalized(zip(p, n).map { $0 - $1 }) }
        }
    }

    private func states(_ prompts: [String], _ source: GateSource) throws -> [[Double]] {
        guard config.gateMode == .cheapEmbed else {
            return try source.hiddenStates(prompts, averages: config.gateMode == .hiddenAverage)
        }
        // As mergekit does, of unit length before the negative prompts are taken away.
        let vector = Self.normalized(try source.embeddings(prompts)).map(Double.init)
        return [[Double]](repeating: vector, count: layers)
    }

    private static func normalized(_ vector: [Double]) -> [Float] {
        let norm = vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
        return vector.map { Float($0 / max(norm, 1e-8)) }
    }

    /// Distinguishes the draws of gates from others under one seed.
    private static let gateStream: UInt64 = 0x6A7E

    /// Layers whose gate has a condition number (largest singular value over smallest) above `bound`: prompts that look
    /// alike to the router leave experts unused.
    public func degenerateLayers(_ rows: RouterRows, above bound: Double = 5) -> [Int] {
        (0..<layers).filter { layer in
            let values = rows.experts[layer] + (rows.shared.isEmpty ? [] : rows.shared[layer])
            let singular = Tensor(values, [values.count / hiddenSize, hiddenSize]).singularValues().values(Float.self)
            return Double(singular[0]) > bound * Double(singular[singular.count - 1])
        }
    }
}
