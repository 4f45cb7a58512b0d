// YAML to a configuration tree and back.
//
// Rules, each with a test: scalars are read by the type of their field (`no` is text in a text field, false in a
// yes/no field; `08` is text in a text field and refused as a number; `1e-5` is a number where one is expected); keys
// are written once; aliases and `<<` work but expand to 10,000 nodes at most; one document a file.

internal import Diagnostics
internal import Yams

/// Refused before the parser sees it: no configuration is this long.
private let maxBytes = 1 << 20
/// Nodes after aliases are expanded.
private let maxNodes = 10_000
/// With k aliases a document expands to less than 3^(k/3) copies, so this bounds what the parser itself does with
/// aliases inside keys (it hashes them) before `maxNodes` is counted.
private let maxAliases = 30

/// Reads one YAML document.
///
/// - Parameters:
///   - source: how the text is called in messages: a file name or "command line".
///   - numbersLines: false where a line number would say nothing.
/// - Throws: `YAMLProblem` for what is not YAML or not plain data.
func parseYAML(_ text: String, source: String, numbersLines: Bool = true) throws -> ConfigTree {
    let place = { (line: Int?) in Place(description: numbersLines && line != nil ? "\(source):\(line!)" : source) }
    guard text.utf8.count <= maxBytes else {
        throw YAMLProblem(place: place(nil), message: "longer than 1 MiB, which no configuration is")
    }
    guard aliasCount(text) <= maxAliases else {
        throw YAMLProblem(
            place: place(nil), message: "more than \(maxAliases) YAML aliases (*name); write the values out")
    }
    let root: Node?
    do {
        root = try compose(yaml: text.hasPrefix("\u{FEFF}") ? String(text.dropFirst()) : text)
    } catch let error as YamlError {
        let (line, message) = described(error)
        throw YAMLProblem(place: place(line), message: message)
    }
    guard let root else { return ConfigTree(.null, place(nil)) }
    var reader = TreeReader(place: place)
    // The root has no line: a key that is missing is missing from the file, not from its first line.
    return ConfigTree(try reader.tree(root, depth: 0).kind, place(nil))
}

/// What is wrong with a text as YAML.
struct YAMLProblem: Error {
    let place: Place
    let message: String
}

private func aliasCount(_ text: String) -> Int {
    var count = 0, previous: UInt8 = 0x20, star = false
    for byte in text.utf8 {
        if star, byte > 0x20 { count += 1 }
        star = byte == UInt8(ascii: "*") && (previous <= 0x20 || "[{,:-?".utf8.contains(previous))
        previous = byte
    }
    return count
}

private func described(_ error: YamlError) -> (line: Int?, message: String) {
    switch error {
    case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
        .composer(_, let problem, let mark, _):
        return (mark.line, "not YAML: \(problem) (column \(mark.column))")
    case .duplicatedKeysInMapping(let duplicates, let context):
        return (context.mark.line, "\(duplicates.joined(separator: ", ")): written more than once in one section")
    case .reader(let problem, _, _, _):
        return (nil, "not YAML: \(problem)")
    default:
        return (nil, "not YAML: \(error)".split(separator: "\n").joined(separator: " "))
    }
}

/// Yams' nodes to trees, with the limits that a hostile file meets.
private struct TreeReader {
    let place: (Int?) -> Place
    var nodes = 0

    mutating func tree(_ node: Node, depth: Int) throws -> ConfigTree {
        nodes += 1
        let place = place(node.mark?.line)
        guard nodes <= maxNodes, depth <= 64 else {
            throw YAMLProblem(place: place, message: "more than \(maxNodes) values or 64 levels (are aliases nested?)")
        }
        try checkTag(node, place)
        switch node {
        case .scalar(let scalar):
            let quoted = ![.plain, .any].contains(scalar.style)
            let isNull = !quoted && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
            return ConfigTree(isNull ? .null : .scalar(scalar.string, quoted: quoted), place)
        case .sequence(let items):
            return ConfigTree(.list(try items.map { try tree($0, depth: depth + 1) }), place)
        case .mapping(let mapping):
            return try section(mapping, place, depth)
        case .alias:
            throw YAMLProblem(place: place, message: "an alias that names nothing")
        }
    }

