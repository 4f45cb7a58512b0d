// A config is a file, or the name of one that comes with the program.
internal import Diagnostics
internal import Formats
public import RunConfig

/// Reads a config with its `key=value` changes; defaults that depend on others are not filled in yet (`resolved()`).
///
/// - Parameter config: path of a YAML file, else the name of a recipe that comes with the program.
/// - Throws: `ConfigError` with every problem, `UserError` when there is neither such a file nor such a recipe.
public func loadConfig(_ config: String, overrides: [String] = []) throws -> SFTConfig {
    if !fileExists(config), let recipe = BuiltInRecipe.named(config) {
        return try ConfigLoader.load(SFTConfig.self, text: recipe.yaml, name: config, overrides: overrides)
    }
    if !pathExists(config), !config.contains("/"), !config.hasSuffix(".yaml"), !config.hasSuffix(".yml") {
        throw unknownRecipe(config)
    }
    return try ConfigLoader.load(SFTConfig.self, file: config, overrides: overrides)
}

func unknownRecipe(_ name: String) -> UserError {
    let meant = nearestName(to: name, among: BuiltInRecipe.all.map(\.name))
    let hint = meant.map { "; did you mean \($0)?" } ?? "; `needletail recipes ls` lists them"
    return UserError("no file and no recipe is named \(name)\(hint)", .usage)
}
