// Python's string methods.

func stringMethod(_ text: String, _ name: String) -> Method? {
    simpleStringMethod(text, name) ?? stripMethod(text, name) ?? searchMethod(text, name) ?? splitMethod(text, name)
        ?? buildMethod(text, name)
}

/// Methods without arguments.
private func simpleStringMethod(_ text: String, _ name: String) -> Method? {
    func method(_ compute: @escaping (String) -> Value) -> Method {
        { arguments, run in
            try arguments.none(of: name + "()")
            try run.charge(text: text.utf8.count)
            return compute(text)
        }
    }
    func all(_ test: @escaping (Unicode.Scalar) -> Bool) -> Method {
        method { .bool(!$0.isEmpty && $0.unicodeScalars.allSatisfy(test)) }
    }
    switch name {
    case "upper": return method { .string(uppercased($0)) }
    case "lower": return method { .string(lowercased($0)) }
    case "title": return method { .string(titlecased($0)) }
    case "capitalize": return method { .string(capitalized($0)) }
    case "swapcase": return method { .string(swapcased($0)) }
    case "casefold": return method { .string(casefolded($0)) }
    case "isspace": return all(\.isPythonSpace)
    case "isalpha": return all(\.isPythonLetter)
    case "isalnum": return all(\.isPythonAlphanumeric)
    case "isdecimal": return all { $0.properties.numericType == .decimal }
    case "isdigit": return all { $0.properties.numericType == .decimal || $0.properties.numericType == .digit }
    case "isnumeric": return all { $0.properties.numericType != nil }
    case "isascii": return method { .bool($0.isASCII) }
    case "isprintable": return method { .bool($0.unicodeScalars.allSatisfy { $0 == " " || $0.isPythonPrintable }) }
    case "isupper": return method { .bool(isCased($0, upper: true)) }
    case "islower": return method { .bool(isCased($0, upper: false)) }
    case "istitle": return method { .bool(isTitle($0)) }
    case "isidentifier":
        return method { text in
            guard let first = text.unicodeScalars.first, first == "_" || first.properties.isXIDStart else {
                return .bool(false)
            }
            return .bool(text.unicodeScalars.allSatisfy { $0.properties.isXIDContinue })
        }
    default: return nil
    }
}

// MARK: Case

func uppercased(_ text: String) -> String { scalarMapped(text) { $0.properties.uppercaseMapping } }

private func scalarMapped(_ text: String, _ map: (Unicode.Scalar) -> String) -> String {
    var output = ""
    output.reserveCapacity(text.utf8.count)
    for scalar in text.unicodeScalars { output += map(scalar) }
    return output
}

func lowercased(_ text: String) -> String {
    if !text.unicodeScalars.contains("Σ") { return scalarMapped(text) { $0.properties.lowercaseMapping } }
    let scalars = Array(text.unicodeScalars)
    return scalars.indices.map { lowercase($0, scalars) }.joined()
}

/// The lower case of one character; sigma at the end of a word has a form of its own.
private func lowercase(_ i: Int, _ scalars: [Unicode.Scalar]) -> String {
    guard scalars[i] == "Σ" else { return scalars[i].properties.lowercaseMapping }
    let before = scalars[..<i].last { !$0.properties.isCaseIgnorable }
    let after = scalars[(i + 1)...].first { !$0.properties.isCaseIgnorable }
    return before?.properties.isCased == true && after?.properties.isCased != true ? "ς" : "σ"
}

func capitalized(_ text: String) -> String {
    let scalars = Array(text.unicodeScalars)
    guard let first = scalars.first else { return "" }
    return first.properties.titlecaseMapping + scalars.indices.dropFirst().map { lowercase($0, scalars) }.joined()
}

private func titlecased(_ text: String) -> String {
    let scalars = Array(text.unicodeScalars)
    var output = "", afterCased = false
    for i in scalars.indices {
        output += afterCased ? lowercase(i, scalars) : scalars[i].properties.titlecaseMapping
        afterCased = scalars[i].properties.isCased
    }
    return output
}

