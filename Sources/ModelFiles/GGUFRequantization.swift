// A GGUF file written again with its matrices in another type; everything else stays as it is.
internal import Diagnostics
public import Formats

/// Changes the types of a GGUF file's matrices, whatever its architecture.
public enum GGUFRequantization {
    /// - Parameter progress: told the share that is written.
    /// - Returns: how many tensors of each type the new file has.
    /// - Throws: `UserError` for a file that is no model, and for numbers that the type cannot hold.
    public static func write(
        _ file: GGUFFile, to path: String, _ type: GGMLType, threads: Int, progress: (Double) -> Void
    ) throws -> [(type: GGMLType, count: Int)] {
        try file.refuseWithoutModel()
        let types = GGUFTensorTypes(type)
        let tensors = file.tensors.map { tensor in
            let isMatrix = types.isMatrix(tensor.name, tensor.shape)
            let target = isMatrix ? type.fitting(tensor.shape.last!) : tensor.type
            return GGUFWriter.Tensor(name: tensor.name, type: target, shape: tensor.shape) { emit in
                if target == tensor.type { return try emit(file.bytes(of: tensor)) }
                try target.emit(GGUFModel.floats(file, tensor, .none), of: tensor.name, threads: threads, emit)
            }
        }
        let replaced = types.entries.map { ExactString($0.key) }
        let kept = try file.entries().filter { !replaced.contains(ExactString($0.key)) }
        try GGUFWriter.write(path: path, metadata: kept + types.entries, tensors: tensors, progress: progress)
        return types.counts(tensors)
    }
}
