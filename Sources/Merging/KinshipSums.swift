// Sums over the weight changes of several models, and the similarities that follow from them (arXiv:2410.12613).
// N models, D elements, d_i = w_i - w_0 the change of model i

/// A similarity of two models' weight changes.
public enum KinshipMetric: String, CaseIterable, Sendable {
    /// Pearson correlation of the elements of d_i and d_j.
    case pcc
    /// Cosine of d_i and d_j, with its sign.
    case cs
    /// The magnitude of the cosine: what the reference program of the paper prints as cs.
    case absCS = "abs_cs"
    /// Euclidean distance |d_i - d_j|: small for related models.
    case ed

    /// Whether small values mean related models.
    public var isDistance: Bool { self == .ed }
    /// Whether values below zero have a meaning.
    public var isSigned: Bool { self == .pcc || self == .cs }

    /// - Parameter text: names with commas or blanks between them: `cs,pcc,ed` and `cs pcc ed` alike.
    /// - Returns: nil for a text that names something else or one metric twice.
    public static func list(_ text: String) -> [KinshipMetric]? {
        let names = text.split { $0 == "," || $0.isWhitespace }.map(String.init)
        let metrics = names.compactMap(KinshipMetric.init)
        return metrics.count == names.count && Set(metrics).count == metrics.count && !metrics.isEmpty ? metrics : nil
    }
}

/// Sums over elements, in 64 bits, from which every metric of every pair follows; sums of parts add up.
public struct KinshipSums: Sendable, Equatable {
    public let models: Int
    /// D, elements of each model.
    public private(set) var elements = 0
    /// Σ d_i
    private var sums: [Double]
    /// Σ d_i d_j, i <= j, by row.
    private var products: [Double]
    /// Σ (d_i - d_j)², i <= j: by itself, since from the products it would lose the digits of close models.
    private var distances: [Double]

    public init(models: Int) {
        self.models = models
        sums = [Double](repeating: 0, count: models)
        products = [Double](repeating: 0, count: models * (models + 1) / 2)
        distances = products
    }

    private func place(_ i: Int, _ j: Int) -> Int {
        let (i, j) = i <= j ? (i, j) : (j, i)
        return i * models - i * (i - 1) / 2 + j - i
    }

    /// Adds `count` elements of every model's change: `deltas[i]` points to those of model i.
    ///
    /// - Parameter times: 2 for a tensor that the reference counts twice.
    public mutating func add(_ deltas: [UnsafePointer<Double>], count: Int, times: Int = 1) {
        let weight = Double(times)
        for i in 0..<models {
            sums[i] += weight * total(deltas[i], count)
            for j in i..<models {
                let (product, distance) = productAndDistance(deltas[i], deltas[j], count)
                products[place(i, j)] += weight * product
                distances[place(i, j)] += weight * distance
            }
        }
        elements += times * count
    }

    public mutating func add(_ other: KinshipSums) {
        for i in sums.indices { sums[i] += other.sums[i] }
        for k in products.indices {
            products[k] += other.products[k]
            distances[k] += other.distances[k]
        }
        elements += other.elements
    }

    /// |d_i|
    public func norm(_ i: Int) -> Double { products[place(i, i)].squareRoot() }

    /// First model with a NaN or an infinity among its elements.
    var nonFiniteModel: Int? { (0..<models).first { !sums[$0].isFinite || !products[place($0, $0)].isFinite } }

    /// One metric of one pair.
    ///
    ///     pcc = (G_ij - s_i s_j / D) / sqrt((G_ii - s_i²/D) (G_jj - s_j²/D)),  G = products, s = sums
    ///     cs = G_ij / sqrt(G_ii G_jj)        ed = sqrt(Σ (d_i - d_j)²)
    ///
    /// - Returns: nil where it is undefined: pcc and cs of a model that equals the base, pcc of a constant change.
    public func value(_ metric: KinshipMetric, _ i: Int, _ j: Int) -> Double? {
        switch metric {
        case .ed: return distances[place(i, j)].squareRoot()
        case .cs: return ratio(products[place(i, j)], products[place(i, i)], products[place(j, j)])
        case .absCS: return value(.cs, i, j).map(abs)
        case .pcc:
            guard elements > 0 else { return nil }
            let D = Double(elements)
            func centred(_ i: Int, _ j: Int) -> Double { products[place(i, j)] - sums[i] * sums[j] / D }
            // What rounding leaves of a constant change is no variance.
            func variance(_ i: Int) -> Double {
                let value = centred(i, i)
                return value > products[place(i, i)] * 1e-14 ? value : 0
            }
            return ratio(centred(i, j), variance(i), variance(j))
        }
    }

    private func ratio(_ product: Double, _ a: Double, _ b: Double) -> Double? {
        guard a > 0, b > 0 else { return nil }
        // The root of each first: the product of two small squares may be no number any more.
        return min(1, max(-1, product / (a.squareRoot() * b.squareRoot())))
    }

    /// One metric of all pairs, `[N][N]`, symmetric.
    public func matrix(_ metric: KinshipMetric) -> [[Double?]] {
        (0..<models).map { i in (0..<models).map { value(metric, i, $0) } }
    }

    /// Kinship of the whole group: the mean over its pairs, r(1..n) = 2/(n(n-1)) Σ_{i<j} r(i, j); undefined pairs are
    /// left out.
    public func mean(_ metric: KinshipMetric) -> Double? {
        let pairs = (0..<models).flatMap { i in (i + 1..<max(models, i + 1)).compactMap { value(metric, i, $0) } }
        return pairs.isEmpty ? nil : pairs.reduce(0, +) / Double(pairs.count)
    }
}

/// Sums are kept in eight lanes, since the compiler may not reorder a single one.
private typealias Lanes = SIMD8<Double>

private func total(_ x: UnsafePointer<Double>, _ count: Int) -> Double {
    var lanes = Lanes.zero, rest = 0.0, k = 0
    let raw = UnsafeRawPointer(x)
    while k + 8 <= count {
        lanes += raw.loadUnaligned(fromByteOffset: 8 * k, as: Lanes.self)
        k += 8
    }
    while k < count {
        rest += x[k]
        k += 1
    }
    return lanes.sum() + rest
}

private func productAndDistance(
    _ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, _ count: Int
) -> (product: Double, distance: Double) {
    var products = Lanes.zero, distances = Lanes.zero, rest = (0.0, 0.0), k = 0
    let (a, b) = (UnsafeRawPointer(x), UnsafeRawPointer(y))
    while k + 8 <= count {
        let u = a.loadUnaligned(fromByteOffset: 8 * k, as: Lanes.self),
            v = b.loadUnaligned(fromByteOffset: 8 * k, as: Lanes.self)
        products += u * v
        let difference = u - v
        distances += difference * difference
        k += 8
    }
    while k < count {
        rest.0 += x[k] * y[k]
        rest.1 += (x[k] - y[k]) * (x[k] - y[k])
        k += 1
    }
    return (products.sum() + rest.0, distances.sum() + rest.1)
}
