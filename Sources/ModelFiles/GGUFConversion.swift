// From GGUF to a Hugging Face folder: configuration, tokenizer and dequantized weights.
internal import Crypto
internal import Diagnostics
public import Formats
internal import Tokenizers

/// Writes the Hugging Face folder that a GGUF file stands for.
public enum GGUFConversion {
    /// The fp32 folder of a GGUF file in the user's cache, converted on first use.
    ///
    /// It lies in `models` of `cacheFolder()`, named after the file's SHA-256.
    public static func cachedFolder(of path: String, report: (String) -> Void) throws -> String {
        let file = try MappedFile(path: path)
        var hash = SHA256()
        hash.update(bufferPointer: file.bytes)
        let digest = hexadecimal(hash.finalize().prefix(16))
        let name = String(fileName(of: path).prefix(80))
        let folder = joinPath(try cacheFolder(), "models/\(name)-\(digest)")
        if fileExists(joinPath(folder, "config.json")) { return folder }
        try convert(path, to: folder, .f32) {
            report("converting \(path) once, into \(folder)")
            try createDirectories(parentFolder(of: folder))
        }
        return folder
    }

    /// Writes `folder` with weights in `type` (F32, F16 or BF16), complete or not at all.
    ///
    /// - Parameter prepare: called once the file has been checked, before anything is written.
    public static func convert(
        _ path: String, to folder: String, _ type: ElementType, prepare: () throws -> Void = {}
    ) throws {
        let file = try GGUFFile(path: path)
        let shape = try GGUFShape(file)
        let tokenizer = try Tokenizer(gguf: file.metadata)
        let plan = try shape.tensorPlan()
        try prepare()
        try writeFolderAtomically(folder) { temporary in
            let tensors = plan.map { rule, tensor in
                SafetensorsWriter.Tensor(name: rule.name, elementType: type, shape: rule.folderShape) { emit in
                    try emitConverted(GGUFModel.floats(file, tensor, rule.change), type, emit)
                }
            }
            try SafetensorsWriter.write(folder: temporary, tensors: tensors, metadata: [("format", "pt")])
            try tokenizer.save(to: temporary)
            try writeFileAtomically(
                shape.generationConfig.serialized(.pretty) + "\n", to: joinPath(temporary, "generation_config.json"))
            try writeFileAtomically(
                shape.config(type).serialized(.pretty) + "\n", to: joinPath(temporary, "config.json"))
        }
    }

    private static func emitConverted(
        _ values: [Float], _ type: ElementType, _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        switch type {
        case .f32: try values.withUnsafeBytes { try emit($0) }
        case .f16, .bf16:
            var narrow = [UInt16](repeating: 0, count: values.count)
            narrow.withUnsafeMutableBytes { target in
                let convert = type == .f16 ? convertF32ToF16 : convertF32ToBF16
                convert(values, target.baseAddress!, values.count)
            }
            try narrow.withUnsafeBytes { try emit($0) }
        default: throw UserError("weights can be written as fp32, fp16 or bf16, not \(type.rawValue)", .usage)
        }
    }
}
