// model_stock: how far towards the mean of the models, from the angle between their task vectors.

extension MergeRun {
    /// Model Stock (Jang et al. 2024, arXiv:2403.19522), for k models with task vectors d_i.
    ///
    ///     c = mean over pairs of cos(d_i, d_j);  t = k c / (1 + (k-1) c);  out = t mean(w_i) + (1-t) w_0
    ///
    /// |1 + (k-1) c| < 1e-6: the base. `filter_wise`: by rows. `compat: mergekit`: |d_i| |d_j| is at least 1e-6, which
    /// sends c of small task vectors towards 0. t is not clamped: where c < 0 the result leaves the inputs' side of the
    /// base, which is said through `warn`.
    func modelStock(_ warn: (String) -> Void, _ out: Out) throws {
        let leastProduct = try merge.word("compat") == "mergekit" ? 1e-6 : 0
        let k = Double(otherIndices.count)
        if try merge.flag("filter_wise") {
            return try modelStockByRows(leastProduct, warn, out)
        }
        let gram = try gram(others, subtractingBase: true)
        let t = stockRatio(gram, leastProduct)
        if t < 0 { warn("tensor \(merge.name): model_stock extrapolates away from the models (t = \(t))") }
        try emitCombination(otherPointers, otherIndices.map { _ in t / k }, onBase: true, out)
    }

    private func modelStockByRows(_ leastProduct: Double, _ warn: (String) -> Void, _ out: Out) throws {
        let k = otherIndices.count
        let row = UnsafeMutablePointer<UnsafePointer<T>?>.allocate(capacity: k)
        defer { row.deallocate() }
        var negative = 0
        try passOverRows { range in
            self.subtractBase(range.count)
            for start in stride(from: 0, to: range.count, by: self.rowLength) {
                var gram = Gram(k)
                self.add(self.others, at: start, self.rowLength, to: &gram)
                let t = self.stockRatio(gram, leastProduct)
                if t < 0 { negative += 1 }
                for (place, block) in self.others.enumerated() { row[place] = UnsafePointer(block + start) }
                let coefficients = Array(repeating: t / Double(k), count: k)
                self.kernels.combine(row, coefficients, k, self.rowLength, self.output + start)
            }
            self.kernels.add(self.base, self.output, range.count, self.output)
            try out(range.count)
        }
        if negative > 0 {
            warn(
                "tensor \(merge.name): model_stock extrapolates away from the models in \(negative) of its rows (t < 0)"
            )
        }
    }

    private func stockRatio(_ gram: Gram, _ leastProduct: Double) -> Double {
        var total = 0.0, pairs = 0.0
        for i in 0..<gram.k {
            for j in (i + 1)..<max(i + 1, gram.k) {
                let product = max((gram[i, i] * gram[j, j]).squareRoot(), leastProduct)
                total += product == 0 ? 0 : clampToUnit(gram[i, j] / product)
                pairs += 1
            }
        }
        let k = Double(gram.k), cosine = total / pairs, denominator = 1 + (k - 1) * cosine
        return abs(denominator) < 1e-6 ? 0 : k * cosine / denominator
    }
}
