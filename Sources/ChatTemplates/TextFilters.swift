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
        return .string(withoutTags(try value.string(run)))
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

/// Text without comments and tags, white space collapsed, the usual entities read.
private func withoutTags(_ text: String) -> String {
    var text = removing(text, from: "<!--", to: "-->")
    text = removing(text, from: "<", to: ">")
    var words = text.unicodeScalars.split(whereSeparator: \.isPythonSpace).map { String($0) }.joined(separator: " ")
    for (entity, character) in [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&nbsp;", "\u{A0}"), ("&amp;", "&")] {
        words = words.split(separator: entity, omittingEmptySubsequences: false).joined(separator: character)
    }
    return words
}

private func removing(_ text: String, from open: String, to close: String) -> String {
    var rest = Array(text.utf8)[...]
    var output: [UInt8] = []
    while let start = rest.firstRange(of: Array(open.utf8)),
        let end = rest[start.upperBound...].firstRange(of: Array(close.utf8))
    {
        output += rest[..<start.lowerBound]
        rest = rest[end.upperBound...]
    }
    return String(decoding: output + rest, as: UTF8.self)
}
