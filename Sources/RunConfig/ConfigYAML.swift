// YAML to a configuration tree and back.
//
// Rules, each with a test: scalars are read by the type of their field (`no` is text in a text field, false in a
// yes/no field; `08` is text in a text field and refused as a number; `1e-5` is a number where one is expected); keys
// are written once; aliases and `<<` work but expand to 10,000 nodes at most; one document a file.

internal import Diagnostics
internal import Yams

/// Refused before the parser sees it: no configuration is this long.
private let maxBytes = 1 << 20

/// What a kind of YAML file may hold.
package struct YAMLRules: Sendable {
    /// Nodes after aliases are expanded.
    var maxNodes: Int
    /// Aliases (`*name`) in the file.
    var maxAliases: Int
    /// Whether `<<` merges sections key by key at every depth; false: what stands beside `<<` replaces whole values, as
    /// YAML's own merge keys do.
    var mergesDeeply: Bool

    /// Configurations of runs. With k aliases a document expands to less than 3^(k/3) copies, so 30 bounds what the
    /// parser itself does with aliases inside keys (it hashes them) before the nodes are counted.
    package static let run = YAMLRules(maxNodes: 10_000, maxAliases: 30, mergesDeeply: true)
    /// Merge configurations: hundreds of slices that repeat each other through aliases. Beyond 30 aliases a key must be
    /// a word, so that the parser has no expanded key to hash.
    package static let merge = YAMLRules(maxNodes: 200_000, maxAliases: 10_000, mergesDeeply: false)
}

/// Reads one YAML document.
///
/// - Parameters:
///   - source: how the text is called in messages: a file name or "command line".
///   - numbersLines: false where a line number would say nothing.
/// - Throws: `YAMLProblem` for what is not YAML or not plain data.
func parseYAML(_ text: String, source: String, numbersLines: Bool = true) throws -> ConfigTree {
    let place = { (line: Int?) in Place(description: numbersLines && line != nil ? "\(source):\(line!)" : source) }
    let root = try reading(text, .run, place) { try compose(yaml: $0) }
    guard let root else { return ConfigTree(.null, place(nil)) }
    var reader = TreeReader(place: place, rules: .run)
    // The root has no line: a key that is missing is missing from the file, not from its first line.
    return ConfigTree(try reader.tree(root, depth: 0).kind, place(nil))
}

/// Reads every document of a YAML file (`---` between them), in order; empty ones are left out.
///
/// - Throws: `YAMLProblem` for what is not YAML or not plain data.
package func parseYAMLDocuments(_ text: String, source: String, rules: YAMLRules) throws -> [ConfigTree] {
    let place = { (line: Int?) in Place(description: line != nil ? "\(source):\(line!)" : source) }
    var reader = TreeReader(place: place, rules: rules)
    return try reading(text, rules, place) { text in
        let parser = try Parser(yaml: text)
        var roots: [Node] = []
        while let root = try parser.nextRoot() { roots.append(root) }
        return roots
    }.map { ConfigTree(try reader.tree($0, depth: 0).kind, place(nil)) }
        .filter { if case .null = $0.kind { false } else { true } }
}

/// Runs the parser behind the limits, and says where it stumbled.
private func reading<R>(
    _ text: String, _ rules: YAMLRules, _ place: (Int?) -> Place, _ parse: (String) throws -> R
) throws -> R {
    guard text.utf8.count <= maxBytes else {
        throw YAMLProblem(place: place(nil), message: "longer than 1 MiB, which no configuration is")
    }
    let aliases = aliasCount(text)
    guard aliases <= rules.maxAliases else {
        throw YAMLProblem(
            place: place(nil), message: "more than \(rules.maxAliases) YAML aliases (*name); write the values out")
    }
    if aliases > YAMLRules.run.maxAliases, mayHaveSectionAsKey(text) {
        throw YAMLProblem(
            place: place(nil),
            message:
                "more than \(YAMLRules.run.maxAliases) YAML aliases (*name) and a key that is not a word; write the key out"
        )
    }
    do {
        return try parse(text.hasPrefix("\u{FEFF}") ? String(text.dropFirst()) : text)
    } catch let error as YamlError {
        let (line, message) = described(error)
        throw YAMLProblem(place: place(line), message: message)
    }
}

/// What is wrong with a text as YAML.
package struct YAMLProblem: Error {
    package let place: Place
    package let message: String
}

