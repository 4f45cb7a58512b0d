// From GGUF to a Hugging Face folder: configuration, tokenizer and dequantized weights.
internal import Crypto
internal import Diagnostics
public import Formats
internal import Tokenizers

/// Writes the Hugging Face folder that a GGUF file stands for.
public enum GGUFConversion {
    /// Of what is made of a file. It rises with every change of that, so that folders of an earlier release are not used.
    package static let version = 1

    /// The fp32 folder of a GGUF file in the user's cache, converted on first use.
    ///
    /// It lies in `models` of `cacheFolder()`, named by `cacheName`.
    public static func cachedFolder(of path: String, report: (String) -> Void) throws -> String {
        let file = try GGUFFile(path: path)
        let folder = joinPath(try cacheFolder(), "models/\(cacheName(of: file, version: version))")
        if fileExists(joinPath(folder, "config.json")) {
            try checkReadable(folder, madeOf: path)
            return folder
        }
        try convert(file, to: folder, .f32) {
            report("converting \(path) once, into \(folder)")
            try createDirectories(parentFolder(of: folder))
        }
        return folder
    }

    /// The file's name, and a digest of the version and of all its parts.
    package static func cacheName(of file: GGUFFile, version: Int) -> String {
        var hash = SHA256()
        hash.update(data: Array("\(version)".utf8))
        for part in file.files { hash.update(bufferPointer: part.bytes) }
        return "\(fileName(of: file.path).prefix(80))-\(hexadecimal(hash.finalize().prefix(16)))"
    }

    /// Looks at headers only: a person knows the file they named, not the folder that was made of it.
    private static func checkReadable(_ folder: String, madeOf path: String) throws {
        do {
            _ = try SafetensorsFolder(folder: folder)
            _ = try readJSONFile(joinPath(folder, "config.json"))
        } catch let error as UserError {
            throw UserError("\(path): the folder made of it is damaged; remove \(folder) (\(error.message))")
        }
    }

    /// Writes `folder` with weights in `type` (F32, F16 or BF16), complete or not at all.
    ///
    /// - Throws: `UserError` for a file that is no model of a known architecture, and for numbers that `type` cannot hold.
    public static func convert(_ path: String, to folder: String, _ type: ElementType) throws {
        try convert(GGUFFile(path: path), to: folder, type) {}
    }

    /// - Parameter prepare: called once the file has been checked, before anything is written.
    private static func convert(
        _ file: GGUFFile, to folder: String, _ type: ElementType, prepare: () throws -> Void
    ) throws {
        let shape = try GGUFShape(file)
        let tokenizer = try Tokenizer(gguf: file.metadata)
        let plan = try shape.tensorPlan()
        try prepare()
        try writeFolderAtomically(folder) { temporary in
            let tensors = plan.map { rule, tensor in
                SafetensorsWriter.Tensor(name: rule.name, elementType: type, shape: rule.folderShape) { emit in
                    let values = try GGUFModel.floats(file, tensor, rule.change)
                    try emitConverted(values, of: tensor.name, type, emit)
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
        _ values: [Float], of name: String, _ type: ElementType, _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        switch type {
        case .f32: try values.withUnsafeBytes { try emit($0) }
        case .f16, .bf16:
            try values.withUnsafeBufferPointer { try NumberRange(type).check($0, of: name) }
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
