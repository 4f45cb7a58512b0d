// Generalised task arithmetic: task_arithmetic, ties, dare_*, della*, breadcrumbs*.
internal import Kernels

/// How the entries of one model's task vector are thinned out.
private enum Thinning<T: MergeElement> {
    case keepAll, dropAll
    /// Kept by magnitude.
    case window(nt_window)
    /// Kept with this probability.
    case random(Double)
    /// Kept with a probability that rises with the rank in the row.
    case byRank(density: Double, epsilon: Double)
}

extension MergeRun {
    /// Merges task vectors d_i = w_i - w_0.
    ///
    ///     d_i' = thinned d_i, rescaled;  e_i = a_i d_i'
    ///     sign vote (the _ties family): s = + if sum_i e_i >= 0 else -;  kept where sign e_i = s (a zero never is)
    ///     delta = sum kept e_i;  normalize: / sum kept a_i (0: 1; without a vote |.| < 1e-8: 1)
    ///     out = w_0 + lambda delta
    ///
    /// Ilharco et al. 2022 (arXiv:2212.04089); TIES: Yadav et al. 2023 (arXiv:2306.01708), where the weights take no part
    /// in the vote: `sign_vote: unweighted`; DARE: Yu et al. 2023 (arXiv:2311.03099); breadcrumbs: Davari and Belilovsky
    /// 2023 (arXiv:2312.06795); DELLA: Deep et al. 2024 (arXiv:2406.11617).
    func taskVectors(_ out: Out) throws {
        if otherIndices.isEmpty { return try copy(baseIndex!, out) }
        let thinnings = try thinnings()
        let factors = try rescaleFactors(thinnings)
        let weights = try numbers("weight")
        var rule = try consensusRule(weights)
        try thinnedPass(thinnings) { range in
            for (place, block) in self.others.enumerated() where factors[place] != 1 {
                self.kernels.scale(block, range.count, factors[place])
            }
            self.kernels.consensus(
                UnsafePointer(self.otherPointers), weights, weights.count, self.base, range.count, &rule, self.output)
            try out(range.count)
        }
    }

    private func consensusRule(_ weights: [Double]) throws -> nt_consensus {
        let normalize = try merge.flag("normalize"), lambda = try merge.number("lambda")
        if merge.method.hasSignVote {
            let vote: Int32 = try merge.word("sign_vote") == "weighted" ? 1 : 2
            return nt_consensus(vote: vote, divide: normalize ? 1 : 0, least: 0, scale: lambda)
        }
        // Without a vote the divisor is one number, so it joins lambda.
        let sum = Double(weights.reduce(T(0)) { $0 + T($1) })
        return nt_consensus(vote: 0, divide: 0, least: 0, scale: normalize && abs(sum) >= 1e-8 ? lambda / sum : lambda)
    }

    // MARK: thinning

    private func thinnings() throws -> [Thinning<T>] {
        let densities = try numbers("density")
        switch merge.method {
        case .ties: return try magnitudeWindows(densities, gammas: nil)
        case .breadcrumbs, .breadcrumbsTies: return try magnitudeWindows(densities, gammas: numbers("gamma"))
        case .dareLinear, .dareTies: return densities.map { $0 >= 1 ? .keepAll : $0 <= 0 ? .dropAll : .random($0) }
        case .della, .dellaLinear:
            return try zip(densities, numbers("epsilon")).map { density, epsilon in
                density >= 1 ? .keepAll : density <= 0 ? .dropAll : .byRank(density: density, epsilon: epsilon)
            }
        default: return densities.map { _ in .keepAll }
        }
    }

    /// ties keeps the max(1, floor(density n)) largest; breadcrumbs (`gammas`) drops the floor(gamma n) largest, then the
    /// smallest until floor(density n) remain.
    private func magnitudeWindows(_ densities: [Double], gammas: [Double]?) throws -> [Thinning<T>] {
        var thinnings: [Thinning<T>] = [], searches: [Int: (RankSearch<T>, Range<Int>)] = [:]
        for (place, density) in densities.enumerated() {
            let kept = gammas == nil ? max(1, Int(density * Double(count))) : Int(density * Double(count))
            thinnings.append(density >= 1 ? .keepAll : .dropAll)
            if density >= 1 || density <= 0 || kept == 0 || count == 0 { continue }
            let largest = gammas.map { Int($0[place] * Double(count)) } ?? 0
            let first = max(0, count - kept - largest)
            searches[place] = (RankSearch([first, first + kept - 1]), first..<(first + kept))
        }
        try search(&searches)
        for (place, (search, ranks)) in searches {
            let window =
                gammas == nil
                ? nt_window(largest: ranks.count, of: count, edge: search.targets[0])
                : nt_window(ranks: ranks, first: search.targets[0], last: search.targets[1])
            thinnings[place] = .window(window)
        }
        return thinnings
    }

