// What a MODEL argument and --device, --dtype and --base lead to.
import CommandLineInterface
import Diagnostics
import Generation
import ModelFiles
import Models
import RunLog
import Tensors
import Tokenizers

/// A model with its tokenizer, ready to compute.
struct OpenModel {
    let loaded: LoadedModel
    let tokenizer: Tokenizer

    init(_ options: ModelOptions) throws {
        let device = try engineDevice(options.compute.device)
        if let form = options.quantize, device != .cpu {
            throw UserError("--quantize \(form.rawValue): is for the CPU; add --device cpu", .usage)
        }
        let reference = try ModelReference(options.model, base: options.base) { ProgressLine.print($0) }
        tokenizer = try Tokenizer(modelPath: reference.tokenizerFolder)
        loaded = try LoadedModel(
            reference, dtype: options.compute.dtype.dtype(on: device), device: device,
            quantization: options.quantize?.quantization)
    }
}

/// A model that writes, with its tokenizer.
struct OpenGenerator {
    let generator: Generator
    let tokenizer: Tokenizer
    let contextLength: Int

    init(_ options: ModelOptions, weights: WeightForm) throws {
        guard weights == .asIs else {
            let model = try OpenModel(options)
            generator = try Generator(model.loaded, model.tokenizer)
            (tokenizer, contextLength) = (model.tokenizer, model.loaded.contextLength)
            return
        }
        if let form = options.quantize {
            throw UserError("--quantize \(form.rawValue): has no place beside --weights as-is; remove one", .usage)
        }
        if options.base != nil { throw UserError("--base: a GGUF file is a whole model; leave it out", .usage) }
        let device = options.compute.device == "auto" ? .cpu : try engineDevice(options.compute.device)
        guard device == .cpu else {
            throw UserError("--weights as-is: blocks are multiplied on the cpu only; use --weights converted", .usage)
        }
        let source = try GGUFModel(path: options.model)
        let stored = try StoredModel(source, dtype: options.compute.dtype.dtype(on: device))
        generator = Generator(stored, source.tokenizer)
        (tokenizer, contextLength) = (source.tokenizer, stored.contextLength)
    }
}

func engineDevice(_ name: String) throws -> Device {
    if name == "auto" { return Engine.hasCUDA ? .cuda(0) : .cpu }
    guard let device = Device(name) else { throw UserError("--device \(name): use auto, cpu, cuda or cuda:N", .usage) }
    if device != .cpu, !Engine.hasCUDA {
        throw UserError("--device \(name): no CUDA device is usable here (see needletail doctor)", .usage)
    }
    return device
}

extension BaseForm {
    var quantization: BaseQuantization {
        switch self {
        case .nf4: .nf4
        case .int8: .int8
        case .asStored: .asStored
        }
    }
}

extension ComputeType {
    func dtype(on device: Device) -> DType {
        switch self {
        case .fp32: .float32
        case .bf16: .bfloat16
        case .auto: Engine.prefersBFloat16(on: device) ? .bfloat16 : .float32
        }
    }
}

extension StorageType {
    var dtype: DType {
        switch self {
        case .fp32: .float32
        case .bf16: .bfloat16
        case .fp16: .float16
        }
    }
}
