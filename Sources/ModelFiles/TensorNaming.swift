// How a family names its tensors in files: for everything that reads weights by name, with or without a model.
internal import Diagnostics
internal import Formats

/// Names of a family's tensors, as transformers writes them.
public struct TensorNaming: Sendable, Equatable {
    /// The token table.
    public let tokenTable: String
    /// What the names of the blocks' tensors begin with, before the block's number.
    public let blocks: String
    /// Whether the linear maps of the blocks lie transposed, `[inputs, outputs]`: transformers' `Conv1D`.
    public let mapsLieTransposed: Bool
    /// Beginnings of names that other writers leave without their prefix.
    private let prefix: String
    private let barePrefixes: [String]
    /// Ends of names that hold nothing of the model: buffers of old exporters.
    private let leftovers: [String]
    /// Beginnings of names of parts for other tasks, which are left out.
    private let otherTasks: [String]
    /// The output table, where it is not the token table.
    public let headTable: String
    /// The norm in front of the output table, without the decoder's name.
    public let finalNormModule: String

    public static let llama = TensorNaming(
        tokenTable: "model.embed_tokens.weight", blocks: "model.layers.", mapsLieTransposed: false, prefix: "",
        barePrefixes: [], leftovers: [".rotary_emb.inv_freq"], headTable: "lm_head.weight", finalNormModule: "norm")

    /// GPT-2: the published folders have the names of the model without its head.
    public static let gpt2 = TensorNaming(
        tokenTable: "transformer.wte.weight", blocks: "transformer.h.", mapsLieTransposed: true, prefix: "transformer.",
        barePrefixes: ["wte.", "wpe.", "h.", "ln_f."], leftovers: [".attn.bias", ".attn.masked_bias"],
        headTable: "lm_head.weight", finalNormModule: "ln_f")

    /// GPT-NeoX and Pythia.
    public static let gptNeoX = TensorNaming(
        tokenTable: "gpt_neox.embed_in.weight", blocks: "gpt_neox.layers.", mapsLieTransposed: false, prefix: "",
        barePrefixes: [], leftovers: [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"],
        headTable: "embed_out.weight", finalNormModule: "final_layer_norm")

    /// BERT without the heads of its training: the published folders have the names with and without `bert.`.
    public static let bert = TensorNaming(
        tokenTable: "bert.embeddings.word_embeddings.weight", blocks: "bert.encoder.layer.", mapsLieTransposed: false,
        prefix: "bert.", barePrefixes: ["embeddings.", "encoder.", "pooler."], leftovers: [".position_ids"],
        otherTasks: ["cls.", "classifier.", "qa_outputs."], headTable: "cls.predictions.decoder.weight",
        finalNormModule: "LayerNorm")

    /// - Parameter modelType: config.json's; an unknown one is taken for Llama's, whose names most families share.
    public init(modelType: String?) {
        self =
            switch modelType {
            case "gpt2": .gpt2
            case "gpt_neox": .gptNeoX
            default: .llama
            }
    }

    /// Of the folder's config.json; Llama's where there is none.
    public init(folder: String) throws {
        let file = joinPath(folder, "config.json")
        self.init(modelType: fileExists(file) ? try readJSONFile(file)["model_type"]?.string : nil)
    }

    private init(
        tokenTable: String, blocks: String, mapsLieTransposed: Bool, prefix: String, barePrefixes: [String],
        leftovers: [String], otherTasks: [String] = [], headTable: String, finalNormModule: String
    ) {
        (self.tokenTable, self.blocks, self.mapsLieTransposed) = (tokenTable, blocks, mapsLieTransposed)
        (self.prefix, self.barePrefixes) = (prefix, barePrefixes)
        (self.leftovers, self.otherTasks) = (leftovers, otherTasks)
        (self.headTable, self.finalNormModule) = (headTable, finalNormModule)
    }

    /// The name of the weight that a file's tensor holds; nil when it holds none.
    public func weight(_ tensor: String) -> String? {
        let name = barePrefixes.contains { tensor.hasPrefix($0) } ? prefix + tensor : tensor
        if otherTasks.contains(where: { name.hasPrefix($0) }) { return nil }
        return leftovers.contains { name.hasSuffix($0) } ? nil : name
    }

    /// Whether it is the weight of a linear map of a block, by the weight's name and the tensor's shape.
    public func isBlockMap(_ weight: String, _ shape: [Int]) -> Bool {
        weight.hasPrefix(blocks) && weight.hasSuffix(".weight") && shape.count == 2
    }

    /// `modules_to_save` for the token table: the last part of its name without `.weight`.
    public var tokenModule: String { String(tokenTable.split(separator: ".").dropLast().last!) }
    /// `modules_to_save` for the output table.
    public var headModule: String { String(headTable.dropLast(".weight".count)) }
    /// `modules_to_save` for the output table in adapters of every family: transformers 5's name of it.
    public static let adapterHeadModule = "lm_head"
    /// The model's own names for an adapter's `modules_to_save`.
    public func modules(saved names: [String]) -> [String] {
        names.map { $0 == Self.adapterHeadModule ? headModule : $0 }
    }
    /// Whether a weight is one of these modules', or of a module inside of one, by PEFT's rule: their name, or its end after
    /// a dot.
    public static func belongs(_ weight: String, to modules: [String]) -> Bool {
        let path = "." + weight.prefix(upTo: weight.lastIndex(of: ".") ?? weight.startIndex) + "."
        return modules.contains { path.contains(".\($0).") }
    }
    /// The model without its output table.
    public var decoderModule: String { String(tokenTable.prefix { $0 != "." }) }
    /// The list of blocks, without the decoder's name.
    public var blockModule: String { String(blocks.split(separator: ".").last!) }
}
