// New values for the weights of a model in memory: how merges are tried without writing them.
internal import Checkpoints
internal import Diagnostics
public import Formats
internal import Layers
internal import Tensors

extension LoadedModel {
    /// Checkpoint names of all weights.
    public var weightNames: [String] { model.namedParameters().map(\.name) }

    /// Copies little-endian row-major values over a weight, converted to its dtype.
    ///
    /// - Returns: false for a name that the model does not have (the head of a tied model is its token table).
    /// - Throws: `UserError` for another shape.
    public func replaceWeight(_ name: String, _ type: ElementType, _ shape: [Int], _ bytes: UnsafeRawBufferPointer)
        throws -> Bool
    {
        guard let parameter = model.namedParameters().first(where: { $0.name == name })?.parameter else { return false }
        guard parameter.shape == shape else {
            throw UserError("tensor \(name): the new values have shape \(shape), the model's \(parameter.shape)")
        }
        let info = TensorInfo(name: name, elementType: type, shape: shape, byteRange: 0..<bytes.count)
        try withoutGradients { parameter.value.copyInPlace(try tensor(info, bytes, in: name)) }
        return true
    }
}
