// Jinja's filters on single values; those on sequences are in SequenceFilters.swift.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

typealias Filter = @Sendable (Value, Arguments, Run) throws -> Value

let filters: [String: Filter] = {
    var filters = textFilters
    for group in [valueFilters, numberFilters, sequenceFilters, selectingFilters] {
        filters.merge(group) { _, new in new }
    }
    for (alias, name) in [("d", "default"), ("e", "escape"), ("count", "length")] { filters[alias] = filters[name] }
    return filters
}()

private let valueFilters: [String: Filter] = [
    "default": { value, arguments, _ in
        let bound = try arguments.bound(to: ["default_value", "boolean"], of: "default")
        let isMissing = value.isUndefined || (bound[1]?.isTrue ?? false) && !value.isTrue
        return isMissing ? bound[0] ?? .emptyString : value
    },
    "length": { value, arguments, _ in
        try arguments.none(of: "length")
        guard let count = try value.count() else {
            throw TemplateFailure("object of type '\(value.typeName)' has no length")
        }
        return .int(count)
    },
    "string": { value, arguments, run in
        try arguments.none(of: "string")
        return value.isMarkup ? value : .string(try value.string(run))
    },
    "attr": { value, arguments, run in
        let name = try textArgument(try arguments.bound(to: ["name"], required: 1, of: "attr")[0]!)
        if case .object(let object) = value, !starts(name, with: "_") {
            return try object.attribute(name) ?? .undefined(Undefined("no attribute '\(name)'"))
        }
        return method(of: value, name) ?? .undefined(Undefined("'\(value.typeName) object' has no attribute '\(name)'"))
    },
    "items": { value, arguments, run in
        try arguments.none(of: "items")
        switch value {
        case .undefined: return .object(Iterator([]))
        case .dict(let dict): return .object(Iterator(try dict.pairs().map { .tuple(try List([$0, $1])) }))
        default: return .object(Iterator { throw TemplateFailure("can only get item pairs from a mapping") })
        }
    },
    "tojson": { value, arguments, run in
        let bound = try arguments.bound(to: ["ensure_ascii", "indent", "separators", "sort_keys"], of: "tojson")
        var style = JSONText()
        style.escapesNonASCII = bound[0]?.isTrue ?? false
        try style.setIndent(bound[1] ?? .null, run)
        if let separators = bound[2], !separators.isNone {
            let pair = try separators.items(run)
            guard pair.count == 2 else { throw TemplateFailure("separators must be a pair") }
            (style.itemSeparator, style.keySeparator) = (try textArgument(pair[0]), try textArgument(pair[1]))
        }
        style.sortsKeys = bound[3]?.isTrue ?? false
        return .string(try style.text(of: value, run))
    },
    "pprint": { value, arguments, run in
        try arguments.none(of: "pprint")
        let text = try sortedByKey(value, run).representation(run)
        guard text.scalarCount <= 80 else {
            throw TemplateFailure("pprint of values longer than a line is not supported")
        }
        return .string(text)
    },
    "xmlattr": { value, arguments, run in
        let space = try arguments.bound(to: ["autospace"], of: "xmlattr")[0]?.isTrue ?? true
        guard case .dict(let dict) = value else { throw TemplateFailure("xmlattr needs a mapping") }
        var parts: [String] = []
        for (key, value) in try dict.pairs() where !value.isNone && !value.isUndefined {
            let name = try textArgument(key)
            guard !name.utf8.contains(where: { " \t\n\r\u{B}\u{C}/>=".utf8.contains($0) }) else {
                throw TemplateFailure("invalid character in attribute name \(quoted(name))")
            }
            parts.append("\(escaped(name))=\"\(escaped(try value.isMarkup ? value : .string(value.string(run))))\"")
        }
        return .string((space && !parts.isEmpty ? " " : "") + parts.joined(separator: " "))
    },
    "urlencode": { value, arguments, run in
        try arguments.none(of: "urlencode")
        guard value.text == nil, isIterable(value) else { return .string(urlQuoted(try value.string(run), keeps: "/")) }
        let pairs: [[Value]]
        if case .dict(let dict) = value {
            pairs = try dict.pairs().map { [$0, $1] }
        } else {
            pairs = try value.items(run).map { try $0.items(run) }
        }
        return .string(
            try pairs.map { pair in
                guard pair.count == 2 else { throw TemplateFailure("urlencode needs pairs") }
                return try pair.map { urlQuoted(try $0.string(run), keeps: "").replacingSpaces }.joined(separator: "=")
            }.joined(separator: "&"))
    },
]

