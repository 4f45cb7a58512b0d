// The gated MLP of most families.
// D hidden size, F intermediate size
internal import Layers
internal import Tensors

/// `down(act(gate x) · up x)` with act SiLU or GELU (Shazeer 2020, arXiv:2002.05202, eq. 6).
final class GatedMLP: Module {
    enum Activation { case silu, gelu }

    let gateProj, upProj, downProj: Linear
    private let activation: Activation
    var children: KeyValuePairs<String, any Module> {
        ["gate_proj": gateProj, "up_proj": upProj, "down_proj": downProj]
    }

    init(
        _ hiddenSize: Int, _ intermediateSize: Int, bias: Bool = false, activation: Activation = .silu,
        _ dtype: DType, on device: Device
    ) {
        gateProj = Linear(hiddenSize, intermediateSize, bias: bias, dtype, on: device)
        upProj = Linear(hiddenSize, intermediateSize, bias: bias, dtype, on: device)
        downProj = Linear(intermediateSize, hiddenSize, bias: bias, dtype, on: device)
        self.activation = activation
    }

    /// Adds the names and shapes of the weights.
    static func describe(
        _ at: String, _ hiddenSize: Int, _ intermediateSize: Int, bias: Bool = false, in weights: inout WeightShapes
    ) {
        weights.map(at + "gate_proj", intermediateSize, hiddenSize, bias: bias)
        weights.map(at + "up_proj", intermediateSize, hiddenSize, bias: bias)
        weights.map(at + "down_proj", hiddenSize, intermediateSize, bias: bias)
    }

    func callAsFunction(_ x: Tensor) -> Tensor {
        let gate = gateProj(x), up = upProj(x)
        return downProj(activation == .silu ? swiGLU(gate, up) : geGLU(gate, up))
    }
}
