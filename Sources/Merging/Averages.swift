// linear and passthrough.

extension MergeRun {
    /// out = sum_i weight_i w_i, over the sum of the weights when `normalize` (Wortsman et al. 2022, arXiv:2203.05482).
    func linear(_ out: Out) throws {
        let weights = try merge.inputs.map { try merge.number("weight", $0) }
        // As the reference: weights and their sum in the width of the work.
        let sum = weights.reduce(T(0)) { $0 + T($1) }
        let divides = try merge.flag("normalize") && sum != 1
        try pass { range in
            self.kernels.combine(
                UnsafePointer(self.allPointers), weights, weights.count, range.count, self.output)
            if divides { self.kernels.divide(self.output, range.count, Double(sum)) }
            try out(range.count)
        }
    }

    /// out = scale * w.
    func passthrough(_ out: Out) throws {
        let scale = try merge.number("scale", merge.inputs[0])
        try pass { range in
            self.output.update(from: self.blocks[0], count: range.count)
            if scale != 1 { self.kernels.scale(self.output, range.count, scale) }
            try out(range.count)
        }
    }
}