/// The value with the keys of dictionaries in order, as `pprint` shows them.
private func sortedByKey(_ value: Value, _ run: Run) throws -> Value {
    try run.step()
    switch value {
    case .list(let list): return .list(try List(try list.items.map { try sortedByKey($0, run) }))
    case .tuple(let list): return .tuple(try List(try list.items.map { try sortedByKey($0, run) }))
    case .dict(let dict):
        let pairs = try dict.pairs().map { ($0, try sortedByKey($1, run)) }
        guard pairs.allSatisfy({ $0.0.text != nil }) || pairs.allSatisfy({ $0.0.number != nil }) else {
            throw TemplateFailure("pprint of keys of several types is not supported")
        }
        return .dict(try Dict(try pairs.sorted { try less($0.0, $1.0, run) }))
    default: return value
    }
}

extension String {
    /// `%20` as forms write it.
    fileprivate var replacingSpaces: String {
        split(separator: "%20", omittingEmptySubsequences: false).joined(separator: "+")
    }
}

private func urlQuoted(_ text: String, keeps: String) -> String {
    var output: [UInt8] = []
    for byte in text.utf8 {
        let isPlain = byte < 0x80 && Unicode.Scalar(byte).isPythonAlphanumeric
        if isPlain || "_.-~".utf8.contains(byte) || keeps.utf8.contains(byte) {
            output.append(byte)
        } else {
            output.append(contentsOf: ("%" + hex(UInt32(byte), width: 2).uppercased()).utf8)
        }
    }
    return String(decoding: output, as: UTF8.self)
}

private let numberFilters: [String: Filter] = [
    "abs": { value, arguments, _ in
        try arguments.none(of: "abs")
        switch value.number {
        case .int(let number)?: return .int(number < 0 ? try checked((0).subtractingReportingOverflow(number)) : number)
        case .float(let number)?: return .float(abs(number))
        case nil:
            try value.checkDefined()
            throw TemplateFailure("bad operand type for abs(): '\(value.typeName)'")
        }
    },
    "int": { value, arguments, _ in
        let bound = try arguments.bound(to: ["default", "base"], of: "int")
        try value.checkDefined()
        let base = try bound[1].map { try integerArgument($0) } ?? 10
        if let text = value.text, let number = pythonInteger(text, base: base) { return .int(number) }
        if case .int(let number)? = value.number { return .int(number) }
        let double = value.number?.double ?? value.text.flatMap(pythonDouble)
        guard let double, double.isFinite else { return bound[0] ?? .int(0) }
        guard let number = Int(exactly: double.rounded(.towardZero)) else { throw integerOverflow }
        return .int(number)
    },
    "float": { value, arguments, _ in
        let fallback = try arguments.bound(to: ["default"], of: "float")[0] ?? .float(0)
        try value.checkDefined()
        return (value.number?.double ?? value.text.flatMap(pythonDouble)).map { .float($0) } ?? fallback
    },
    "round": { value, arguments, run in
        let bound = try arguments.bound(to: ["precision", "method"], of: "round")
        let precision = try bound[0].map { try integerArgument($0) } ?? 0
        let method = bound[1]?.text ?? (bound[1] == nil ? "common" : "")
        try value.checkDefined()
        guard let number = value.number else { throw TemplateFailure("type '\(value.typeName)' cannot be rounded") }
        if method == "common" { return try rounded(number, precision) }
        guard method == "ceil" || method == "floor" else {
            throw TemplateFailure("method must be common, ceil or floor")
        }
        let scale = try arithmetic(.power, .int(10), .int(precision))
        let scaled = try binary(.multiply, value, scale, run).number!.double
        let whole = method == "ceil" ? scaled.rounded(.up) : scaled.rounded(.down)
        guard let int = Int(exactly: whole) else { throw integerOverflow }
        return try binary(.divide, .int(int), scale, run)
    },
    "filesizeformat": { value, arguments, _ in
        let isBinary = try arguments.bound(to: ["binary"], of: "filesizeformat")[0]?.isTrue ?? false
        guard let bytes = value.number?.double ?? value.text.flatMap(pythonDouble) else {
            throw TemplateFailure("filesizeformat needs a number")
        }
        let base = isBinary ? 1024.0 : 1000.0
        if bytes == 1 { return .string("1 Byte") }
        if bytes < base { return .string("\(Int(bytes)) Bytes") }
        var unit = base, prefix = ""
        for letter in ["k", "M", "G", "T", "P", "E", "Z", "Y"] {
            prefix = (isBinary ? letter.uppercased() + "i" : letter) + "B"
            unit *= base
            if bytes < unit { break }
        }
        return .string("\(fixed(base * bytes / unit, 1)) \(prefix)")
    },
]

