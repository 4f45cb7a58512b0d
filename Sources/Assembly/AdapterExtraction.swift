// A LoRA adapter from a fine-tuned model and its base: the truncated singular value decomposition of each difference.
// O output features, I input features, r rank, K = min(O, I)
internal import Checkpoints
internal import Diagnostics
public import Formats
public import Merging
public import ModelFiles
internal import Models
internal import Tensors

/// How an adapter is taken out of a fine-tuned model.
public struct ExtractionOptions: Sendable {
    /// Rank of every map's correction.
    public var rank = 32
    /// Takes the place of `rank`: the smallest rank at which every map keeps this share of its difference's norm.
    public var share: Double?
    /// The largest rank that `share` may lead to.
    public var maxRank = 128
    /// Saves changed token tables whole, as PEFT's `modules_to_save`.
    public var savesTables = true

    public init() {}
}

/// What an adapter holds of the difference between two models, and what it does not.
public struct ExtractionReport: Sendable {
    /// A linear map and its correction.
    public struct Map: Sendable {
        public let name: String
        /// ‖W' - W‖ (Frobenius).
        public let norm: Double
        /// ‖B A‖ / ‖W' - W‖; 1 for a map that did not change.
        public let share: Double
    }
    public var rank = 0
    public var maps: [Map] = []
    /// Tables saved whole, with the norm of their difference (nil: they grew).
    public var saved: [(name: String, norm: Double?)] = []
    /// Changed tensors that no adapter holds: norms and biases, tables when they were left out.
    public var missed: [(name: String, norm: Double?)] = []
    /// Tensors that differ only as one model stores fewer digits of the same numbers: they count as unchanged.
    public var rounded: [String] = []

    /// Share of the whole difference's norm that the adapter holds.
    public var share: Double {
        func squares(_ norms: [Double]) -> Double { norms.reduce(0) { $0 + $1 * $1 } }
        let tables = squares(saved.compactMap(\.norm))
        let all = squares(maps.map(\.norm)) + tables + squares(missed.compactMap(\.norm))
        return all == 0 ? 1 : ((squares(maps.map { $0.norm * $0.share }) + tables) / all).squareRoot()
    }

    public var json: JSONValue {
        func list(_ tensors: [(name: String, norm: Double?)]) -> JSONValue {
            .array(tensors.map { ["name": .string($0.name), "delta_norm": $0.norm.map { .init($0) } ?? .null] })
        }
        return [
            "rank": .init(rank), "share": .init(share),
            "modules": .array(
                maps.map { ["name": .string($0.name), "delta_norm": .init($0.norm), "share": .init($0.share)] }),
            "saved": list(saved), "not_captured": list(missed), "only_rounded": .array(rounded.map { .string($0) }),
        ]
    }
}

/// An adapter taken out of a fine-tuned model, in memory.
public final class AdapterExtraction {
    public let config: AdapterConfig
    public let report: ExtractionReport
    private let naming: TensorNaming
    private let tensors: [SafetensorsWriter.Tensor]