private func swapcased(_ text: String) -> String {
    let scalars = Array(text.unicodeScalars)
    return scalars.indices.map { i in
        scalars[i].properties.isUppercase
            ? lowercase(i, scalars)
            : scalars[i].properties.isLowercase ? scalars[i].properties.uppercaseMapping : String(scalars[i])
    }.joined()
}

/// Full case folding, by way of lower case of upper case, with the characters where that differs.
private func casefolded(_ text: String) -> String {
    scalarMapped(text) { scalar in
        switch scalar {
        case "ß", "ẞ": "ss"
        case "ς", "Σ": "σ"
        default: scalarMapped(scalar.properties.uppercaseMapping) { $0.properties.lowercaseMapping }
        }
    }
}

private func isCased(_ text: String, upper: Bool) -> Bool {
    var found = false
    for scalar in text.unicodeScalars {
        let properties = scalar.properties
        if upper ? properties.isLowercase : properties.isUppercase { return false }
        if properties.generalCategory == .titlecaseLetter { return false }
        if upper ? properties.isUppercase : properties.isLowercase { found = true }
    }
    return found
}

private func isTitle(_ text: String) -> Bool {
    var found = false, afterCased = false
    for scalar in text.unicodeScalars {
        if scalar.properties.isUppercase || scalar.properties.generalCategory == .titlecaseLetter {
            if afterCased { return false }
            (found, afterCased) = (true, true)
        } else if scalar.properties.isLowercase {
            if !afterCased { return false }
            found = true
        } else {
            afterCased = false
        }
    }
    return found
}

// MARK: Strip

private func stripMethod(_ text: String, _ name: String) -> Method? {
    let sides: (left: Bool, right: Bool)
    switch name {
    case "strip": sides = (true, true)
    case "lstrip": sides = (true, false)
    case "rstrip": sides = (false, true)
    case "removeprefix", "removesuffix":
        return { arguments, run in
            let part = try textArgument(try arguments.one(of: name + "()"))
            try run.charge(text: text.utf8.count)
            let isPrefix = name == "removeprefix"
            guard !part.isEmpty, isPrefix ? starts(text, with: part) : ends(text, with: part) else {
                return .string(text)
            }
            return .string(
                String(isPrefix ? text.utf8.dropFirst(part.utf8.count) : text.utf8.dropLast(part.utf8.count))!)
        }
    default: return nil
    }
    return { arguments, run in
        let characters = try arguments.bound(to: ["chars"], of: name + "()")[0]
        try run.charge(text: text.utf8.count)
        guard let characters, !characters.isNone else {
            return .string(stripped(text, left: sides.left, right: sides.right) { $0.isPythonSpace })
        }
        let set = Set(try textArgument(characters).unicodeScalars)
        return .string(stripped(text, left: sides.left, right: sides.right) { set.contains($0) })
    }
}

func stripped(_ text: String, left: Bool = true, right: Bool = true, _ isStripped: (Unicode.Scalar) -> Bool) -> String {
    let scalars = text.unicodeScalars
    var (start, end) = (scalars.startIndex, scalars.endIndex)
    if left { while start < end, isStripped(scalars[start]) { start = scalars.index(after: start) } }
    if right {
        while start < end {
            let before = scalars.index(before: end)
            guard isStripped(scalars[before]) else { break }
            end = before
        }
    }
    if start == scalars.startIndex, end == scalars.endIndex { return text }
    return String(scalars[start..<end])
}

// MARK: Search

func textArgument(_ value: Value) throws -> String {
    try value.checkDefined()
    guard let text = value.text else { throw TemplateFailure("expected a string, not \(value.typeName)") }
    return text
}

func starts(_ text: String, with part: String) -> Bool { text.utf8.starts(with: part.utf8) }

private func ends(_ text: String, with part: String) -> Bool {
    text.utf8.count >= part.utf8.count && text.utf8.suffix(part.utf8.count).elementsEqual(part.utf8)
}

