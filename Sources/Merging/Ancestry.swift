// Whether a base can be what the models were trained from.
internal import Diagnostics
internal import Formats

extension MergePlan {
    /// Entries looked at in each of up to `sampledTensors` weight matrices.
    private static let sampledEntries = 4096
    private static let sampledTensors = 16
    /// Fewer entries than this say nothing: of n unrelated ones the cosine is of the order of 1/√n.
    private static let fewestEntries = 2_000
    /// Fine-tunes are above 0.9 in practice; weights that were drawn anew are within 0.05 of zero.
    private static let leastCosine = 0.2

    /// Refuses a base whose weights have nothing to do with a model's, for the methods that merge differences to a base:
    /// such a difference holds the whole model, and the merge is noise.
    ///
    /// - Throws: `UserError` with the cosine of the sampled weights.
    public func checkAncestry() throws {
        guard usesDifferences else { return }
        let candidates = tensors.filter { $0.shape.count >= 2 && $0.elementType.isFloatingPoint }
        let step = max(1, candidates.count / Self.sampledTensors)
        var sums: [Int: (dot: Double, own: Double, base: Double, count: Int)] = [:]
        for tensor in candidates.enumerated().filter({ $0.offset % step == 0 }).map(\.element) {
            guard case .merge(_, let inputs, _, false) = tensor.work, let base = inputs.first(where: \.isBase) else {
                continue
            }
            let count = min(tensor.elementCount, Self.sampledEntries)
            let b = try entries(base, count)
            for input in inputs where !input.isBase {
                let a = try entries(input, count)
                var sum = sums[input.model] ?? (0, 0, 0, 0)
                for i in 0..<count {
                    sum.dot += Double(a[i]) * Double(b[i])
                    sum.own += Double(a[i]) * Double(a[i])
                    sum.base += Double(b[i]) * Double(b[i])
                }
                sum.count += count
                sums[input.model] = sum
            }
        }
        for (model, sum) in sums.sorted(by: { $0.key < $1.key }) where sum.count >= Self.fewestEntries {
            let cosine = sum.dot / (sum.own * sum.base).squareRoot()
            guard cosine < Self.leastCosine, cosine.isFinite, let base = config.base ?? models.first?.reference else {
                continue
            }
            throw UserError(
                "\(base): not the base that \(models[model].reference) was trained from: the cosine of their weights is "
                    + "\(rounded(cosine)) over \(sum.count) entries; name the common ancestor as base_model, or add --any-base"
            )
        }
    }

    private var usesDifferences: Bool {
        switch config.method {
        case .linear, .karcher, .passthrough, .slerp, .nearswap, .arceeFusion: false
        default: true
        }
    }

    private func entries(_ input: PlannedInput, _ count: Int) throws -> [Float] {
        let reader = try models[input.model].tensor(input.tensor)
        return try [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            if count > 0 { try reader.read(0..<count, into: buffer.baseAddress!) }
            filled = count
        }
    }

    private func rounded(_ value: Double) -> Double { (value * 1000).rounded() / 1000 }
}