    /// Compares the models and decomposes the difference of every linear map of the layers.
    ///
    ///     W' - W = U S Vᵀ;  B = U_r √S_r,  A = √S_r V_rᵀ,  scaling 1     (Eckart and Young 1936: no B A of rank r is nearer)
    ///
    /// - Parameters:
    ///   - baseName: what adapter_config.json calls the base.
    ///   - progress: told how many maps are done, of how many.
    /// - Throws: `UserError` for models of different shapes, or equal ones.
    public init(
        _ tuned: MergeModel, base: MergeModel, baseName: String, _ options: ExtractionOptions,
        progress: (Int, Int) -> Void = { _, _ in }
    ) throws {
        let pair = ModelPair(tuned: tuned, base: base)
        naming = pair.naming
        try pair.checkNames()
        var report = ExtractionReport(), tensors: [SafetensorsWriter.Tensor] = [], saved: [String] = []
        for name in pair.otherTensors {
            let norm = try pair.differenceNorm(name)
            if norm == 0 { continue }
            if norm != nil, try pair.differsByRounding(name) {
                report.rounded.append(name)
                continue
            }
            if options.savesTables, pair.isTable(name) {
                let weight = naming.weight(name)!
                report.saved.append((name, norm))
                saved.append(String(weight.dropLast(".weight".count).split(separator: ".").last!))
                let table = try pair.tensor(tuned, name)
                tensors.append(.init(AdapterFiles.prefix + weight, table, .float32))
                if !base.tensorNames.contains(naming.headTable) {
                    // PEFT takes a saved token table apart from the head that is tied to it: the head comes along.
                    saved.append(naming.headModule)
                    tensors.append(.init(AdapterFiles.prefix + naming.headTable, table, .float32))
                }
            } else {
                report.missed.append((name, norm))
            }
        }
        let factors = try pair.maps.enumerated().map { i, name in
            defer { progress(i + 1, pair.maps.count) }
            return try Factors(pair, name, limit: options.share == nil ? options.rank : options.maxRank)
        }
        report.rounded += factors.filter(\.isRounded).map { $0.name + ".weight" }
        let targets = Self.targets(factors)
        guard !targets.isEmpty else {
            let hasNone = report.missed.isEmpty && report.saved.isEmpty
            let what =
                !hasNone
                ? "only token tables, norms or biases differ, and no linear map"
                : report.rounded.isEmpty ? "no weight differs" : "no weight differs by more than rounding"
            throw UserError("\(tuned.reference): \(what) from \(base.reference); there is no adapter to take out")
        }
        let adapted = factors.filter { factor in targets.contains { factor.name.hasSuffix("." + $0) } }
        let rank =
            options.share.map { Self.rank(adapted, keeping: $0, atMost: options.maxRank) }
            ?? min(options.rank, adapted.map(\.smallSide).max() ?? 1)
        for factor in adapted { tensors += factor.tensors(rank: rank) }
        report.rank = rank
        report.maps = factors.map { .init(name: $0.name, norm: $0.norm, share: $0.share(rank)) }
        self.report = report
        self.tensors = tensors
        config = AdapterConfig(
            rank: rank, alpha: Double(rank), dropout: 0, scaling: .standard, hasMagnitude: false, targets: targets,
            savedModules: saved, baseModel: baseName)
    }

    /// Last components of the names of changed maps, each once. PEFT adapts every map so named, changed or not.
    private static func targets(_ factors: [Factors]) -> [String] {
        var targets: [String] = []
        for factor in factors where factor.norm > 0 {
            let name = String(factor.name.split(separator: ".").last!)
            if !targets.contains(name) { targets.append(name) }
        }
        return targets
    }

    private static func rank(_ factors: [Factors], keeping share: Double, atMost limit: Int) -> Int {
        let bound = min(limit, factors.map(\.smallSide).max() ?? 1)
        return (1...bound).first { rank in factors.allSatisfy { $0.share(rank) >= share } } ?? bound
    }

    /// Writes the adapter's folder, complete or not at all.
    public func write(to folder: String) throws {
        try writeFolderAtomically(folder) { folder in
            try SafetensorsWriter.write(
                path: joinPath(folder, AdapterFiles.weightsName), tensors: tensors, metadata: [("format", "pt")])
            try writeFileAtomically(
                config.json(naming).serialized(.pretty) + "\n", to: joinPath(folder, AdapterFiles.configName))
        }
    }
}

/// Two models with the same tensors.
private struct ModelPair {
    let tuned: MergeModel
    let base: MergeModel
    let naming: TensorNaming

    init(tuned: MergeModel, base: MergeModel) {
        (self.tuned, self.base) = (tuned, base)
        naming = TensorNaming(modelType: base.config?["model_type"]?.string)
    }

    /// Whether it has a row a token.
    func isTable(_ name: String) -> Bool {
        naming.weight(name) == naming.tokenTable || name == naming.headTable
    }

    /// The linear maps of the layers, by the file's name without `.weight`.
    var maps: [String] {
        base.tensorNames.filter { name in
            guard let weight = naming.weight(name), let form = try? base.form(name) else { return false }
            return naming.isBlockMap(weight, form.shape)
        }.map { String($0.dropLast(".weight".count)) }
    }

    var otherTensors: [String] {
        let maps = Set(maps.map { $0 + ".weight" })
        return base.tensorNames.filter { !maps.contains($0) && naming.weight($0) != nil }
    }

    func checkNames() throws {
        let names = Set(base.tensorNames), others = Set(tuned.tensorNames)
        for name in base.tensorNames where !others.contains(name) && naming.weight(name) != nil {
            throw UserError("\(tuned.reference): no tensor \(name), which the base has")
        }
        for name in tuned.tensorNames where !names.contains(name) && naming.weight(name) != nil {
            throw UserError("\(base.reference): no tensor \(name), which the fine-tuned model has; is this its base?")
        }
        for name in base.tensorNames where naming.weight(name) != nil {
            let a = try tuned.form(name)?.shape ?? [], b = try base.form(name)?.shape ?? []
            let mayGrow = isTable(name) && a.count == 2 && b.count == 2 && a[0] >= b[0] && a[1] == b[1]
            guard a == b || mayGrow else {
                throw UserError(
                    "\(tuned.reference): tensor \(name) has shape \(a), the base's has \(b); is this its base?")
            }
        }
    }