    private func search(_ searches: inout [Int: (RankSearch<T>, Range<Int>)]) throws {
        if searches.isEmpty { return }
        for digit in T.digits.indices {
            for place in searches.keys { searches[place]!.0.begin(digit) }
            try pass { range in
                self.subtractBase(range.count)
                for place in searches.keys { searches[place]!.0.count(self.others[place], range.count, digit) }
            }
            for place in searches.keys { searches[place]!.0.end(digit) }
        }
    }

    /// A pass in which `body` finds the thinned task vectors in `others`, not yet rescaled to a norm.
    private func thinnedPass(
        _ thinnings: [Thinning<T>], before: ((Range<Int>) -> Void)? = nil, _ body: (Range<Int>) throws -> Void
    ) throws {
        let inverse = merge.method.drawsRandomly ? try merge.word("rescale") == "inverse_probability" : false
        let seed = merge.method.drawsRandomly ? UInt64(try merge.number("seed")) : 0
        var seen = [UInt64](repeating: 0, count: 2 * thinnings.count)
        let words = UnsafeMutablePointer<UInt32>.allocate(capacity: capacity)
        let order = UnsafeMutablePointer<UInt64>.allocate(capacity: max(1, merge.method.ranksRows ? rowLength : 1))
        defer {
            words.deallocate()
            order.deallocate()
        }
        let each = { (range: Range<Int>) in
            self.subtractBase(range.count)
            before?(range)
            for (place, thinning) in thinnings.enumerated() {
                let block = self.others[place], input = self.otherInputs[place]
                switch thinning {
                case .keepAll: break
                case .dropAll: block.update(repeating: 0, count: range.count)
                case .window(var window):
                    seen.withUnsafeMutableBufferPointer {
                        self.kernels.window(block, range.count, &window, $0.baseAddress! + 2 * place)
                    }
                case .random(let density):
                    self.randomWords(input, seed, range, into: words)
                    let limit = UInt32(min(0x1p32 - 1, (density * 0x1p32).rounded()))
                    self.kernels.keepRandom(block, words, range.count, limit, inverse ? 1 / density : 1)
                case .byRank(let density, let epsilon):
                    self.randomWords(input, seed, range, into: words)
                    for start in stride(from: 0, to: range.count, by: max(1, self.rowLength)) {
                        self.kernels.keepByRank(
                            block + start, words + start, self.rowLength, density, epsilon, inverse ? 1 : 0, order)
                    }
                }
            }
            try body(range)
        }
        if merge.method.ranksRows { try passOverRows(each) } else { try pass(each) }
    }

    // MARK: rescaling

    /// What brings each thinned task vector back to its norm of before: 1 where nothing is to be done.
    private func rescaleFactors(_ thinnings: [Thinning<T>]) throws -> [Double] {
        let ones = [Double](repeating: 1, count: thinnings.count)
        let word = merge.method.parameters.contains { $0.name == "rescale" } ? try merge.word("rescale") : "none"
        let norm = word == "true" ? "l1" : word
        let thins = thinnings.map { if case .keepAll = $0 { false } else { true } }
        if ["false", "none", "inverse_probability"].contains(norm) || !thins.contains(true) { return ones }
        var before = ones.map { _ in 0.0 }, after = before
        let measure = { (sums: inout [Double], length: Int) in
            for (place, block) in self.others.enumerated() where thins[place] {
                switch norm {
                case "l1": self.kernels.absSum(block, length, &sums[place])
                case "l2": self.kernels.dot(block, block, length, &sums[place])
                default: self.kernels.absMax(block, length, &sums[place])
                }
            }
        }
        try thinnedPass(thinnings, before: { measure(&before, $0.count) }) { measure(&after, $0.count) }
        return ones.indices.map { place in
            guard thins[place], after[place] > 0 else { return 1 }
            let ratio = before[place] / after[place]
            return norm == "l2" ? ratio.squareRoot() : ratio
        }
    }
}

extension MergeMethod {
    /// Whether probabilities follow the ranks in a row.
    var ranksRows: Bool { self == .della || self == .dellaLinear }
}
