// The plan of a merge: every output tensor with its shape, type and inputs, before an element is read.
internal import Diagnostics
public import Formats

/// A tensor of the output.
public struct PlannedTensor: Sendable {
    public let name: String
    public let shape: [Int]
    /// As it is written.
    public let elementType: ElementType
    /// Layer in the output; nil outside the layers.
    public let layer: Int?
    let work: Work

    enum Work: Sendable {
        /// `isAligned`: a token table whose rows are put into the order of the output's vocabulary.
        case merge(method: MergeMethod, inputs: [PlannedInput], settings: [String: MergeValue], isAligned: Bool)
        /// The bytes of tensors of whole numbers, which must be equal.
        case copy([(model: Int, tensor: String)])
    }

    public var elementCount: Int { shape.reduce(1, *) }
    public var byteCount: Int { elementCount * elementType.byteCount }

    /// Values of the method's parameters here: shared ones, and by model those of its own.
    public var settings:
        (
            shared: [String: MergeValue],
            inputs: [(model: Int, tensor: String, isBase: Bool, values: [String: MergeValue])]
        )
    {
        guard case .merge(_, let inputs, let settings, _) = work else { return ([:], []) }
        return (settings, inputs.map { ($0.model, $0.tensor, $0.isBase, $0.settings) })
    }
}

/// One model's tensor in the merge of an output tensor.
struct PlannedInput: Sendable {
    /// Position among the plan's models.
    let model: Int
    let tensor: String
    let isBase: Bool
    let settings: [String: MergeValue]
}

/// What a merge will do. Making it opens headers only and finds every fault that they can show.
public final class MergePlan: Sendable {
    public let config: MergeConfig
    /// In the order of `config.models`.
    public let models: [MergeModel]
    /// In the order in which the models' files name them, layer by layer.
    public let tensors: [PlannedTensor]
    /// What was decided for the user, one line each.
    public let notes: [String]
    let parts: [Part]
    // Unsafe only by type: nothing in it changes once it is made.
    nonisolated(unsafe) let vocabulary: MergedVocabulary?

    /// What config.json has to say of a part of the model.
    struct Part: Sendable {
        /// Of a module; nil for a whole model.
        let name: String?
        let hasLayers: Bool
        /// For each layer of the output, the layer of the slice's first source.
        let layers: [Int]
    }

    /// - Parameter opened: the models, opened once for many plans.
    /// - Throws: `UserError` (65) for the first fault: a model that cannot be opened, layers or tensors that are missing,
    ///   shapes or architectures that differ, a parameter without a value or with an impossible one.
    public init(_ config: MergeConfig, opened: MergeModels) throws {
        self.config = config
        models = try config.models.map { try opened.model($0) }
        let layout = try MergeLayout(config, models)
        parts = layout.modules.map { module in
            Part(
                name: module.name, hasLayers: !module.stacks.isEmpty,
                layers: module.slices.flatMap { $0.sources.first.map { Array($0.layers) } ?? [] })
        }
        var planner = try Planner(config: config, models: models)
        for module in layout.modules { try planner.add(module) }
        (tensors, notes, vocabulary) = (planner.tensors, planner.notes, planner.vocabulary)
        guard !tensors.isEmpty else { throw UserError("nothing to merge: the models have no tensors") }
    }

    /// The model whose config.json, tokenizer and generation_config.json the output takes over: the base, else the first.
    public var donor: MergeModel { models.first { $0.reference == config.base } ?? models[0] }

    /// The number format most of the output has.
    public var mainType: ElementType {
        var bytes: [ElementType: Int] = [:]
        for tensor in tensors where tensor.elementType.isFloatingPoint {
            bytes[tensor.elementType, default: 0] += tensor.byteCount
        }
        let types: [ElementType] = [.bf16, .f16, .f32, .f64]
        return types.max { bytes[$0, default: 0] < bytes[$1, default: 0] } ?? .f32
    }

    /// Hands the merged bytes of a tensor over, little-endian and row-major, rounded to its `elementType`, in pieces.
    ///
    /// - Parameter warn: called with one line where the result may surprise.
    /// - Throws: `UserError` for a value that is not finite, in an input or after rounding; whatever `emit` throws.
    public func produce(
        _ tensor: PlannedTensor, warn: (String) -> Void = { _ in }, _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        switch tensor.work {
        case .copy(let sources): try copy(tensor, sources, emit)
        case .merge(let method, let inputs, let settings, let isAligned):
            let tables = isAligned ? try vocabulary?.tables(tensor.name, models) : nil
            let merge = TensorMerge(
                name: tensor.name, method: method,
                inputs: try inputs.map { input in
                    let reader = try tables?[input.model] ?? models[input.model].tensor(input.tensor)
                    return MergeInput(reader, model: input.model, isBase: input.isBase, settings: input.settings)
                }, settings: settings)
            let rounding = Rounding(to: tensor.elementType, name: tensor.name)
            do {
                try merge.run(warn: warn) { try rounding.emit($0, emit) }
            } catch let fault as NonFiniteInput {
                throw UserError(fault.named("\(models[fault.model].reference)"), fault.exitStatus)
            }
        }
    }