/// True when some key may be an alias, a list or a section: `? key`, `*name :`, `[...]:`, `{...}:` (also inside texts,
/// which cannot be told apart without parsing).
private func mayHaveSectionAsKey(_ text: String) -> Bool {
    // `ended`: what was just read may be a key of that kind, so that a colon, blanks before it or not, would make it one.
    var ended = false, inAlias = false, previous: UInt8 = 0x0A
    for byte in text.utf8 {
        if previous == UInt8(ascii: "?"), byte <= 0x20 { return true }
        if byte == UInt8(ascii: ":"), ended { return true }
        let isBlank = byte == 0x20 || byte == 0x09
        if byte == UInt8(ascii: "*"), previous <= 0x20 || "[{,:-?".utf8.contains(previous) {
            inAlias = true
        } else if isBlank || byte == 0x0A || "[]{},".utf8.contains(byte) {
            inAlias = false
        }
        if !isBlank { ended = inAlias || byte == UInt8(ascii: "]") || byte == UInt8(ascii: "}") }
        previous = byte
    }
    return false
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
    let rules: YAMLRules
    var nodes = 0

    mutating func tree(_ node: Node, depth: Int) throws -> ConfigTree {
        nodes += 1
        let place = place(node.mark?.line)
        guard nodes <= rules.maxNodes, depth <= 64 else {
            throw YAMLProblem(
                place: place, message: "more than \(rules.maxNodes) values or 64 levels (are aliases nested?)")
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
                merged = try merging(child, into: merged, keyPlace)
            } else {
                own.append((scalar.string, keyPlace, ConfigTree(child.kind, keyPlace)))
            }
        }
        return overlay(ConfigTree(.map(own), place), on: merged)
    }

    /// What `<<` stands for: one section, or a list of sections of which an earlier one wins.
    private func merging(_ child: ConfigTree, into merged: ConfigTree, _ place: Place) throws -> ConfigTree {
        let sections: [ConfigTree]
        if case .list(let items) = child.kind, !rules.mergesDeeply { sections = items } else { sections = [child] }
        return try sections.reversed().reduce(merged) { merged, section in
            guard case .map = section.kind else {
                throw YAMLProblem(place: place, message: "<<: expected one section, as in \"<<: *name\"")
            }
            return overlay(section, on: merged)
        }
    }

    private func overlay(_ upper: ConfigTree, on lower: ConfigTree) -> ConfigTree {
        if rules.mergesDeeply { return lower.overlaid(by: upper) }
        guard case .map(var entries) = lower.kind, case .map(let additions) = upper.kind else { return upper }
        for addition in additions {
            if let i = entries.firstIndex(where: { $0.key == addition.key }) {
                entries[i] = addition
            } else {
                entries.append(addition)
            }
        }
        return ConfigTree(.map(entries), upper.place ?? lower.place)
    }
}

/// A text as it can stand in YAML, as the value of `key=value` or inside `[...]`, and is read back as that text.
public func yamlText(_ text: String) -> String { spelled(text, quoted: true) }

/// Writes a tree as YAML: keys in the order of the tree, two spaces a level; reading it gives the tree again.
package func writeYAML(_ tree: ConfigTree) -> String {
    var lines: [String] = []
    appendYAML(tree, level: 0, to: &lines)
    return lines.joined(separator: "\n") + "\n"
}

private func appendYAML(_ tree: ConfigTree, level: Int, to lines: inout [String]) {
    let indent = String(repeating: "  ", count: level)
    switch tree.kind {
    case .map(let entries):
        for entry in entries {
            let key = "\(indent)\(spelled(entry.key, quoted: true)):"
            if isBlock(entry.value) {
                lines.append(key)
                appendYAML(entry.value, level: level + 1, to: &lines)
            } else {
                lines.append("\(key) \(inline(entry.value))")
            }
        }
    case .list(let items) where isBlock(tree):
        for item in items {
            var below: [String] = []
            appendYAML(item, level: level + 1, to: &below)
            let first = below.removeFirst().drop { $0 == " " }
            lines += ["\(indent)- \(first)"] + below
        }
    default: lines.append(indent + inline(tree))
    }
}

/// Sections and lists with sections in them take a line for each entry; other lists stay on one line.
private func isBlock(_ tree: ConfigTree) -> Bool {
    switch tree.kind {
    case .map(let entries): !entries.isEmpty
    case .list(let items): items.contains { if case .map(let entries) = $0.kind { !entries.isEmpty } else { false } }
    default: false
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
