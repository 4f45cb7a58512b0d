// Quantised bases: the linear maps of a model's blocks as packed weights, each packed as soon as it is read.
internal import Diagnostics
internal import Formats
internal import Layers
internal import ModelFiles
internal import Tensors

/// How the frozen linear maps of a model's blocks are kept. Token table, head, norms and biases stay tensors.
public enum BaseQuantization: Sendable {
    /// 4.127 bits a number (QLoRA).
    case nf4
    /// Bytes with a scale for 32 of them, GGUF's Q8_0: 8.5 bits a number.
    case int8
    /// The blocks of a GGUF file, the bf16 or fp16 of a folder: nothing is rounded again.
    case asStored
}

/// Packs the weights of a model while it is loaded.
final class BasePacking {
    private let quantization: BaseQuantization
    private let place: String
    private let names: Set<String>
    /// The weights of the GGUF file that is the base, for `asStored`.
    private let blocks: GGUFModel?
    private let weights: [String: GGUFModel.Weight]
    private var count = 0
    /// Matrices of block types that no product reads, by type.
    private var decoded: [GGMLType: Int] = [:]

    /// - Parameter reference: where the weights come from.
    init(_ quantization: BaseQuantization, _ model: any CausalLanguageModel, _ reference: ModelReference) throws {
        precondition(model.device == .cpu, "packed weights are for the CPU")
        self.quantization = quantization
        place = reference.storedFile ?? reference.baseFolder
        names = Set(model.blockLinears.map { $0.name + ".weight" })
        blocks = quantization == .asStored ? try reference.storedFile.map { try GGUFModel(path: $0) } : nil
        weights = Dictionary(uniqueKeysWithValues: (blocks?.weights ?? []).map { ($0.name, $0) })
    }

    /// Packs the parameter if it is one of those that are; false: it is to be filled.
    ///
    /// - Parameter tensor: gives the numbers as a file holds them.
    func pack(_ name: String, _ parameter: Parameter, _ tensor: () throws -> Tensor) throws -> Bool {
        guard names.contains(name), let packed = try packed(name, parameter, tensor) else { return false }
        parameter.replace(with: packed)
        // The matrix it was made of leaves a hole that packed blocks make too small for the next one.
        Engine.releaseFreeMemory()
        count += 1
        return true
    }

    /// - Parameter report: told what was not kept packed and might have been thought to be.
    /// - Throws: `UserError` when nothing was packed.
    func finish(_ dtype: DType, report: (String) -> Void) throws {
        for (type, matrices) in decoded.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
            report(
                "\(place): \(matrices) matrices of type \(type.name) are kept as \(dtype); no product here reads that type"
            )
        }
        guard count == 0 else { return }
        throw UserError(
            "\(place): its weights are stored as in \(dtype) or wider, so as_stored would save nothing; use nf4 or int8",
            .usage)
    }

    private func packed(_ name: String, _ parameter: Parameter, _ tensor: () throws -> Tensor) throws -> PackedWeight? {
        switch quantization {
        case .nf4: try quantised(parameter.filed(tensor()), .nf4, name)
        case .int8: try quantised(parameter.filed(tensor()), .int8, name)
        case .asStored: try stored(name, parameter, tensor)
        }
    }

    private func quantised(_ matrix: Tensor, _ format: PackedWeight.Quantised, _ name: String) throws -> PackedWeight {
        guard let packed = PackedWeight(matrix, as: format) else {
            throw UserError(
                "\(place): tensor \(name) cannot be quantised: a number in it is not finite"
                    + (format == .int8 ? " or beyond 8 million" : ""))
        }
        return packed
    }

    /// nil where a tensor takes no more bytes.
    private func stored(_ name: String, _ parameter: Parameter, _ tensor: () throws -> Tensor) throws -> PackedWeight? {
        let (rows, columns) = (parameter.shape[0], parameter.shape[1]), dense = columns * parameter.dtype.byteCount
        guard let blocks else {
            let matrix = try tensor()
            guard let format = PackedWeight.Format(matrix.dtype), format.bytes(ofRow: columns) < dense else {
                return nil
            }
            let plain = parameter.filed(matrix).contiguous()
            let bytes = plain.withBytes { Tensor.copying($0, dtype: .uint8, shape: [rows, columns * 2]) }
            return PackedWeight(format, rows: rows, columns: columns, blocks: bytes)
        }
        let weight = weights[name]!  // the folder was made from this file
        let type = weight.tensor.type
        guard let format = PackedWeight.Format(type), format.bytes(ofRow: columns) < dense else {
            if type.block.elements > 1 { decoded[type, default: 0] += 1 }
            return nil
        }
        let bytes = Tensor.empty([rows, format.bytes(ofRow: columns)], .uint8)
        try bytes.withMutableBytes { try blocks.file.file.read(weight.tensor.byteRange, into: $0) }
        let ordered = weight.rowOrder.map { bytes.indexSelect(0, Tensor($0.map(Int64.init))) } ?? bytes
        return PackedWeight(format, rows: rows, columns: columns, blocks: ordered)
    }
}

extension PackedWeight.Format {
    /// The format of a GGUF type.
    init?(_ type: GGMLType) {
        switch type {
        case .f16: self = .float16
        case .bf16: self = .bfloat16
        case .q8_0: self = .q8_0
        case .q4_0: self = .q4_0
        case .q4_1: self = .q4_1
        case .q5_0: self = .q5_0
        case .q5_1: self = .q5_1
        case .q2_K: self = .q2_K
        case .q3_K: self = .q3_K
        case .q4_K: self = .q4_K
        case .q5_K: self = .q5_K
        case .q6_K: self = .q6_K
        default: return nil
        }
    }

    /// The format of numbers of 16 bits.
    fileprivate init?(_ dtype: DType) {
        switch dtype {
        case .float16: self = .float16
        case .bfloat16: self = .bfloat16
        default: return nil
        }
    }
}
