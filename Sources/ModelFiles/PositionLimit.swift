// How long a document may be for a model that cannot take any length.
public import Formats

/// Tokens of the longest document for the model in a folder, by its config.json; nil where any length works.
public func positionLimit(ofModel folder: String) throws -> Int? {
    let file = joinPath(folder, "config.json")
    return fileExists(file) ? positionLimit(try readJSONFile(file)) : nil
}

/// Rows of the position table where positions are one; the length that rotary frequencies are given for where their
/// scaling depends on the document's own length (dynamic scaling, LongRoPE); nil where any length works.
public func positionLimit(_ config: JSONValue) -> Int? {
    if config["model_type"]?.string == "gpt2" { return config["n_positions"]?.int }
    let scaling = config["rope_parameters"] ?? .null
    let settings = scaling.isNull ? config["rope_scaling"] ?? .null : scaling
    let type = settings["rope_type"]?.string ?? settings["type"]?.string
    // Phi-3's first configurations called LongRoPE by other names.
    let isPhi3 = config["model_type"]?.string == "phi3"
    if type == "dynamic" { return config["max_position_embeddings"]?.int }
    guard type == "longrope" || type == "su" || isPhi3 && type == "yarn" else { return nil }
    return settings["original_max_position_embeddings"]?.int ?? config["original_max_position_embeddings"]?.int
}
