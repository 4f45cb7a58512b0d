// An adapter on its base as plain tensors, without making them whole: W + s·B·A row by row.
// O output features, I input features, r rank, s scaling
internal import Diagnostics
public import Formats
public import ModelFiles

/// The tensors of a base folder with a PEFT adapter merged into them (LoRA, rsLoRA, DoRA, `modules_to_save`).
///
///     W' = W + s B A            LoRA (Hu et al. 2021, arXiv:2106.09685)
///     W' = m (W + s B A) / ‖W + s B A‖    DoRA, norm per row (Liu et al. 2024, arXiv:2402.09353)
///
/// Memory: A, B and m of the tensors that are being read; never W.
public final class AdaptedTensors {
    public let base: SafetensorsFolder
    public let adapter: AdapterFiles
    /// Rows of the token table: the adapter's when it brings a larger one.
    public let vocabularySize: Int?

    /// - Throws: `UserError` when a tensor of the adapter has no place in the base, or one that its configuration
    ///   announces is missing.
    public init(base: SafetensorsFolder, adapterFolder: String) throws {
        self.base = base
        adapter = try AdapterFiles(folder: adapterFolder)
        vocabularySize = nil
    }

    /// In the order of the base.
    public var names: [String] { base.names }

    /// - Throws: `UserError` when the base has no tensor of that name.
    public func reader(_ name: String) throws -> any TensorReader {
        try StoredTensor(base, name)
    }
}