private func searchMethod(_ text: String, _ name: String) -> Method? {
    switch name {
    case "startswith", "endswith":
        return { arguments, run in
            let bound = try arguments.bound(to: ["prefix", "start", "end"], required: 1, of: name + "()")
            try run.work(text.utf8.count)
            let part = bound[1] == nil && bound[2] == nil ? text : try windowed(text, bound[1], bound[2])?.text
            let wanted = try bound[0]!.isTuple ? bound[0]!.items(run) : [bound[0]!]
            return .bool(
                try wanted.contains { candidate in
                    let candidate = try textArgument(candidate)
                    guard let part else { return false }
                    try run.work(candidate.utf8.count)
                    return name == "startswith" ? starts(part, with: candidate) : ends(part, with: candidate)
                })
        }
    case "find", "rfind", "index", "rindex":
        return { arguments, run in
            let bound = try arguments.bound(to: ["sub", "start", "end"], required: 1, of: name + "()")
            let wanted = try textArgument(bound[0]!)
            try run.work(text.utf8.count)
            if let part = try windowed(text, bound[1], bound[2]),
                let offset = try find(wanted, in: part.text, last: name.utf8.first == 0x72, run)
            {
                return .int(part.start + String(part.text.utf8.prefix(offset))!.scalarCount)
            }
            if name.utf8.last == 0x78 { throw TemplateFailure("substring not found") }
            return .int(-1)
        }
    case "count":
        return { arguments, run in
            let bound = try arguments.bound(to: ["sub", "start", "end"], required: 1, of: "count()")
            let wanted = try textArgument(bound[0]!)
            try run.work(text.utf8.count)
            guard let part = try windowed(text, bound[1], bound[2]) else { return .int(0) }
            if wanted.isEmpty { return .int(part.text.scalarCount + 1) }
            return .int(try pieces(part.text, by: wanted, limit: -1, run).count - 1)
        }
    default: return nil
    }
}

/// The part of a text between two Python indices, and where it starts; nil when the start is beyond the end.
private func windowed(_ text: String, _ start: Value?, _ stop: Value?) throws -> (text: String, start: Int)? {
    if start == nil, stop == nil { return (text, 0) }
    let scalars = Array(text.unicodeScalars)
    let (from, to) = try window(start, stop, scalars.count)
    if case .int(let raw)? = start?.number, raw > scalars.count { return nil }
    if from > to { return nil }
    return (String(scalars: scalars[from..<to]), from)
}

// MARK: Split

private func splitMethod(_ text: String, _ name: String) -> Method? {
    switch name {
    case "split", "rsplit":
        return { arguments, run in
            let bound = try arguments.bound(to: ["sep", "maxsplit"], of: name + "()")
            let limit = try bound[1].map { try integerArgument($0) } ?? -1
            try run.charge(bytes: text.utf8.count)
            let parts: [String]
            if let separator = bound[0], !separator.isNone {
                let separator = try textArgument(separator)
                if separator.isEmpty { throw TemplateFailure("empty separator") }
                parts =
                    name == "split"
                    ? try pieces(text, by: separator, limit: limit, run)
                    : try piecesFromRight(text, by: separator, limit: limit, run)
            } else {
                parts = name == "split" ? words(text, limit: limit) : wordsFromRight(text, limit: limit)
            }
            try run.charge(bytes: parts.count * 24)
            return .list(List(shallow: parts.map { .string($0) }))
        }
    case "splitlines":
        return { arguments, run in
            let keeps = try arguments.bound(to: ["keepends"], of: "splitlines()")[0]?.isTrue ?? false
            try run.charge(bytes: text.utf8.count * 2)
            return .list(List(shallow: lines(text, keepingEnds: keeps).map { .string($0) }))
        }
    case "partition", "rpartition":
        return { arguments, run in
            let separator = try textArgument(try arguments.one(of: name + "()"))
            if separator.isEmpty { throw TemplateFailure("empty separator") }
            try run.charge(bytes: text.utf8.count)
            let isLast = name == "rpartition"
            guard let at = try find(separator, in: text, last: isLast, run) else {
                return .tuple(List(shallow: (isLast ? ["", "", text] : [text, "", ""]).map { .string($0) }))
            }
            let parts = [
                String(text.utf8.prefix(at))!, separator, String(text.utf8.dropFirst(at + separator.utf8.count))!,
            ]
            return .tuple(List(shallow: parts.map { .string($0) }))
        }
    default: return nil
    }
}

