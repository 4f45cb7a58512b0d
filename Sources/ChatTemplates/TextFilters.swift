// Jinja's filters on text.

/// The filter of a string method, on whatever the value prints as.
private func soft(_ name: String, _ compute: @escaping @Sendable (String) -> String) -> Filter {
    { value, arguments, run in
        try arguments.none(of: name)
        let text = try value.string(run)
        try run.charge(text: text.utf8.count)
        return value.isMarkup ? .markup(compute(text)) : .string(compute(text))
    }
}

let textFilters: [String: Filter] = [
    "upper": soft("upper", uppercased), "lower": soft("lower", lowercased),
    "capitalize": soft("capitalize", capitalized), "title": soft("title", titleFilter),
    "trim": { value, arguments, run in
        let bound = try arguments.bound(to: ["chars"], of: "trim")
        let text = try value.string(run)
        return try stringMethod(text, "strip")!(Arguments([bound[0] ?? .null]), run)
    },
    "escape": { value, arguments, run in
        try arguments.none(of: "escape")
        return .markup(try value.isMarkup ? value.string(run) : escapedCharged(try value.string(run), run))
    },
    "forceescape": { value, arguments, run in
        try arguments.none(of: "forceescape")
        return .markup(try escapedCharged(try value.string(run), run))
    },
    "safe": { value, arguments, run in
        try arguments.none(of: "safe")
        return .markup(try value.string(run))
    },
    "striptags": { value, arguments, run in
        try arguments.none(of: "striptags")
        return .string(try withoutTags(try value.string(run), run))
    },
    "replace": { value, arguments, run in
        let bound = try arguments.bound(to: ["old", "new", "count"], required: 2, of: "replace")
        let limit = try bound[2].flatMap { $0.isNone ? nil : try integerArgument($0) } ?? -1
        return .string(
            try replaced(
                try value.string(run), try bound[0]!.string(run), by: try bound[1]!.string(run), limit: limit, run))
    },
    "format": { value, arguments, run in
        guard arguments.positional.isEmpty || arguments.keywords.isEmpty else {
            throw TemplateFailure("format takes positional or keyword arguments, not both")
        }
        let operand: Value =
            arguments.keywords.isEmpty
            ? .tuple(try List(arguments.positional))
            : .dict(try Dict(arguments.keywords.map { (.string($0.name), $0.value) }))
        return .string(try percentFormat(try value.string(run), operand, run))
    },
    "center": { value, arguments, run in
        let width = try arguments.bound(to: ["width"], of: "center")[0].map { try integerArgument($0) } ?? 80
        return .string(try justified(try value.string(run), "center", width, " ", run))
    },
    "indent": indentFilter, "truncate": truncateFilter,
    "wordcount": { value, arguments, run in
        try arguments.none(of: "wordcount")
        let text = try value.string(run)
        try run.work(text.utf8.count)
        var count = 0, inWord = false
        for scalar in text.unicodeScalars {
            let isWord = scalar == "_" || scalar.isPythonAlphanumeric
            if isWord, !inWord { count += 1 }
            inWord = isWord
        }
        return .int(count)
    },
]

private func escapedCharged(_ text: String, _ run: Run) throws -> String {
    let result = escaped(text)
    try run.charge(text: result.utf8.count)
    return result
}

/// Upper case at the start and after white space, hyphens and opening brackets, lower case elsewhere.
private func titleFilter(_ text: String) -> String {
    var output = "", word: [Unicode.Scalar] = []
    func flush() {
        guard let first = word.first else { return }
        output += uppercased(String(first)) + lowercased(String(scalars: word.dropFirst()))
        word = []
    }
    for scalar in text.unicodeScalars {
        if scalar.isPythonSpace || "-({[<".unicodeScalars.contains(scalar) {
            flush()
            output.unicodeScalars.append(scalar)
        } else {
            word.append(scalar)
        }
    }
    flush()
    return output
}

