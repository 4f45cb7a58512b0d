// A model that writes a given text: after each token comes one other, whatever stood before.
// V vocabulary size = hidden size
public import Formats
internal import Layers
public import Models
internal import Tensors
internal import Tokenizers

/// config.json of a model with the tiny tokenizer's vocabulary.
public func textConfig(_ family: TinyFamily = .llama) -> JSONValue {
    family.config.changing(
        family == .gpt2
            ? ["vocab_size": 268, "n_positions": 512] : ["vocab_size": 268, "max_position_embeddings": 512])
}

/// Writes a folder with a tokenizer, too.
public func writeTextFolder(
    _ path: String, _ config: JSONValue, _ model: any CausalLanguageModel, eos: String = "</s>"
) throws {
    try writeFolder(path, config, model)
    try tinyTokenizer(eos: eos).save(to: path)
}

/// Writes a folder whose model continues each token of `script` with the next one, and every other token with `</s>`.
///
/// Token table: unit vectors; attention and MLP: nothing; head: from each unit vector to that of the next token.
/// - Parameter confidence: score of the next token, all others having 0.
/// - Precondition: no token comes twice in `script` but as its last.
public func writeScriptedFolder(_ path: String, _ script: String, confidence: Double = 20) throws {
    let tokenizer = try tinyTokenizer(), V = tokenizer.vocabularySize
    let config = textConfig().changing([
        "vocab_size": .init(V), "hidden_size": .init(V), "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 2, "num_hidden_layers": 1,
    ])
    let model = try Llama(LlamaConfig(config, file: "config.json"), .float32, on: .cpu)
    let ids = tokenizer.encode(script, addSpecialTokens: false).map(Int.init)
    precondition(Set(ids.dropLast()).count == ids.count - 1, "a token of \(script) comes twice")
    var next = [Int](repeating: 1, count: V)
    for (id, follower) in zip(ids, ids.dropFirst()) { next[id] = follower }
    func matrix(_ entry: (Int) -> (row: Int, column: Int), _ value: Double) -> Tensor {
        var values = [Float](repeating: 0, count: V * V)
        for i in 0..<V { values[entry(i).row * V + entry(i).column] = Float(value) }
        return Tensor(values, [V, V])
    }
    for (name, parameter) in model.namedParameters() {
        switch name {
        case "model.embed_tokens.weight": parameter.value.copyInPlace(matrix({ ($0, $0) }, 1))
        // The norm makes a unit vector as long as √V.
        case "lm_head.weight":
            parameter.value.copyInPlace(matrix({ (next[$0], $0) }, confidence / Double(V).squareRoot()))
        default: parameter.value.copyInPlace(.full(parameter.shape, name.hasSuffix("norm.weight") ? 1 : 0))
        }
    }
    try writeTextFolder(path, config, model)
}