    /// Every tensor in the order of the plan, for those who want no files: `body` gets the tensor and a function that
    /// hands its bytes over, as `produce` does.
    public func forEachTensor(
        _ body: (PlannedTensor, _ produce: ((UnsafeRawBufferPointer) throws -> Void) throws -> Void) throws -> Void
    ) throws {
        for tensor in tensors { try body(tensor) { try self.produce(tensor, $0) } }
    }

    /// Copies whole numbers, which no method merges; they must be the same in all models.
    private func copy(
        _ tensor: PlannedTensor, _ sources: [(model: Int, tensor: String)],
        _ emit: (UnsafeRawBufferPointer) throws -> Void
    ) throws {
        let size = min(tensor.byteCount, 1 << 18)
        try withUnsafeTemporaryAllocation(byteCount: 2 * max(size, 1), alignment: 16) { buffer in
            for start in stride(from: 0, to: tensor.byteCount, by: max(size, 1)) {
                let range = start..<min(start + size, tensor.byteCount)
                let first = UnsafeMutableRawBufferPointer(rebasing: buffer[..<range.count])
                let other = UnsafeMutableRawBufferPointer(rebasing: buffer[size..<size + range.count])
                try models[sources[0].model].readBytes(range, of: sources[0].tensor, into: first)
                for source in sources.dropFirst() {
                    try models[source.model].readBytes(range, of: source.tensor, into: other)
                    guard first.elementsEqual(other) else {
                        throw UserError(
                            "tensor \(tensor.name): \(models[sources[0].model].reference) and "
                                + "\(models[source.model].reference) hold different whole "
                                + "numbers, which cannot be merged")
                    }
                }
                try emit(UnsafeRawBufferPointer(first))
            }
        }
    }
}

/// Rounds merged elements once, nearest-even, to the type they are written in.
struct Rounding {
    let type: ElementType
    let name: String

    init(to type: ElementType, name: String) { (self.type, self.name) = (type, name) }

    func emit(_ block: MergedBlock, _ emit: (UnsafeRawBufferPointer) throws -> Void) throws {
        switch block {
        case .float32(let values):
            switch type {
            case .f32: try emit(UnsafeRawBufferPointer(values))
            case .f16: try inPieces(values, emit) { convertF32ToF16($0, $1, count: $2) }
            case .bf16: try inPieces(values, emit) { convertF32ToBF16($0, $1, count: $2) }
            default:
                try inPieces(values, emit) { source, target, count in
                    for i in 0..<count {
                        target.storeBytes(of: Double(source[i]), toByteOffset: 8 * i, as: Double.self)
                    }
                }
            }
        case .float64(let values):
            switch type {
            case .f64: try emit(UnsafeRawBufferPointer(values))
            case .f32:
                try inPieces(values, emit) { source, target, count in
                    for i in 0..<count { target.storeBytes(of: Float(source[i]), toByteOffset: 4 * i, as: Float.self) }
                }
            default:
                let narrow = type == .f16 ? f16FromDouble : bf16FromDouble
                try inPieces(values, emit) { source, target, count in
                    for i in 0..<count {
                        target.storeBytes(of: narrow(source[i]), toByteOffset: 2 * i, as: UInt16.self)
                    }
                }
            }
        }
    }

    /// Inputs are finite; what a narrower type cannot hold is refused.
    private func inPieces<T: BinaryFloatingPoint>(
        _ values: UnsafeBufferPointer<T>, _ emit: (UnsafeRawBufferPointer) throws -> Void,
        _ convert: (UnsafePointer<T>, UnsafeMutableRawPointer, Int) -> Void
    ) throws {
        let step = 1 << 16, size = type.byteCount
        let range = size < MemoryLayout<T>.size ? NumberRange(type) : nil
        try withUnsafeTemporaryAllocation(byteCount: min(step, max(values.count, 1)) * size, alignment: 64) { buffer in
            for start in stride(from: 0, to: values.count, by: step) {
                let count = min(step, values.count - start)
                try range?.check(UnsafeBufferPointer(rebasing: values[start..<start + count]), of: name)
                convert(values.baseAddress! + start, buffer.baseAddress!, count)
                try emit(UnsafeRawBufferPointer(rebasing: buffer[..<(count * size)]))
            }
        }
    }
}

/// Rounded once: through `Float` it would be rounded twice. Odd rounding to 32 bits first makes the second step exact.
private func oddRounded(_ value: Double) -> Float {
    let nearest = Float(value)
    guard Double(nearest) != value, nearest.isFinite, nearest.bitPattern & 1 == 0 else { return nearest }
    // The neighbour on the other side of the value has an odd last bit.
    return (Double(nearest) < value) ? nearest.nextUp : nearest.nextDown
}

private func f16FromDouble(_ value: Double) -> UInt16 { f16FromFloat(oddRounded(value)) }
private func bf16FromDouble(_ value: Double) -> UInt16 { bf16FromFloat(oddRounded(value)) }
