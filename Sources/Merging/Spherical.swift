// Interpolation on spheres: slerp, nuslerp, multislerp, karcher. Each result lies in the span of its inputs, so one pass
// gathers the inputs' products, the coefficients follow from those alone in f64, and a second pass combines.
internal import Foundation

extension MergeRun {
    /// Spherical interpolation from the base a to the other model b (Shoemake 1985).
    ///
    ///     c = <a, b> / (|a| |b|); theta = acos c
    ///     out = sin((1-t) theta) / sin theta * a + sin(t theta) / sin theta * b;   |c| > 0.9995: (1-t) a + t b
    ///
    /// A tensor of norm at most 1e-8 is not divided by its norm.
    func slerp(_ out: Out) throws {
        let t = try merge.number("t"), base = baseIndex!
        let gram = try gram([blocks[base], blocks[1 - base]], subtractingBase: false)
        let lengths = (0..<2).map { gram.norm($0) > 1e-8 ? gram[$0, $0] : 1 }
        let cosine = clampToUnit(gram[0, 1] / (lengths[0] * lengths[1]).squareRoot())
        let (a, b) = abs(cosine) > 0.9995 ? (1 - t, t) : arcCoefficients(t, cosine)
        var coefficients = [a, b]
        if base == 1 { coefficients.swapAt(0, 1) }
        try emitCombination(allPointers, coefficients, onBase: false, out)
    }

    /// As slerp with t = weight_2 / (weight_1 + weight_2), on the task vectors when there is a base, without the 0.9995
    /// rule. `nuslerp_flatten` false: along the last dimension, or along the first with `nuslerp_row_wise` (the names
    /// read the other way round; this is what mergekit does).
    func nuslerp(_ out: Out) throws {
        let weights = try numbers("weight"), sum = weights[0] + weights[1]
        let t = abs(sum) < 1e-6 ? 0.5 : weights[1] / sum
        if try merge.flag("nuslerp_flatten") {
            let gram = try gram(others, subtractingBase: baseIndex != nil)
            try emitCombination(otherPointers, nuslerpCoefficients(t, gram), onBase: baseIndex != nil, out)
        } else if try merge.flag("nuslerp_row_wise"), merge.inputs[0].reader.shape.count > 1 {
            try nuslerpOverFirstDimension(t, out)
        } else {
            try nuslerpOverLastDimension(t, out)
        }
    }

    private func nuslerpCoefficients(_ t: Double, _ gram: Gram) -> [Double] {
        let cosine = clampToUnit(gram[0, 1] / (max(gram[0, 0], 1e-14) * max(gram[1, 1], 1e-14)).squareRoot())
        // The reference's bound is 1e-16, below what sums in f64 can tell from 0.
        let (a, b) = 1 - cosine * cosine <= 1e-15 ? (1 - t, t) : arcCoefficients(t, cosine)
        return [a, b]
    }

    private func nuslerpOverLastDimension(_ t: Double, _ out: Out) throws {
        let onBase = baseIndex != nil
        let row = UnsafeMutablePointer<UnsafePointer<T>?>.allocate(capacity: 2)
        defer { row.deallocate() }
        try passOverRows { range in
            if onBase { self.subtractBase(range.count) }
            for start in stride(from: 0, to: range.count, by: self.rowLength) {
                var gram = Gram(2)
                self.add(self.others, at: start, self.rowLength, to: &gram)
                for (place, block) in self.others.enumerated() { row[place] = UnsafePointer(block + start) }
                self.kernels.combine(row, self.nuslerpCoefficients(t, gram), 2, self.rowLength, self.output + start)
            }
            if onBase { self.kernels.add(self.base, self.output, range.count, self.output) }
            try out(range.count)
        }
    }

    /// Sums and coefficients of every position of the dimensions behind the first: memory for one slice of the tensor.
    private func nuslerpOverFirstDimension(_ t: Double, _ out: Out) throws {
        let slice = merge.inputs[0].reader.shape.dropFirst().reduce(1, *), onBase = baseIndex != nil
        var sums = [Double](repeating: 0, count: 3 * slice)
        try pass { range in
            if onBase { self.subtractBase(range.count) }
            let a = self.others[0], b = self.others[1]
            sums.withUnsafeMutableBufferPointer { sums in
                var position = range.lowerBound % max(1, slice)
                for i in 0..<range.count {
                    let x = Double(a[i]), y = Double(b[i])
                    sums[3 * position] += x * x
                    sums[3 * position + 1] += x * y
                    sums[3 * position + 2] += y * y
                    position = position + 1 == slice ? 0 : position + 1
                }
            }
        }
        var first = [T](repeating: 0, count: slice), second = first
        for position in 0..<slice {
            var gram = Gram(2)
            (gram[0, 0], gram[0, 1], gram[1, 1]) =
                (sums[3 * position], sums[3 * position + 1], sums[3 * position + 2])
            let pair = nuslerpCoefficients(t, gram)
            (first[position], second[position]) = (T(pair[0]), T(pair[1]))
        }
        try pass { range in
            if onBase { self.subtractBase(range.count) }
            let a = self.others[0], b = self.others[1], output = self.output
            first.withUnsafeBufferPointer { first in
                second.withUnsafeBufferPointer { second in
                    var position = range.lowerBound % max(1, slice)
                    for i in 0..<range.count {
                        output[i] = first[position] * a[i] + second[position] * b[i]
                        position = position + 1 == slice ? 0 : position + 1
                    }
                }
            }
            if onBase { self.kernels.add(self.base, output, range.count, output) }
            try out(range.count)
        }
    }