func integerArgument(_ value: Value) throws -> Int {
    try value.checkDefined()
    guard case .int(let number)? = value.number else {
        throw TemplateFailure("'\(value.typeName)' object cannot be interpreted as an integer")
    }
    return number
}

/// The parts of a text between separators; at most `limit` splits unless that is negative.
func pieces(_ text: String, by separator: String, limit: Int, _ run: Run) throws -> [String] {
    var (text, separator) = (text, separator)
    return try text.withUTF8 { text in
        try separator.withUTF8 { separator in
            var result: [String] = [], start = 0
            while limit < 0 || result.count < limit, let at = try findFirst(separator, in: text[start...], run) {
                result.append(String(decoding: text[start..<at], as: UTF8.self))
                try run.charge(bytes: 24)
                start = at + separator.count
            }
            result.append(String(decoding: text[start...], as: UTF8.self))
            return result
        }
    }
}

private func piecesFromRight(_ text: String, by separator: String, limit: Int, _ run: Run) throws -> [String] {
    let bytes = Array(text.utf8), wanted = Array(separator.utf8)
    var result: [String] = [], end = bytes.count, i = bytes.count - wanted.count
    while i >= 0, limit < 0 || result.count < limit {
        if bytes[i] == wanted[0] {
            try run.work(wanted.count)
            if bytes[i..<(i + wanted.count)].elementsEqual(wanted) {
                result.append(String(decoding: bytes[(i + wanted.count)..<end], as: UTF8.self))
                try run.charge(bytes: 24)
                end = i
                i -= wanted.count
                continue
            }
        }
        i -= 1
    }
    result.append(String(decoding: bytes[..<end], as: UTF8.self))
    return result.reversed()
}

/// The words of a text; after `limit` splits the rest stays as it is.
private func words(_ text: String, limit: Int) -> [String] {
    var rest = text.unicodeScalars[...]
    var result: [String] = []
    while true {
        rest = rest.drop(while: \.isPythonSpace)
        if rest.isEmpty { return result }
        if limit >= 0, result.count == limit {
            result.append(String(rest))
            return result
        }
        let end = rest.firstIndex(where: \.isPythonSpace) ?? rest.endIndex
        result.append(String(rest[..<end]))
        rest = rest[end...]
    }
}

private func wordsFromRight(_ text: String, limit: Int) -> [String] {
    var rest = Array(text.unicodeScalars)[...]
    var result: [String] = []
    while true {
        while let last = rest.last, last.isPythonSpace { rest.removeLast() }
        if rest.isEmpty { return result.reversed() }
        if limit >= 0, result.count == limit {
            result.append(String(scalars: rest))
            return result.reversed()
        }
        let start = rest.lastIndex(where: \.isPythonSpace).map { $0 + 1 } ?? rest.startIndex
        result.append(String(scalars: rest[start...]))
        rest = rest[..<start]
    }
}

func lines(_ text: String, keepingEnds: Bool) -> [String] {
    var result: [String] = []
    var line = String.UnicodeScalarView()
    var scalars = text.unicodeScalars[...]
    while let scalar = scalars.popFirst() {
        switch scalar.value {
        case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029:
            var end = String(scalar)
            if scalar == "\r", scalars.first == "\n" {
                scalars.removeFirst()
                end = "\r\n"
            }
            result.append(String(line) + (keepingEnds ? end : ""))
            line = String.UnicodeScalarView()
        default: line.append(scalar)
        }
    }
    if !line.isEmpty { result.append(String(line)) }
    return result
}

// MARK: Build

