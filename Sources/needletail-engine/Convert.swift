// convert and merge-adapter: models written as Hugging Face folders.
import Checkpoints
import CommandLineInterface
import Diagnostics
import Formats
import ModelFiles
import Models
import RunLog
import Tensors
import Tokenizers

func convert(_ command: ConvertCommand) throws {
    if fileExists(command.model) {
        try GGUFConversion.convert(command.model, to: command.output, command.dtype.dtype.elementType)
    } else {
        let reference = try ModelReference(command.model) { ProgressLine.print($0) }
        guard reference.adapterFolder == nil else {
            throw UserError("\(command.model): an adapter; needletail merge-adapter folds it into its base", .usage)
        }
        try write(reference, to: command.output, command.dtype.dtype, nil)
    }
    ProgressLine.print("wrote \(command.output)")
}

func mergeAdapter(_ command: MergeAdapterCommand) throws {
    let reference = try ModelReference(command.adapter, base: command.base) { ProgressLine.print($0) }
    guard reference.adapterFolder != nil else {
        throw UserError("\(command.adapter): no adapter_config.json; this is no adapter", .badData)
    }
    try write(reference, to: command.output, command.dtype.dtype, command.quantize?.quantization)
    ProgressLine.print("wrote \(command.output)")
}

/// Weights are read and merged in fp32 and rounded once.
private func write(
    _ reference: ModelReference, to folder: String, _ dtype: DType, _ quantization: BaseQuantization?
) throws {
    try refuseExisting(folder)
    let tokenizer = try Tokenizer(modelPath: reference.tokenizerFolder)
    let loaded = try LoadedModel(reference, dtype: .float32, quantization: quantization)
    try writeFolderAtomically(folder) { temporary in
        try loaded.writeMerged(to: temporary, dtype)
        try tokenizer.save(to: temporary)
    }
}
