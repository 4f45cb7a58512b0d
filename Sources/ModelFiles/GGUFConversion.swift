// From GGUF to a Hugging Face folder: configuration, tokenizer and dequantized weights.
// D hidden size, H query heads, K key/value heads, E head dimension
internal import Crypto
internal import Diagnostics
public import Formats
internal import Tokenizers

/// Writes the Hugging Face folder that a GGUF file of the Llama family stands for.
public enum GGUFConversion {
    /// The fp32 folder of a GGUF file in the user's cache, converted on first use.
    ///
    /// It lies in `models` of `cacheFolder()`, named after the file's SHA-256.
    public static func cachedFolder(of path: String, report: (String) -> Void) throws -> String {
        let file = try MappedFile(path: path)
        var hash = SHA256()
        hash.update(bufferPointer: file.bytes)
        let digest = hash.finalize().prefix(16).map { byte in (byte < 16 ? "0" : "") + String(byte, radix: 16) }
            .joined()
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
        let plan = try shape.tensorPlan(file)
        try prepare()
        try writeFolderAtomically(folder) { temporary in
            let tensors = plan.map { item in
                SafetensorsWriter.Tensor(name: item.name, elementType: type, shape: item.tensor.shape) { emit in
                    try emitConverted(file, item, type, emit)
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
        _ file: GGUFFile, _ item: GGUFShape.PlannedTensor, _ type: ElementType,
        _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        let count = item.tensor.elementCount
        var values = [Float](repeating: 0, count: count)
        try values.withUnsafeMutableBufferPointer { try file.dequantize(item.tensor, into: $0.baseAddress!) }
        if let heads = item.interleavedHeads {
            values = halvesFromPairs(values, heads: heads, rows: item.tensor.shape[0])
        }
        switch type {
        case .f32: try values.withUnsafeBytes { try emit($0) }
        case .f16, .bf16:
            var narrow = [UInt16](repeating: 0, count: count)
            narrow.withUnsafeMutableBytes { target in
                let convert = type == .f16 ? convertF32ToF16 : convertF32ToBF16
                convert(values, target.baseAddress!, count)
            }
            try narrow.withUnsafeBytes { try emit($0) }
        default: throw UserError("weights can be written as fp32, fp16 or bf16, not \(type.rawValue)", .usage)
        }
    }

    /// llama.cpp stores the rows of a head as rotated pairs (0, E/2, 1, E/2 + 1, ...); Hugging Face as two halves.
    static func halvesFromPairs(_ values: [Float], heads: Int, rows: Int) -> [Float] {
        let columns = values.count / rows, half = rows / heads / 2
        return [Float](unsafeUninitializedCapacity: values.count) { output, filled in
            for head in 0..<heads {
                for side in 0..<2 {
                    for i in 0..<half {
                        let from = (head * 2 * half + 2 * i + side) * columns,
                            to = (head * 2 * half + side * half + i) * columns
                        for column in 0..<columns {
                            output.initializeElement(at: to + column, to: values[from + column])
                        }
                    }
                }
            }
            filled = values.count
        }
    }
}
