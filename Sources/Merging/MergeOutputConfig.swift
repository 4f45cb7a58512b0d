// config.json of a merge: the donor's, with what the merge changes.
internal import Diagnostics
internal import Formats

extension MergePlan {
    /// The donor's config.json with layer counts, number format and tied tables as they are written.
    func outputConfig() throws -> JSONValue {
        guard var object = donor.config?.object else {
            throw UserError("\(donor.reference): config.json holds no object")
        }
        if let architecture = donor.reference.architecture { object["architectures"] = [.string(architecture)] }
        for part in parts where part.hasLayers { try setLayers(part, in: &object) }
        // Both keys are in use: newer writers put `dtype`, older readers look for `torch_dtype`.
        for key in ["dtype", "torch_dtype"] { object[key] = .string(mainType.configName) }
        setTiedTables(in: &object)
        setVocabularySize(in: &object)
        return .object(object)
    }

    private func setVocabularySize(in object: inout JSONObject) {
        guard let rows = tensors.first(where: { TensorName.isEmbedding($0.name) })?.shape.first else { return }
        if object["vocab_size"] != nil {
            object["vocab_size"] = .init(rows)
        } else if var text = object["text_config"]?.object, text["vocab_size"] != nil {
            text["vocab_size"] = .init(rows)
            object["text_config"] = .object(text)
        }
    }

    private func setTiedTables(in object: inout JSONObject) {
        let hasHead = tensors.contains { TensorName.isHead($0.name) }
        let hasTable = tensors.contains { TensorName.isEmbedding($0.name) }
        let isLanguageModel = object["architectures"]?.array?.contains { name in
            ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"].contains { name.string?.hasSuffix($0) == true }
        }
        guard hasTable, isLanguageModel == true else { return }
        object["tie_word_embeddings"] = .bool(!hasHead)
        // Models of several modalities keep a second flag with the text part.
        if var text = object["text_config"]?.object, text["tie_word_embeddings"] != nil {
            text["tie_word_embeddings"] = .bool(!hasHead)
            object["text_config"] = .object(text)
        }
    }

    /// Where families keep the number of layers of a part; the first that exists counts.
    private static func layerKeys(_ part: String?) -> [[String]] {
        let plain = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"].map { [$0] }
        switch part {
        case "decoder": return [["num_decoder_layers"], ["decoder_layers"]] + plain
        case "encoder": return [["encoder_layers"]] + plain
        case "vision_tower", "vision_model":
            return [
                ["vision_config", "num_hidden_layers"], ["vision_config", "depth"], ["vision_config", "num_layers"],
            ]
        default: return [["text_config", "num_hidden_layers"]] + plain
        }
    }

    private func setLayers(_ part: Part, in object: inout JSONObject) throws {
        let config = JSONValue.object(object)
        guard let key = Self.layerKeys(part.name).first(where: { value(config, $0)?.int != nil }) else {
            // Nothing to correct as long as the output has as many layers as the donor.
            if part.layers == Array(0..<part.layers.count) { return }
            throw UserError("\(donor.reference): config.json does not say where the number of layers is kept")
        }
        let count = value(config, key)?.int ?? 0
        if key.count == 1 {
            object[key[0]] = .init(part.layers.count)
            setLayerTypes(part, count, in: &object)
        } else if var section = object[key[0]]?.object {
            section[key[1]] = .init(part.layers.count)
            setLayerTypes(part, count, in: &section)
            object[key[0]] = .object(section)
        }
    }

    /// Lists with an entry a layer follow the layers.
    private func setLayerTypes(_ part: Part, _ count: Int, in object: inout JSONObject) {
        for key in ["layer_types", "mlp_layer_types", "no_rope_layers"] {
            guard let list = object[key]?.array, list.count == count else { continue }
            object[key] = .array(part.layers.map { $0 < list.count ? list[$0] : list[list.count - 1] })
        }
    }

    private func value(_ config: JSONValue, _ path: [String]) -> JSONValue? {
        path.reduce(config) { $0?[$1] ?? nil }
    }
}
