// Defaults, file and command line, laid over each other and read into a struct; every problem is reported at once.

internal import Diagnostics
internal import Glibc

/// Reads configurations. Precedence: the struct's defaults, the file, then `key=value` overrides.
public enum ConfigLoader {
    /// The configuration that a file and overrides describe, not yet resolved.
    ///
    /// - Parameters:
    ///   - file: path of a YAML file; nil for overrides alone.
    ///   - overrides: `section.key=value`, the value being YAML (`data.train=[a.jsonl, b.jsonl]`); each key once.
    /// - Throws: `ConfigError` with one line per problem; `UserError` for a file that cannot be read.
    public static func load<C: RecipeConfig>(_ type: C.Type, file: String?, overrides: [String] = []) throws -> C {
        try load(type, text: try file.map(readText) ?? "", name: file ?? "configuration", overrides: overrides)
    }

    /// As `load(_:file:overrides:)`, from text.
    ///
    /// - Parameter name: what messages call the text.
    public static func load<C: RecipeConfig>(
        _ type: C.Type, text: String, name: String, overrides: [String] = []
    ) throws -> C {
        let defaults = configTree(C())
        let record = DecodingRecord()
        var tree = defaults
        do {
            let file = try parseYAML(text, source: name)
            switch file.kind {
            case .map, .null: tree = tree.overlaid(by: file)
            default: record.note("", "expected keys and values, found \(file.found)", file.place)
            }
        } catch let problem as YAMLProblem {
            // Without its keys nothing else can be said about the file.
            throw ConfigError(lines: ["\(problem.place.description): \(problem.message)"])
        }
        tree = overlay(overrides, on: tree, record)
        let config = try? TreeDecoder(tree: tree, fallback: defaults, path: "", record: record).value(type)
        reportUnknownKeys(tree, record)
        guard let config else { throw error(record) }
        // A key that could not be read was replaced by its default: what the ranges say of it would mislead.
        let unread = record.problems.map { $0.problem.key.prefix { $0 != "[" } }
        for problem in config.validate() where !unread.contains(where: { isWithin(problem.key, $0) }) {
            record.note(problem.key, problem.message, tree.place(of: problem.key))
        }
        guard record.problems.isEmpty else { throw error(record) }
        return config
    }

    /// The recipe a configuration file names, so that the caller can choose the struct to read it with.
    public static func recipe(ofFile file: String, overrides: [String] = []) throws -> String {
        let record = DecodingRecord()
        do {
            let tree = overlay(overrides, on: try parseYAML(try readText(file), source: file), record)
            if case .scalar(let name, _)? = tree["recipe"]?.kind { return name }
            throw UserError("\(file): no recipe named; add a line such as \"recipe: sft\"", .usage)
        } catch let problem as YAMLProblem {
            throw ConfigError(lines: ["\(problem.place.description): \(problem.message)"])
        }
    }