    /// A whole tensor in fp32.
    func tensor(_ model: MergeModel, _ name: String) throws -> Tensor {
        let reader = try model.tensor(name), tensor = Tensor.empty(reader.shape)
        try tensor.withMutableBytes { bytes in
            try reader.read(0..<reader.elementCount, into: bytes.baseAddress!.assumingMemoryBound(to: Float.self))
        }
        guard tensor.isFinite().to(.float32).sum().item == Double(tensor.count) else {
            throw UserError("\(model.reference): tensor \(name) holds numbers that are not finite")
        }
        return tensor
    }

    func difference(_ name: String) throws -> Tensor { try tensor(tuned, name) - tensor(base, name) }

    /// Whether the tensors are the same numbers, in the one model rounded to the type in which the other one keeps them.
    ///
    /// Of one type they never are: there every difference is a change.
    func differsByRounding(_ name: String) throws -> Bool {
        guard let a = try tuned.form(name)?.elementType, let b = try base.form(name)?.elementType, a != b
        else { return false }
        let tunedTensor = try tensor(tuned, name), baseTensor = try tensor(base, name)
        return [(baseTensor, tunedTensor, a), (tunedTensor, baseTensor, b)].contains { exact, rounded, type in
            guard let dtype = DType(type) else { return false }
            return (exact.to(dtype).to(.float32) - rounded).maxAbs().item == 0
        }
    }

    /// ‖W' - W‖; nil when the fine-tuned tensor has more rows.
    func differenceNorm(_ name: String) throws -> Double? {
        guard try tuned.form(name)?.shape == base.form(name)?.shape else { return nil }
        return globalNorm([try difference(name)])
    }
}

/// The decomposed difference of one linear map.
private struct Factors {
    let name: String
    let norm: Double
    let smallSide: Int
    /// No change but that of `ModelPair.differsByRounding`.
    let isRounded: Bool
    private let outputs: Int, inputs: Int
    /// Singular values, all of them, descending.
    private let values: [Double]
    /// `[O, k]` and `[k, I]`, √S in both; k is the largest rank that may be asked for.
    private let b: Tensor, a: Tensor

    init(_ pair: ModelPair, _ map: String, limit: Int) throws {
        let stored = try pair.difference(map + ".weight")
        let delta = pair.naming.mapsLieTransposed ? stored.transpose(0, 1).contiguous() : stored
        name = String(pair.naming.weight(map + ".weight")!.dropLast(".weight".count))
        (outputs, inputs) = delta.shape2
        smallSide = min(outputs, inputs)
        let norm = globalNorm([delta])
        isRounded = try norm > 0 && pair.differsByRounding(map + ".weight")
        self.norm = isRounded ? 0 : norm
        let kept = min(limit, smallSide)
        guard self.norm > 0 else {
            values = []
            (b, a) = (Tensor.zeros([outputs, kept]), Tensor.zeros([kept, inputs]))
            return
        }
        let (u, s, vh) = delta.singularValueDecomposition()
        values = s.values(Float.self).map(Double.init)
        let root = s.narrow(0, 0, kept).sqrt()
        b = (u.narrow(1, 0, kept) * root.reshape(1, kept)).contiguous()
        a = (vh.narrow(0, 0, kept) * root.reshape(kept, 1)).contiguous()
    }

    func share(_ rank: Int) -> Double {
        let all = values.reduce(0) { $0 + $1 * $1 }
        return all == 0 ? 1 : (values.prefix(rank).reduce(0) { $0 + $1 * $1 } / all).squareRoot()
    }

    /// The adapter's two tensors; a map too small for the rank is filled up with zeros.
    func tensors(rank: Int) -> [SafetensorsWriter.Tensor] {
        let kept = min(rank, b.shape[1])
        var a = a.narrow(0, 0, kept), b = b.narrow(1, 0, kept)
        if kept < rank {
            a = .cat([a, .zeros([rank - kept, inputs])], dim: 0)
            b = .cat([b, .zeros([outputs, rank - kept])], dim: 1)
        }
        return [
            .init(AdapterFiles.prefix + name + ".lora_A.weight", a.contiguous(), .float32),
            .init(AdapterFiles.prefix + name + ".lora_B.weight", b.contiguous(), .float32),
        ]
    }
}
