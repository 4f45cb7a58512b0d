// Which tensors of a GGUF file take the type that was asked for, and numbers as blocks of it.
internal import Diagnostics
package import Formats
internal import Synchronization

/// The types of a file's tensors when its matrices are to be of one type.
struct GGUFTensorTypes {
    private let wanted: GGMLType

    init(_ wanted: GGMLType) { self.wanted = wanted }

    /// The type of a new tensor: 32 bits for what is no matrix that products read.
    func type(of name: String, _ shape: [Int]) -> GGMLType {
        isMatrix(name, shape) ? wanted.fitting(shape.last!) : .f32
    }

    /// Matrices of weights; tables of positions and kinds, gates of experts and norms stay as they are, as in llama.cpp.
    func isMatrix(_ name: String, _ shape: [Int]) -> Bool {
        let others = ["position_embd", "token_types", "ffn_gate_inp", "_norm.", "rope_", "ssm_", "time_mix_"]
        return shape.count >= 2 && name.hasSuffix(".weight") && !others.contains { name.contains($0) }
    }

    /// `general.file_type` (llama.cpp's numbering of mixtures, without one) and the version of the block formats.
    var entries: [GGUFEntry] {
        let numbers: [GGMLType: Int] = [
            .f32: 0, .f16: 1, .q4_0: 2, .q8_0: 7, .q4_K: 14, .q5_K: 16, .q6_K: 18, .bf16: 32,
        ]
        return [.uint32("general.quantization_version", 2), .uint32("general.file_type", numbers[wanted]!)]
    }

    /// How many tensors there are of each type, the most frequent first.
    func counts(_ tensors: [GGUFWriter.Tensor]) -> [(type: GGMLType, count: Int)] {
        Dictionary(tensors.map { ($0.type, 1) }, uniquingKeysWith: +).map { (type: $0.key, count: $0.value) }
            .sorted { ($1.count, $0.type.rawValue) < ($0.count, $1.type.rawValue) }
    }
}

extension GGMLType {
    /// The type itself where rows are whole blocks of it, else Q8_0, whose blocks are 32, else F16.
    package func fitting(_ columns: Int) -> GGMLType {
        [self, .q8_0, .f16].first { columns % $0.block.elements == 0 }!
    }

    /// Hands over `values` as blocks, made on several threads.
    ///
    /// - Throws: `UserError` for numbers that the type cannot hold.
    func emit(
        _ values: [Float], of name: String, threads: Int, _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        let part = 1 << 18  // whole blocks of every type
        try runInOrder(
            (values.count + part - 1) / part, threads: threads,
            produce: { i in
                try values.withUnsafeBufferPointer { all in
                    let part = UnsafeBufferPointer(rebasing: all[i * part..<min((i + 1) * part, all.count)])
                    try NumberRange(self).check(part, of: name)
                    return [UInt8](unsafeUninitializedCapacity: byteCount(of: part.count)) { bytes, count in
                        quantize(part, into: bytes.baseAddress!)
                        count = byteCount(of: part.count)
                    }
                }
            },
            consume: { try $0.withUnsafeBytes(emit) })
    }
}