    /// Only plain data: `!!python/object` and the like are refused, the core tags of scalars say nothing new.
    private func checkTag(_ node: Node, _ place: Place) throws {
        let tag = node.tag.description
        guard tag.isEmpty || tag == "!" || tag.hasPrefix("tag:yaml.org,2002:"), !tag.contains("python") else {
            throw YAMLProblem(place: place, message: "the tag \(tag) is not allowed; write plain values")
        }
    }

    private mutating func section(_ mapping: Node.Mapping, _ place: Place, _ depth: Int) throws -> ConfigTree {
        var merged = ConfigTree(.map([]), place), own: [(key: String, place: Place?, value: ConfigTree)] = []
        for (key, value) in mapping {
            guard case .scalar(let scalar) = key else {
                throw YAMLProblem(place: self.place(key.mark?.line), message: "a key must be one word")
            }
            let keyPlace = self.place(key.mark?.line)
            let child = try tree(value, depth: depth + 1)
            if scalar.string == "<<", scalar.style == .plain {
                guard case .map = child.kind else {
                    throw YAMLProblem(place: keyPlace, message: "<<: expected one section, as in \"<<: *name\"")
                }
                merged = merged.overlaid(by: child)
            } else {
                own.append((scalar.string, keyPlace, ConfigTree(child.kind, keyPlace)))
            }
        }
        return merged.overlaid(by: ConfigTree(.map(own), place))
    }
}

/// A text as it can stand in YAML, as the value of `key=value` or inside `[...]`, and is read back as that text.
public func yamlText(_ text: String) -> String { spelled(text, quoted: true) }

/// Writes a tree as YAML: keys in the order of the tree, two spaces a level; reading it gives the tree again.
func writeYAML(_ tree: ConfigTree) -> String {
    var lines: [String] = []
    appendYAML(tree, level: 0, to: &lines)
    return lines.joined(separator: "\n") + "\n"
}

private func appendYAML(_ tree: ConfigTree, level: Int, to lines: inout [String]) {
    guard case .map(let entries) = tree.kind else { return lines.append(inline(tree)) }
    let indent = String(repeating: "  ", count: level)
    for entry in entries {
        if case .map(let children) = entry.value.kind, !children.isEmpty {
            lines.append("\(indent)\(spelled(entry.key, quoted: true)):")
            appendYAML(entry.value, level: level + 1, to: &lines)
        } else {
            lines.append("\(indent)\(spelled(entry.key, quoted: true)): \(inline(entry.value))")
        }
    }
}

private func inline(_ tree: ConfigTree) -> String {
    switch tree.kind {
    case .null: "null"
    case .scalar(let text, let quoted): spelled(text, quoted: quoted)
    case .list(let items): "[\(items.map(inline).joined(separator: ", "))]"
    case .map(let entries):
        "{\(entries.map { "\(spelled($0.key, quoted: true)): \(inline($0.value))" }.joined(separator: ", "))}"
    }
}

/// Text that any YAML reader takes for text stays bare; the rest is written with double quotes and JSON's escapes.
private func spelled(_ text: String, quoted: Bool) -> String {
    let bare = text.utf8.allSatisfy { isWordByte($0) || $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: ".") }
    if !quoted, bare, !text.isEmpty { return text }
    let startsLikeText = text.utf8.first.map { ($0 | 0x20) >= UInt8(ascii: "a") && ($0 | 0x20) <= UInt8(ascii: "z") }
    let words: Set = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
    if bare, startsLikeText == true, !words.contains(text.lowercased()) { return text }
    var out = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": out += "\\\""
        case "\\": out += "\\\\"
        case "\n": out += "\\n"
        case "\t": out += "\\t"
        case "\r": out += "\\r"
        default:
            let plain = scalar.value >= 0x20 && scalar.value < 0x7F || scalar.value >= 0xA0 && scalar.value != 0xFEFF
            let hex = String(scalar.value, radix: 16, uppercase: true)
            let breaks = (0x2028...0x2029).contains(scalar.value)
            if plain, !breaks {
                out.unicodeScalars.append(scalar)
            } else {
                out += "\\U" + String(repeating: "0", count: 8 - hex.count) + hex
            }
        }
    }
    return out + "\""
}

private func isWordByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
        true
    default: false
    }
}
