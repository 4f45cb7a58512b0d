// sce: select by variance, calculate weights from energies, erase the minority's sign.
internal import Kernels

extension MergeRun {
    /// SCE (Wan et al. 2024, arXiv:2408.07990), task vectors d_i.
    ///
    ///     select: of the positions whose variance over the models is not 0 keep the fraction select_topk of highest variance
    ///     a_i = mean(d_i^2) / sum_j mean(d_j^2);  s = + if sum_i d_i >= 0 else -
    ///     out = w_0 + sum kept a_i d_i / max(sum kept a_i, 1e-6), kept where sign d_i = s
    ///
    /// Energies of 0: equal a_i. `compat: mergekit`: equal a_i whenever the energies sum to less than 1e-6, which takes
    /// the weighting away from most fine-tunes.
    func sce(_ out: Out) throws {
        if otherIndices.isEmpty { return try copy(baseIndex!, out) }
        let choice = try varianceWindow(try merge.number("select_topk"))
        var energies = otherIndices.map { _ in 0.0 }
        try selectedPass(choice) { range in
            for (place, block) in self.others.enumerated() {
                self.kernels.dot(block, block, range.count, &energies[place])
            }
        }
        let weights = try shares(energies)
        var rule = nt_consensus(vote: 2, divide: 1, least: 1e-6, scale: 1)
        try selectedPass(choice) { range in
            self.kernels.consensus(
                UnsafePointer(self.otherPointers), weights, weights.count, self.base, range.count, &rule, self.output)
            try out(range.count)
        }
    }

    private func shares(_ energies: [Double]) throws -> [Double] {
        let total = energies.reduce(0, +), least = try merge.word("compat") == "mergekit" ? 1e-6 * Double(count) : 0
        if total == 0 || total < least { return energies.map { _ in 1 / Double(energies.count) } }
        return energies.map { $0 / total }
    }

    private enum Selection { case all, none, window(nt_window) }

    private func varianceWindow(_ share: Double) throws -> Selection {
        if share >= 1 { return .all }
        if share <= 0 { return .none }
        // How many are kept depends on how many are 0, so the rank is known only after counting those.
        var nonZero = 0
        try variancePass { scores, length in
            for i in 0..<length where scores[i] != 0 { nonZero += 1 }
        }
        let kept = Int(Double(nonZero) * share)
        if kept == 0 { return .none }
        var search = RankSearch<T>([count - kept])
        for digit in T.digits.indices {
            search.begin(digit)
            try variancePass { search.count($0, $1, digit) }
            search.end(digit)
        }
        return .window(nt_window(largest: kept, of: count, edge: search.targets[0]))
    }

    private func variancePass(_ body: (UnsafeMutablePointer<T>, Int) -> Void) throws {
        let scores = scores()
        try pass { range in
            self.subtractBase(range.count)
            self.kernels.variance(UnsafePointer(self.otherPointers), self.otherIndices.count, range.count, scores)
            body(scores, range.count)
        }
    }

    /// A pass in which `body` finds task vectors that are 0 at the positions not selected.
    private func selectedPass(_ selection: Selection, _ body: (Range<Int>) throws -> Void) throws {
        var seen: [UInt64] = [0, 0]
        let scores = scores()
        try pass { range in
            self.subtractBase(range.count)
            switch selection {
            case .all: break
            case .none: for block in self.others { block.update(repeating: 0, count: range.count) }
            case .window(var window):
                self.kernels.variance(UnsafePointer(self.otherPointers), self.otherIndices.count, range.count, scores)
                self.kernels.window(scores, range.count, &window, &seen)
                for block in self.others { self.kernels.mask(block, scores, range.count) }
            }
            try body(range)
        }
    }
}
