// New values for the weights of a model in memory: how merges are tried without writing them.
internal import Checkpoints
internal import Diagnostics
public import Formats
internal import Layers
internal import ModelFiles
internal import Tensors

/// The weights of a model by their checkpoint names, found once for many replacements.
public struct ReplaceableWeights {
    /// Checkpoint names of all weights, in the order of the model.
    public let names: [String]
    private let parameters: [ExactString: Parameter]
    private let naming: TensorNaming

    public init(of loaded: LoadedModel) {
        let named = loaded.model.namedParameters()
        names = named.map(\.name)
        naming = loaded.naming
        parameters = Dictionary(uniqueKeysWithValues: named.map { (ExactString($0.name), $0.parameter) })
    }

    /// The weight that a tensor of that name is for; nil where the model has none (the head of a tied model is its
    /// token table).
    public func weight(_ name: String) -> String? {
        naming.weight(name).flatMap { parameters[ExactString($0)] == nil ? nil : $0 }
    }

    /// Copies little-endian row-major values, as files hold them, over a weight, converted to its dtype.
    ///
    /// - Throws: `UserError` for a name that the model does not have, or another shape.
    public func replace(_ name: String, _ type: ElementType, _ shape: [Int], _ bytes: UnsafeRawBufferPointer) throws {
        guard let parameter = parameters[ExactString(name)] else {
            throw UserError("tensor \(name): the model has no such weight")
        }
        guard parameter.fileShape == shape else {
            throw UserError("tensor \(name): the new values have shape \(shape), the model's \(parameter.fileShape)")
        }
        let info = TensorInfo(name: name, elementType: type, shape: shape, byteRange: 0..<bytes.count)
        try withoutGradients { parameter.fill(fromFile: try tensor(info, bytes, in: name)) }
    }
}