private func buildMethod(_ text: String, _ name: String) -> Method? {
    switch name {
    case "join":
        return { arguments, run in
            .string(try joined(try arguments.one(of: "join()").items(run), by: text, run) { try textArgument($0) })
        }
    case "replace":
        return { arguments, run in
            guard arguments.keywords.isEmpty else { throw TemplateFailure("replace() takes no keyword arguments") }
            let bound = try arguments.bound(to: ["old", "new", "count"], required: 2, of: "replace()")
            return .string(
                try replaced(
                    text, try textArgument(bound[0]!), by: try textArgument(bound[1]!),
                    limit: try bound[2].map { try integerArgument($0) } ?? -1, run))
        }
    case "ljust", "rjust", "center", "zfill":
        return { arguments, run in
            let bound = try arguments.bound(to: ["width", "fillchar"], required: 1, of: name + "()")
            let width = try integerArgument(bound[0]!)
            guard name != "zfill" || bound[1] == nil else {
                throw TemplateFailure("zfill() takes exactly one argument")
            }
            let fill = try bound[1].map { try textArgument($0) } ?? (name == "zfill" ? "0" : " ")
            guard fill.unicodeScalars.count == 1 else {
                throw TemplateFailure("the fill character must be one character long")
            }
            return .string(try justified(text, name, width, fill, run))
        }
    case "expandtabs":
        return { arguments, run in
            let size = try arguments.bound(to: ["tabsize"], of: "expandtabs()")[0].map { try integerArgument($0) } ?? 8
            return .string(try tabsExpanded(text, size, run))
        }
    case "format", "format_map": return formatMethod(text, name)
    case "encode": return nil
    default: return nil
    }
}

func joined(_ items: [Value], by separator: String, _ run: Run, _ string: (Value) throws -> String) throws -> String {
    var output = ""
    for (i, item) in items.enumerated() {
        if i > 0 { output += separator }
        output += try string(item)
        try run.work(16)
        if output.utf8.count > run.limits.outputBytes { break }
    }
    try run.charge(text: output.utf8.count)
    return output
}

func replaced(_ text: String, _ old: String, by new: String, limit: Int, _ run: Run) throws -> String {
    try run.charge(text: text.utf8.count)
    let parts: [String]
    if old.isEmpty {
        let scalars = text.unicodeScalars.map { String($0) }
        let n = limit < 0 ? scalars.count + 1 : min(limit, scalars.count + 1)
        try run.charge(text: text.utf8.count + (new.utf8.count + 16) * n)
        var output = ""
        for (i, scalar) in scalars.enumerated() { output += (i < n ? new : "") + scalar }
        return output + (n > scalars.count ? new : "")
    }
    parts = try pieces(text, by: old, limit: limit, run)
    if parts.count == 1 { return text }
    try run.charge(text: text.utf8.count + (parts.count - 1) * (new.utf8.count - old.utf8.count))
    return parts.joined(separator: new)
}

/// `ljust`, `rjust`, `center` and `zfill`.
func justified(_ text: String, _ kind: String, _ width: Int, _ fill: String, _ run: Run) throws -> String {
    let missing = max(0, width) - text.scalarCount
    if missing <= 0 { return text }
    try run.charge(text: text.utf8.count + min(missing, Int.max / 8) * fill.utf8.count)
    func pad(_ n: Int) -> String { String(repeating: fill, count: n) }
    switch kind {
    case "ljust": return text + pad(missing)
    case "rjust": return pad(missing) + text
    case "zfill":
        guard let sign = text.utf8.first, sign == 0x2B || sign == 0x2D else { return pad(missing) + text }
        return String(Unicode.Scalar(sign)) + pad(missing) + String(text.utf8.dropFirst())!
    default:
        let left = missing / 2 + (missing & width & 1)
        return pad(left) + text + pad(missing - left)
    }
}

private func tabsExpanded(_ text: String, _ size: Int, _ run: Run) throws -> String {
    var output = "", column = 0
    for scalar in text.unicodeScalars {
        if scalar == "\t" {
            let n = size > 0 ? size - column % size : 0
            try run.charge(text: output.utf8.count + n)
            output += String(repeating: " ", count: n)
            column += n
        } else {
            output.unicodeScalars.append(scalar)
            column = scalar == "\n" || scalar == "\r" ? 0 : column + 1
        }
    }
    return output
}
