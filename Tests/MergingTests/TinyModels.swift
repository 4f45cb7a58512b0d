// Tiny Llama-shaped folders for tests of merging, and reading results back.
import Diagnostics
import Formats
import Glibc

import Merging

/// Runs `body` with a folder that is removed afterwards.
func withFolder<R>(_ body: (String) throws -> R) throws -> R {
    var template = Array("/tmp/needletail-merging-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw UserError("mkdtemp failed", .internal) }
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer { try? removeTree(folder) }
    return try body(folder)
}

/// A model of a few thousand numbers: names and shapes of Llama, hidden size 8.
struct TinyModel {
    var layers = 4
    var vocabSize = 20
    var hiddenSize = 8
    var type = ElementType.f32
    var tied = false
    var architecture = "LlamaForCausalLM"
    var seed: UInt32 = 1
    /// Added to the random numbers of this seed instead of being drawn alone: a fine-tune of that model.
    var parent: UInt32?
    /// Put before the names of a part of a larger model.
    var prefix = ""
    /// Tensors of other parts, and what config.json says of them.
    var more: [(name: String, shape: [Int])] = []
    var moreConfig = JSONObject()
    /// Changes a tensor's values, or its shape, or leaves it out (nil).
    var edit: (String, [Int], [Float]) -> ([Int], [Float])? = { ($1, $2) }

    func tensors() -> [(name: String, shape: [Int])] {
        let D = hiddenSize, F = 12,
            layer: [(String, [Int])] = [
                ("input_layernorm.weight", [D]), ("mlp.down_proj.weight", [D, F]), ("mlp.gate_proj.weight", [F, D]),
                ("mlp.up_proj.weight", [F, D]), ("post_attention_layernorm.weight", [D]),
                ("self_attn.k_proj.weight", [4, D]),
                ("self_attn.o_proj.weight", [D, D]), ("self_attn.q_proj.weight", [D, D]),
                ("self_attn.v_proj.weight", [4, D]),
            ]
        let stack = (0..<layers).flatMap { i in layer.map { ("model.layers.\(i).\($0.0)", $0.1) } }
        let text =
            [("model.embed_tokens.weight", [vocabSize, D])] + stack + [("model.norm.weight", [D])]
            + (tied ? [] : [("lm_head.weight", [vocabSize, D])])
        return text.map { (prefix + $0.0, $0.1) } + more
    }

    /// Values of a tensor: the parent's plus a tenth of this seed's, or this seed's alone.
    static func values(_ name: String, _ count: Int, _ seed: UInt32, _ parent: UInt32?) -> [Float] {
        var state = seed &* 2_654_435_761
        for byte in name.utf8 { state = (state ^ UInt32(byte)) &* 16_777_619 }
        let own = (0..<count).map { _ -> Float in
            state = state &* 1_664_525 &+ 1_013_904_223
            return Float(state >> 8) / Float(1 << 24) - 0.5
        }
        guard let parent else { return own }
        return zip(values(name, count, parent, nil), own).map { $0 + 0.1 * $1 }
    }

    @discardableResult
    func write(to folder: String, maxShardBytes: Int = 5_000_000_000) throws -> TinyModel {
        let outputs = tensors().compactMap { name, shape -> SafetensorsWriter.Tensor? in
            let count = shape.reduce(1, *)
            guard let (shape, values) = edit(name, shape, Self.values(name, count, seed, parent)) else { return nil }
            return SafetensorsWriter.Tensor(name: name, elementType: type, shape: shape) { emit in
                try bytes(of: values, type).withUnsafeBytes { try emit($0) }
            }
        }
        try SafetensorsWriter.write(
            folder: folder, tensors: outputs, metadata: [("format", "pt")], maxShardBytes: maxShardBytes)
        let config: JSONValue = [
            "architectures": [.string(architecture)], "model_type": "llama", "hidden_size": .init(hiddenSize),
            "num_hidden_layers": .init(layers), "vocab_size": .init(vocabSize), "tie_word_embeddings": .init(tied),
            "torch_dtype": "float32",
        ]
        var object = config.object!
        for (key, value) in moreConfig { object[key] = value }
        try writeFileAtomically(JSONValue.object(object).serialized(.pretty), to: joinPath(folder, "config.json"))
        return self
    }
}

private func bytes(of values: [Float], _ type: ElementType) -> [UInt8] {
    switch type {
    case .bf16: values.flatMap { value in withUnsafeBytes(of: bf16FromFloat(value).littleEndian) { Array($0) } }
    case .f16: values.flatMap { value in withUnsafeBytes(of: f16FromFloat(value).littleEndian) { Array($0) } }
    case .f64: values.flatMap { value in withUnsafeBytes(of: Double(value)) { Array($0) } }
    default: values.flatMap { value in withUnsafeBytes(of: value) { Array($0) } }
    }
}

/// A result read back.
struct MergedModel {
    let weights: SafetensorsFolder
    let config: JSONValue
    let folder: String

    init(_ folder: String) throws {
        self.folder = folder
        weights = try SafetensorsFolder(folder: folder)
        config = try readJSONFile(joinPath(folder, "config.json"))
    }

    func values(_ name: String) throws -> [Float] {
        let reader = try StoredTensor(weights, name)
        return try [Float](unsafeUninitializedCapacity: reader.elementCount) { buffer, filled in
            if reader.elementCount > 0 { try reader.read(0..<reader.elementCount, into: buffer.baseAddress!) }
            filled = reader.elementCount
        }
    }

    /// Name, type, shape and bytes of every tensor.
    func contents() throws -> [String: [UInt8]] {
        try Dictionary(
            uniqueKeysWithValues: weights.names.map { name in
                let info = weights.info(name)!
                return ("\(name) \(info.elementType) \(info.shape)", Array(try weights.bytes(of: name)))
            })
    }
}

/// Reads a configuration in which `DIR` stands for `folder`.
func parseMerge(_ yaml: String, _ folder: String) throws -> MergeConfig {
    let text = yaml.split(separator: "DIR", omittingEmptySubsequences: false).joined(separator: folder)
    return try MergeConfig.parse(text, source: "merge.yaml")[0]
}

/// Merges into `folder/name` and reads the result.
func merge(_ yaml: String, _ folder: String, name: String = "out", _ change: (inout MergeOptions) -> Void = { _ in })
    throws -> MergedModel
{
    var options = MergeOptions()
    options.showsProgress = false
    change(&options)
    let plan = try MergePlan(try parseMerge(yaml, folder), opened: MergeModels())
    try plan.write(to: joinPath(folder, name), nil, options)
    return try MergedModel(joinPath(folder, name))
}

/// The lines of the error that `body` throws; empty when it throws none.
func complaint(_ body: () throws -> Void) -> String {
    do {
        try body()
        return ""
    } catch let error as any UserFacing {
        return error.exitStatus == .badData ? error.message : "\(error.exitStatus): \(error.message)"
    } catch {
        return "another kind of error: \(error)"
    }
}
