// How long a document may be for a model whose positions are a table.
internal import Formats

/// Rows of the position table of the model in a folder, by its config.json; nil where positions are computed, and any
/// length works.
public func positionLimit(ofModel folder: String) throws -> Int? {
    let file = joinPath(folder, "config.json")
    guard fileExists(file) else { return nil }
    let config = try readJSONFile(file)
    return config["model_type"]?.string == "gpt2" ? config["n_positions"]?.int : nil
}
