// The variables of the Hub's own client (huggingface_hub/constants.py), read as it reads them.
internal import Formats

/// Reads a variable: nil when it is not set, or set to nothing. In the program `environmentVariable`.
public typealias VariableReader = (_ name: String) -> String?

/// `$HF_HOME`, else `huggingface` in `$XDG_CACHE_HOME` or in `~/.cache`.
public func hubHome(_ variable: VariableReader) -> String? {
    if let home = hubPath("HF_HOME", variable) { return home }
    if let cache = hubPath("XDG_CACHE_HOME", variable) { return joinPath(cache, "huggingface") }
    return variable("HOME").map { joinPath($0, ".cache/huggingface") }
}

/// The path that a variable holds, with `~`, `$NAME` and `${NAME}` in it replaced: no shell does it for what stands in a
/// service's or a container's file.
public func hubPath(_ name: String, _ variable: VariableReader) -> String? {
    variable(name).map { expandingVariables(in: expandingHome(in: $0, variable), variable) }
}

/// Whether a variable says yes.
public func hubSwitch(_ name: String, _ variable: VariableReader) -> Bool { isYes(variable(name)) }

/// Whether nobody may be asked: `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE`.
public func hubIsOffline(_ variable: VariableReader) -> Bool {
    isYes(variable("HF_HUB_OFFLINE") ?? variable("TRANSFORMERS_OFFLINE"))
}

private func isYes(_ value: String?) -> Bool { ["1", "ON", "YES", "TRUE"].contains((value ?? "").uppercased()) }

private func expandingHome(in path: String, _ variable: VariableReader) -> String {
    guard path == "~" || path.hasPrefix("~/"), let home = variable("HOME") else { return path }
    return path == "~" ? home : joinPath(home, String(path.dropFirst(2)))
}

/// A variable that is not set stays as it is written, as in Python.
private func expandingVariables(in path: String, _ variable: VariableReader) -> String {
    var result = "", rest = Substring(path)
    while let dollar = rest.firstIndex(of: "$") {
        result.append(contentsOf: rest[..<dollar])
        let after = rest[dollar...].dropFirst()
        let isBraced = after.first == "{"
        let name = isBraced ? after.dropFirst().prefix(while: { $0 != "}" }) : after.prefix(while: isNameCharacter)
        let isWhole = !name.isEmpty && (!isBraced || name.endIndex < rest.endIndex)
        let end = isBraced && isWhole ? rest.index(after: name.endIndex) : name.endIndex
        result.append(contentsOf: (isWhole ? variable(String(name)) : nil) ?? String(rest[dollar..<end]))
        rest = rest[end...]
    }
    return result + rest
}

private func isNameCharacter(_ character: Character) -> Bool {
    character == "_" || character.isASCII && (character.isLetter || character.isNumber)
}
