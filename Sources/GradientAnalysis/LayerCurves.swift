// Numbers of a curve over layers: how much neighbours differ, by parts, and how two curves compare.

/// Early, middle and late layers of a model.
public struct LayerParts: Sendable, Equatable {
    public let sizes: [Int]  // three
    public static let names = ["early", "middle", "late"]

    /// The paper's parts for depths of 26, 28, 32 and 42 layers; of other depths early and late are 28 % each, rounded.
    public init(layers: Int) {
        switch layers {
        case 26: sizes = [7, 13, 6]
        case 28: sizes = [7, 14, 7]
        case 32: sizes = [10, 10, 12]
        case 42: sizes = [12, 18, 12]
        default:
            let edge = Int((0.28 * Double(layers)).rounded())
            sizes = [edge, layers - 2 * edge, edge]
        }
    }

    /// - Returns: nil unless the three sizes are positive and sum up to `layers`.
    public init?(sizes: [Int], layers: Int) {
        guard sizes.count == 3, sizes.allSatisfy({ $0 > 0 }), sizes.reduce(0, +) == layers else { return nil }
        self.sizes = sizes
    }

    var ranges: [Range<Int>] {
        var start = 0
        return sizes.map { size in
            defer { start += size }
            return start..<start + size
        }
    }
}

/// `1/(N-1) Σ |s[i+1] - s[i]|` over the layers of the curve; 0 for fewer than two.
public func meanAbsoluteDifference(_ curve: some RandomAccessCollection<Double>) -> Double {
    guard curve.count > 1 else { return 0 }
    return zip(curve, curve.dropFirst()).reduce(0) { $0 + abs($1.1 - $1.0) } / Double(curve.count - 1)
}

/// How much larger an irrelevant response's curve is than the correct one's.
public struct RelativeDifference: Sendable, Equatable {
    /// `(s_irrelevant - s_correct) / s_correct` by layer; a zero denominator counts as 1e-10.
    public let byLayer: [Double]

    public init(irrelevant: [Double], correct: [Double]) {
        byLayer = zip(irrelevant, correct).map { ($0 - $1) / ($1 == 0 ? 1e-10 : $1) }
    }

    /// Mean over layers, as the paper writes it, and of the absolute values, as its code computes it.
    public var mean: Double { byLayer.reduce(0, +) / Double(max(1, byLayer.count)) }
    public var meanAbsolute: Double { byLayer.reduce(0) { $0 + abs($1) } / Double(max(1, byLayer.count)) }

    /// The layers with the largest absolute values, largest first; equal ones in their order.
    public func largest(_ count: Int = 5) -> [Int] {
        byLayer.indices.sorted { (-abs(byLayer[$0]), $0) < (-abs(byLayer[$1]), $1) }.prefix(count).map { $0 }
    }
}