private func indentFilter(_ value: Value, _ arguments: Arguments, _ run: Run) throws -> Value {
    let bound = try arguments.bound(to: ["width", "first", "blank"], of: "indent")
    let indentation: String
    if let text = bound[0]?.text {
        indentation = text
    } else {
        let width = max(0, try bound[0].map { try integerArgument($0) } ?? 4)
        try run.charge(text: width)
        indentation = String(repeating: " ", count: width)
    }
    let text = try textArgument(value)
    var lines = lines(text + "\n", keepingEnds: false)
    try run.charge(text: text.utf8.count + lines.count * indentation.utf8.count)
    let indentsBlank = bound[2]?.isTrue ?? false
    for i in lines.indices.dropFirst() where indentsBlank || !lines[i].isEmpty { lines[i] = indentation + lines[i] }
    let result = (bound[1]?.isTrue ?? false ? indentation : "") + lines.joined(separator: "\n")
    return value.isMarkup ? .markup(result) : .string(result)
}

private func truncateFilter(_ value: Value, _ arguments: Arguments, _ run: Run) throws -> Value {
    let bound = try arguments.bound(to: ["length", "killwords", "end", "leeway"], of: "truncate")
    let length = try bound[0].map { try integerArgument($0) } ?? 255
    let end = try bound[2].map { try textArgument($0) } ?? "..."
    let leeway = try bound[3].flatMap { $0.isNone ? nil : try integerArgument($0) } ?? 5
    guard length >= end.scalarCount, leeway >= 0 else { throw TemplateFailure("truncate: length or leeway too small") }
    if value.isUndefined { return value }
    let text = try textArgument(value)
    let scalars = Array(text.unicodeScalars)
    if scalars.count <= length + leeway { return value }
    var kept = scalars[..<(length - end.scalarCount)]
    if !(bound[1]?.isTrue ?? false), let space = kept.lastIndex(of: " ") { kept = kept[..<space] }
    return .string(String(scalars: kept) + end)
}

/// Text without comments and tags, white space collapsed, entities read (as `markupsafe.Markup.striptags`).
private func withoutTags(_ text: String, _ run: Run) throws -> String {
    try run.charge(text: text.utf8.count)
    let words = withoutMarkup(text).unicodeScalars.split(whereSeparator: \.isPythonSpace)
    return try unescaped(words.map { String($0) }.joined(separator: " "), run)
}

/// Removes `<!--...-->` and `<...>` from the left; from one that does not end on, all stays.
private func withoutMarkup(_ text: String) -> String {
    let bytes = Array(text.utf8)
    var kept: [UInt8] = [], at = 0
    while let start = bytes[at...].firstIndex(of: UInt8(ascii: "<")) {
        let end: Int?
        if bytes[start...].starts(with: "<!--".utf8) {
            end = bytes.indices.dropFirst(start + 4).first { bytes[$0...].starts(with: "-->".utf8) }.map { $0 + 3 }
        } else {
            end = bytes[start...].firstIndex(of: UInt8(ascii: ">")).map { $0 + 1 }
        }
        guard let end else { break }
        kept += bytes[at..<start]
        at = end
    }
    return String(decoding: kept + bytes[at...], as: UTF8.self)
}

/// Reads the entities that `escape` writes, and no-break spaces.
///
/// - Throws: for others, of which HTML has 2,231.
private func unescaped(_ text: String, _ run: Run) throws -> String {
    guard text.utf8.contains(UInt8(ascii: "&")) else { return text }
    let known = ["lt": "<", "gt": ">", "amp": "&", "quot": "\"", "#34": "\"", "#39": "'", "nbsp": "\u{A0}"]
    let parts = try pieces(text, by: "&", limit: -1, run)
    var output = parts[0]
    for part in parts.dropFirst() {
        let name = String(decoding: part.utf8.prefix(32).prefix { !"; <".utf8.contains($0) }, as: UTF8.self)
        let isComplete = !name.isEmpty && part.utf8.dropFirst(name.utf8.count).first == UInt8(ascii: ";")
        if isComplete, let character = known[name] {
            output += character + String(decoding: part.utf8.dropFirst(name.utf8.count + 1), as: UTF8.self)
        } else if isComplete || name.utf8.first == UInt8(ascii: "#")
            || known.keys.contains(where: { starts(name, with: $0) })
        {
            throw TemplateFailure("striptags does not know the entity \(quoted("&" + name + (isComplete ? ";" : "")))")
        } else {
            output += "&" + part
        }
    }
    return output
}