    private static func readText(_ path: String) throws -> String {
        guard let file = fopen(path, "r") else { throw unreadable(path) }
        defer { fclose(file) }
        var bytes: [UInt8] = [], buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 {
            bytes += buffer[..<count]
            guard bytes.count <= 1 << 24 else { throw UserError("\(path): too long for a configuration", .usage) }
        }
        guard ferror(file) == 0 else { throw unreadable(path) }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            let line = bytes[..<validPrefixLength(bytes)].count { $0 == 0x0A } + 1
            throw UserError("\(path):\(line): not UTF-8", .usage)
        }
        return text
    }

    /// Whether a key is the section or in it.
    private static func isWithin(_ key: String, _ section: Substring) -> Bool {
        key == section || !section.isEmpty && key.hasPrefix(section + ".")
    }

    /// What the last system call said about a config file.
    private static func unreadable(_ path: String) -> UserError {
        if errno == EISDIR { return folderGiven(path) }
        let reason = String(cString: strerror(errno))
        return UserError("\(path): cannot be read: \(reason); `needletail recipes cp` writes a config to start from")
    }

    /// A folder where a config should be: that of a run has one.
    private static func folderGiven(_ path: String) -> UserError {
        let folder = String(path.reversed().drop { $0 == "/" }.reversed()), file = "\(folder)/config.yaml"
        guard access(file, R_OK) == 0 else {
            return UserError(
                "\(path): a folder, not a config; `needletail recipes cp` writes one to start from", .usage)
        }
        guard access("\(folder)/run.json", F_OK) == 0 else {
            return UserError("\(path): a folder; name the config in it, \(file)", .usage)
        }
        let isFamily = (try? recipe(ofFile: file)) == EvolveConfig.recipeName
        // The folder may have been moved since its config was written.
        let command = "needletail \(isFamily ? "evolve" : "train") \(shellWord(file)) \(shellWord("output=\(folder)"))"
        return UserError("\(path): a run folder; its config is \(file) (`\(command)` goes on with the run)", .usage)
    }

    private static func validPrefixLength(_ bytes: [UInt8]) -> Int {
        var low = 0, high = bytes.count  // the longest prefix that is text, give or take one character
        while low < high {
            let middle = (low + high + 1) / 2
            let decoded = String(decoding: bytes[..<middle], as: UTF8.self).unicodeScalars
            if decoded.dropLast(3).contains("\u{FFFD}") { high = middle - 1 } else { low = middle }
        }
        return low
    }

    private static func overlay(_ overrides: [String], on tree: ConfigTree, _ record: DecodingRecord) -> ConfigTree {
        var tree = tree, seen: Set<String> = []
        for text in overrides {
            let place = Place(description: "command line")
            guard let equals = text.firstIndex(of: "="), equals != text.startIndex else {
                record.note("", "\"\(text)\" is not key=value", place)
                continue
            }
            let key = String(text[..<equals]), path = key.split(separator: ".", omittingEmptySubsequences: false)
            guard path.allSatisfy({ !$0.isEmpty }) else {
                record.note(key, "not a key; write section.key=value", place)
                continue
            }
            guard seen.insert(key).inserted else {
                record.note(key, "given more than once", place)
                continue
            }
            do {
                let yaml = String(text[text.index(after: equals)...])
                let value = try parseYAML(yaml, source: "command line", numbersLines: false)
                let layer = path.reversed().reduce(value) { ConfigTree(.map([(String($1), place, $0)]), place) }
                tree = tree.overlaid(by: layer)
            } catch let problem as YAMLProblem {
                record.note(key, "\(problem.message); put quotes around text", place)
            } catch {
                record.note(key, "\(error)", place)
            }
        }
        return tree
    }

    private static func reportUnknownKeys(_ tree: ConfigTree, _ record: DecodingRecord) {
        func visit(_ node: ConfigTree, _ section: String) {
            if case .list(let items) = node.kind {
                for (i, item) in items.enumerated() { visit(item, "\(section)[\(i)]") }
            }
            guard case .map(let entries) = node.kind, let known = record.asked[section] else { return }
            for entry in entries {
                let path = section.isEmpty ? entry.key : "\(section).\(entry.key)"
                if known.contains(entry.key) {
                    visit(entry.value, path)
                } else {
                    record.note(path, "unknown key\(hint(entry.key, known, record))", entry.place ?? entry.value.place)
                }
            }
        }
        visit(tree, "")
    }

    /// The same key in another section; else the nearest key of this one; else what this one has.
    private static func hint(_ key: String, _ known: [String], _ record: DecodingRecord) -> String {
        let elsewhere = record.asked.sorted { $0.key < $1.key }.first { !$0.key.isEmpty && $0.value.contains(key) }
        if let elsewhere { return "; did you mean \(elsewhere.key).\(key)?" }
        if let near = nearestName(to: key, among: known) { return "; did you mean \(near)?" }
        return "; known here: \(known.joined(separator: ", "))"
    }

    /// Problems of files by line, then those of the command line.
    private static func error(_ record: DecodingRecord) -> ConfigError {
        let ordered = record.problems.enumerated().sorted {
            (order($0.element.place), $0.offset) < (order($1.element.place), $1.offset)
        }
        return ConfigError(
            lines: ordered.map { _, entry in
                [entry.place?.description, entry.problem.key.isEmpty ? nil : entry.problem.key, entry.problem.message]
                    .compactMap { $0 }.joined(separator: ": ")
            })
    }

    private static func order(_ place: Place?) -> Int {
        guard let place else { return Int.max - 1 }
        return place.description.split(separator: ":").last.flatMap { Int($0) } ?? Int.max
    }
}

extension RecipeConfig {
    /// The configuration as YAML: every key, in the order of the struct; reading it gives an equal struct.
    public var yaml: String { writeYAML(configTree(self)) }

    /// Every key with its value as YAML spells it, in the order of the struct: `("optimizer.learning_rate", "0.0002")`.
    public var flattened: [(key: String, value: String)] {
        func visit(_ tree: ConfigTree, _ path: String) -> [(key: String, value: String)] {
            guard case .map(let entries) = tree.kind, !entries.isEmpty else {
                return [(path, String(writeYAML(ConfigTree(.list([tree]))).dropFirst().dropLast(2)))]
            }
            return entries.flatMap { visit($0.value, path.isEmpty ? $0.key : "\(path).\($0.key)") }
        }
        return visit(configTree(self), "")
    }
}
