// The names and shapes of a model's weights, as they are added.

/// Names and shapes of weights, as files hold them.
public struct WeightShapes {
    private(set) var all: [(name: String, shape: [Int])] = []

    mutating func table(_ name: String, _ rows: Int, _ width: Int) { all.append((name, [rows, width])) }

    /// A linear map by its name without `.weight`.
    ///
    /// - Parameter transposed: files hold it as `[inputs, outputs]`.
    mutating func map(_ name: String, _ outputs: Int, _ inputs: Int, bias: Bool = false, transposed: Bool = false) {
        all.append((name + ".weight", transposed ? [inputs, outputs] : [outputs, inputs]))
        if bias { all.append((name + ".bias", [outputs])) }
    }

    /// A norm by its name without `.weight`.
    mutating func norm(_ name: String, _ width: Int, bias: Bool = false) {
        all.append((name + ".weight", [width]))
        if bias { all.append((name + ".bias", [width])) }
    }
}
