// What a tensor's name says: its layer, whether it comes before or after the layers, whether it has a row a token.
internal import Formats

/// A tensor's name taken apart at its layer number, the first `.<digits>.` in it.
struct LayeredName: Hashable {
    /// "model.layers" of "model.layers.3.mlp.up_proj.weight".
    let prefix: String
    let layer: Int
    /// "mlp.up_proj.weight".
    let rest: String

    /// Nil for a name without a layer number.
    init?(_ name: String) {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        let inner = parts.indices.dropFirst().dropLast()
        guard
            let i = inner.first(where: { !parts[$0].isEmpty && parts[$0].utf8.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } }
            ),
            let layer = Int(parts[i])
        else { return nil }
        (prefix, self.layer, rest) = (
            parts[..<i].joined(separator: "."), layer, parts[(i + 1)...].joined(separator: ".")
        )
    }

    func name(at layer: Int) -> String { "\(prefix).\(layer).\(rest)" }
}

enum TensorName {
    /// Buffers that old checkpoints store and every loader computes anew: they are neither merged nor written.
    static func isDerived(_ name: String) -> Bool {
        ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"].contains { name.hasSuffix($0) }
    }

    /// Whether a tensor outside the layers belongs before them. The rule agrees with mergekit's tables for all families
    /// whose layers are in one stack.
    static func comesBeforeLayers(_ name: String) -> Bool {
        if name.contains("embed_out") || name.contains("lm_head") { return false }
        return ["embed", "embd", "wte", "wpe", "shared.weight", "rotary_pos_emb", "relative_pe"].contains {
            name.contains($0)
        }
    }

    /// The output table.
    static func isHead(_ name: String) -> Bool {
        ["lm_head.weight", "embed_out.weight", "output.weight"].contains(name)
    }

    /// The input table of tokens.
    static func isEmbedding(_ name: String) -> Bool {
        let endings = [
            "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight",
        ]
        return endings.contains { name == $0 || name.hasSuffix(".\($0)") } || name == "shared.weight"
            || name == "backbone.embeddings.weight"
    }

    /// Whether the first axis of the tensor is the vocabulary.
    static func hasVocabularyAxis(_ name: String) -> Bool {
        isHead(name) || isEmbedding(name) || name == "lm_head.bias"
    }
}
