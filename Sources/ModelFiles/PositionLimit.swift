// How long a document may be for a model that cannot take any length.
public import Formats

/// Tokens of the longest document for the model in a folder, by its config.json; nil where any length works.
public func positionLimit(ofModel folder: String) throws -> Int? {
    let file = joinPath(folder, "config.json")
    return fileExists(file) ? positionLimit(try readJSONFile(file)) : nil
}

/// Rows of the position table where positions are one; nil where they are computed and any length works.
public func positionLimit(_ config: JSONValue) -> Int? {
    config["model_type"]?.string == "gpt2" ? config["n_positions"]?.int : nil
}
