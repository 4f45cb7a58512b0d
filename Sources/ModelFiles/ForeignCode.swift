// Code that a model folder brings along: told of, never run.
internal import Formats

/// What in a folder's settings asks other programs to run code, a line for people per file; empty for most folders.
public func ignoredCode(in folder: String) -> [String] {
    // auto_map: transformers; model_file: mlx-lm; custom_pipelines: pipelines of transformers; _target_: Hydra.
    let keys = ["auto_map", "model_file", "custom_pipelines", "custom_code", "trust_remote_code", "_target_"]
    let files = ["config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"]
    return files.compactMap { name in
        let path = joinPath(folder, name)
        // A file that is absent or broken is told of by whoever needs it.
        guard fileExists(path), let settings = try? readJSONFile(path) else { return nil }
        let found = keys.filter { key in settings[key].map { $0 != .null && $0 != .bool(false) } ?? false }
        return found.isEmpty ? nil : "\(path): \(found.joined(separator: ", ")): code of a model is never run; ignored"
    }
}
