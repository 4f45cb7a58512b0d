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

    /// - Throws: `UserError` when nothing was packed.
    func finish(_ dtype: DType) throws {
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
            return nil
        }
        let bytes = Tensor.empty([rows, format.bytes(ofRow: columns)], .uint8)
        try bytes.withMutableBytes { try blocks.file.read(weight.tensor, into: $0) }
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
        default:
            guard let format = Self.taught[type] else { return nil }
            self = format
        }
    }

    /// The formats of the types below, once their decoders are known.
    private static let taught: [GGMLType: Self] = decoders.reduce(into: [:]) { taught, entry in
        let (format, decode) = entry.value, block = entry.key.block
        format.teach(elements: block.elements, bytes: block.bytes, decode)
        taught[entry.key] = format
    }

    private typealias Decoder = @convention(c) (UnsafeRawPointer?, Int64, UnsafeMutablePointer<Float>?) -> Void

    /// Types of which the readers of files alone know the grids and tables.
    private static let decoders: [GGMLType: (format: Self, decode: Decoder)] = [
        .iq2_xxs: (.iq2_xxs, { dequantizeBlocks(.iq2_xxs, $0!, count: Int($1), $2!) }),
        .iq2_xs: (.iq2_xs, { dequantizeBlocks(.iq2_xs, $0!, count: Int($1), $2!) }),
        .iq2_s: (.iq2_s, { dequantizeBlocks(.iq2_s, $0!, count: Int($1), $2!) }),
        .iq3_xxs: (.iq3_xxs, { dequantizeBlocks(.iq3_xxs, $0!, count: Int($1), $2!) }),
        .iq3_s: (.iq3_s, { dequantizeBlocks(.iq3_s, $0!, count: Int($1), $2!) }),
        .iq1_s: (.iq1_s, { dequantizeBlocks(.iq1_s, $0!, count: Int($1), $2!) }),
        .iq1_m: (.iq1_m, { dequantizeBlocks(.iq1_m, $0!, count: Int($1), $2!) }),
        .iq4_nl: (.iq4_nl, { dequantizeBlocks(.iq4_nl, $0!, count: Int($1), $2!) }),
        .iq4_xs: (.iq4_xs, { dequantizeBlocks(.iq4_xs, $0!, count: Int($1), $2!) }),
        .tq1_0: (.tq1_0, { dequantizeBlocks(.tq1_0, $0!, count: Int($1), $2!) }),
        .tq2_0: (.tq2_0, { dequantizeBlocks(.tq2_0, $0!, count: Int($1), $2!) }),
        .mxfp4: (.mxfp4, { dequantizeBlocks(.mxfp4, $0!, count: Int($1), $2!) }),
        .nvfp4: (.nvfp4, { dequantizeBlocks(.nvfp4, $0!, count: Int($1), $2!) }),
        .q1_0: (.q1_0, { dequantizeBlocks(.q1_0, $0!, count: Int($1), $2!) }),
        .q8_1: (.q8_1, { dequantizeBlocks(.q8_1, $0!, count: Int($1), $2!) }),
        .q8_K: (.q8_K, { dequantizeBlocks(.q8_K, $0!, count: Int($1), $2!) }),
        .q2_0: (.q2_0, { dequantizeBlocks(.q2_0, $0!, count: Int($1), $2!) }),
    ]

    /// The format of numbers of 16 bits.
    fileprivate init?(_ dtype: DType) {
        switch dtype {
        case .float16: self = .float16
        case .bfloat16: self = .bfloat16
        default: return nil
        }
    }
}
