// Methods that decide entry by entry between models: nearswap, arcee_fusion, ram, ramplus_tl.

extension MergeRun {
    /// w = clamp(t / max(|a - b|, 1e-6), 0, 1); out = w b + (1 - w) a, a the base.
    func nearswap(_ out: Out) throws {
        let t = try merge.number("t")
        try pass { range in
            self.kernels.nearswap(self.base, self.others[0], range.count, t, self.output)
            try out(range.count)
        }
    }

    /// Takes an entry from the other model b where it matters, else from the base a.
    ///
    ///     importance = |b - a| * KL(softmax(b) || softmax(a)) of its row, probabilities + 1e-8
    ///     threshold = median + 1.5 (q3 - q1), the quantile q at rank floor(q (n - 1));  b where importance >= threshold
    ///
    /// The quantiles are exact at any size; mergekit takes those of a random sample above 10^6 entries. One number a row
    /// is remembered between the passes.
    func arceeFusion(_ out: Out) throws {
        let divergences = try rowDivergences()
        let scores = scores()
        let importance = { (range: Range<Int>) in
            for start in stride(from: 0, to: range.count, by: max(1, self.rowLength)) {
                let row = (range.lowerBound + start) / self.rowLength
                self.kernels.scaledDistance(
                    self.others[0] + start, self.base + start, self.rowLength, divergences[row], scores + start)
            }
        }
        let last = Double(count - 1)
        var search = RankSearch<T>(count == 0 ? [] : [0.25, 0.5, 0.75].map { Int($0 * last) })
        for digit in T.digits.indices where count > 0 {
            search.begin(digit)
            try passOverRows { range in
                importance(range)
                search.count(scores, range.count, digit)
            }
            search.end(digit)
        }
        let quartiles = search.keys.map { T.magnitude($0) }
        let threshold = count == 0 ? 0 : quartiles[1] + T(1.5) * (quartiles[2] - quartiles[0])
        try passOverRows { range in
            importance(range)
            self.kernels.choose(scores, Double(threshold), self.others[0], self.base, range.count, self.output)
            try out(range.count)
        }
    }

    private func rowDivergences() throws -> [Double] {
        var divergences: [Double] = []
        let work = UnsafeMutablePointer<Double>.allocate(capacity: max(1, 2 * rowLength))
        defer { work.deallocate() }
        try passOverRows { range in
            for start in stride(from: 0, to: range.count, by: max(1, self.rowLength)) {
                // Rounding can leave a divergence of 0 a little below it; an importance has no sign.
                let value = self.kernels.softmaxDivergence(
                    self.others[0] + start, self.base + start, self.rowLength, work)
                divergences.append(max(0, value))
            }
        }
        return divergences
    }

    /// Reinforced Agent Merging (arXiv:2601.13572), per entry, over the models with |d| > epsilon: the only one's d, or the
    /// mean of several. ramplus_tl: an only one's d times 1 + r clamp(shared_i / unique_i, 0, alpha), the counts being of
    /// the entries that model i changes in company and alone.
    func ram(_ out: Out) throws {
        if otherIndices.isEmpty { return try copy(baseIndex!, out) }
        let epsilon = try merge.number("epsilon")
        let factors = merge.method == .ramplusTL ? try ramFactors(epsilon) : otherIndices.map { _ in 1.0 }
        try pass { range in
            self.subtractBase(range.count)
            self.kernels.ram(
                UnsafePointer(self.otherPointers), factors, factors.count, self.base, range.count, epsilon, self.output)
            try out(range.count)
        }
    }

    private func ramFactors(_ epsilon: Double) throws -> [Double] {
        let r = try merge.number("r"), alpha = try merge.number("alpha")
        var shared = otherIndices.map { _ in UInt64(0) }, unique = shared
        try pass { range in
            self.subtractBase(range.count)
            self.kernels.ramCounts(
                UnsafePointer(self.otherPointers), shared.count, range.count, epsilon, &shared, &unique)
        }
        return zip(shared, unique).map { shared, unique in
            let ratio = shared == 0 ? 0 : Double(shared) / max(Double(unique), epsilon)
            return 1 + r * min(max(ratio, 0), alpha)
        }
    }
}