/// Python's `round`: half to even on the exact value; integers stay integers.
private func rounded(_ number: Number, _ precision: Int) throws -> Value {
    switch number {
    case .int(let value):
        if precision >= 0 { return .int(value) }
        guard precision > -19 else { return .int(0) }
        guard case .int(let unit) = try arithmetic(.power, .int(10), .int(-precision)) else { throw integerOverflow }
        let low = value - ((value % unit) + unit) % unit
        let rest = value - low
        let up = rest * 2 > unit || (rest * 2 == unit && (low / unit) % 2 != 0)
        return .int(up ? low + unit : low)
    case .float(let value):
        guard value.isFinite, precision < 309 else { return .float(value) }
        if precision > 0 { return .float(Double(fixed(value, precision)) ?? value) }
        if precision == 0 { return .float(value.rounded(.toNearestOrEven)) }
        let unit = pow(10, Double(-precision))
        return .float(unit.isInfinite ? 0 * value : (value / unit).rounded(.toNearestOrEven) * unit)
    }
}

/// `int(text, base)`: surrounding white space, a sign, single underscores; nil for what Python refuses.
func pythonInteger(_ text: String, base: Int) -> Int? {
    var digits = stripped(text) { $0.isPythonSpace }
    var sign = ""
    if let first = digits.utf8.first, first == 0x2B || first == 0x2D {
        sign = first == 0x2D ? "-" : ""
        digits.removeFirst()
    }
    var base = base
    let prefixes = ["0x": 16, "0o": 8, "0b": 2]
    if let implied = prefixes[lowercased(String(digits.prefix(2)))], base == 0 || base == implied {
        base = implied
        digits.removeFirst(2)
        if digits.utf8.first == 0x5F { digits.removeFirst() }
    }
    if base == 0 { base = 10 }
    guard (2...36).contains(base), hasPlainUnderscores(digits) else { return nil }
    let plain = digits.unicodeScalars.filter { $0 != "_" }.map { scalar in
        scalar.properties.numericType == .decimal ? String(Int(scalar.properties.numericValue!)) : String(scalar)
    }.joined()
    return plain.isEmpty || plain.utf8.first == 0x2B || plain.utf8.first == 0x2D ? nil : Int(sign + plain, radix: base)
}

private func hasPlainUnderscores(_ text: String) -> Bool {
    guard text.utf8.contains(0x5F) else { return true }
    return text.utf8.first != 0x5F && text.utf8.last != 0x5F
        && !zip(text.utf8, text.utf8.dropFirst()).contains { $0 == (0x5F, 0x5F) }
}

/// `float(text)`; nil for what Python refuses.
func pythonDouble(_ text: String) -> Double? {
    let bare = stripped(text) { $0.isPythonSpace }
    guard hasPlainUnderscores(bare), !bare.utf8.contains(0x78), !bare.utf8.contains(0x58), !bare.utf8.contains(0x28)
    else { return nil }
    return Double(String(scalars: bare.unicodeScalars.filter { $0 != "_" }))
}

/// `value` with `digits` decimals, rounded exactly.
func fixed(_ value: Double, _ digits: Int) -> String { cFormat("%.\(digits)f", value) }

/// One double through the C library's formatter.
func cFormat(_ format: String, _ value: Double) -> String {
    withVaList([value]) { arguments in
        var buffer = [CChar](repeating: 0, count: 512)
        let n = Int(vsnprintf(&buffer, buffer.count, format, arguments))
        return String(decoding: buffer.prefix(min(n, buffer.count - 1)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