    /// Barycentric interpolation in the tangent space at the weighted mean direction (Goddard's multislerp), on the task
    /// vectors when there is a base.
    ///
    ///     u_i = w_i / (|w_i| + eps);  m = sum a_i u_i / |.|;  v = sum a_i (u_i - <u_i, m> m);  h = |v| + eps
    ///     out = (cos h m + sin h v / h) * sum a_i |w_i|
    ///
    /// v is 0: sum a_i u_i = |sum a_i u_i| m, and sum a_i <u_i, m> is that same length. So out = cos eps m sum a_i |w_i|.
    func multislerp(_ out: Out) throws {
        if otherIndices.count == 1 { return try copy(otherIndices[0], out) }
        let eps = try merge.number("eps")
        var weights = try numbers("weight")
        if try merge.flag("normalize_weights") {
            let sum = weights.reduce(0, +)
            weights = weights.map { $0 / sum }
        }
        let onBase = baseIndex != nil
        let gram = try gram(others, subtractingBase: onBase)
        let norms = weights.indices.map { gram.norm($0) }
        let shares = weights.indices.map { norms[$0] + eps == 0 ? 0 : weights[$0] / (norms[$0] + eps) }
        let length = max(0, gram.product(shares, shares)).squareRoot()
        if length < eps || length == 0 {
            guard weights.count == 2 || norms.allSatisfy({ $0 == 0 }) else {
                throw merge.problem("multislerp: the weighted directions cancel; choose other weights")
            }
            return try emitCombination(otherPointers, weights, onBase: onBase, out)
        }
        let meanNorm = zip(weights, norms).map(*).reduce(0, +)
        let factor = Foundation.cos(eps) * meanNorm / length
        try emitCombination(otherPointers, shares.map { $0 * factor }, onBase: onBase, out)
    }

    /// The mean direction by Karcher's iteration (arXiv:2603.04972), with the mean of the norms; a base is one more input.
    ///
    ///     u = normalised mean of u_i = w_i / |w_i|;  repeat: T = mean of theta_i / sin theta_i (u_i - cos theta_i u),
    ///     theta_i = acos <u_i, u>; stop when |T| < tol; u = cos|T| u + sin|T| T / |T|;  out = mean |w_i| * u
    func karcher(_ out: Out) throws {
        let k = blocks.count
        if k == 1 { return try copy(0, out) }
        let tolerance = try merge.number("tol"), iterations = try merge.number("max_iter")
        let gram = try gram(blocks, subtractingBase: false)
        let norms = (0..<k).map { gram.norm($0) }
        let valid = norms.map { $0 > tolerance }
        guard valid.contains(true) else {
            return try emitCombination(allPointers, Array(repeating: 0, count: k), onBase: false, out)
        }
        let unit = gram.normalized(norms)
        let mean = karcherMean(unit, valid, tolerance: tolerance, iterations: Int(iterations))
        let scale = norms.reduce(0, +) / Double(k)
        let coefficients = (0..<k).map { norms[$0] == 0 ? 0 : scale * mean[$0] / norms[$0] }
        try emitCombination(allPointers, coefficients, onBase: false, out)
    }

    /// Coefficients of the mean direction in the unit vectors.
    private func karcherMean(_ unit: Gram, _ valid: [Bool], tolerance: Double, iterations: Int) -> [Double] {
        let share = 1 / Double(valid.filter { $0 }.count)
        var mean = valid.map { $0 ? share : 0 }
        let length = max(0, unit.product(mean, mean)).squareRoot()
        if length < tolerance {
            mean = mean.map { _ in 0 }
            mean[valid.firstIndex(of: true)!] = 1
        } else {
            mean = mean.map { $0 / length }
        }
        for _ in 0..<iterations {
            var tangent = mean.map { _ in 0.0 }
            for i in mean.indices where valid[i] {
                let cosine = clampToUnit(mean.indices.reduce(0) { $0 + mean[$1] * unit[$1, i] })
                let angle = Foundation.acos(cosine)
                if angle < tolerance { continue }
                let factor = share * angle / Foundation.sin(angle)
                tangent[i] += factor
                for j in mean.indices { tangent[j] -= factor * cosine * mean[j] }
            }
            let step = max(0, unit.product(tangent, tangent)).squareRoot()
            if step < tolerance { break }
            for j in mean.indices {
                mean[j] = Foundation.cos(step) * mean[j] + Foundation.sin(step) * tangent[j] / step
            }
            let norm = max(0, unit.product(mean, mean)).squareRoot()
            if norm > tolerance { mean = mean.map { $0 / norm } }
        }
        return mean
    }
}

func clampToUnit(_ cosine: Double) -> Double { min(1, max(-1, cosine)) }

/// sin((1-t) theta) / sin theta and sin(t theta) / sin theta for theta = acos(cosine).
private func arcCoefficients(_ t: Double, _ cosine: Double) -> (Double, Double) {
    let angle = Foundation.acos(cosine), sine = Foundation.sin(angle)
    return (Foundation.sin((1 - t) * angle) / sine, Foundation.sin(t * angle) / sine)
}
