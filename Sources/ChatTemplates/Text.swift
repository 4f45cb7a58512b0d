// How Python prints values, and what it thinks of characters.

extension Unicode.Scalar {
    /// `str.isspace` of one character.
    var isPythonSpace: Bool {
        switch value {
        case 0x09...0x0D, 0x1C...0x20, 0x85, 0xA0, 0x1680, 0x2000...0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000: true
        default: false
        }
    }

    /// Category L: `str.isalpha` of one character.
    var isPythonLetter: Bool {
        if isASCII { return (value | 0x20) &- 0x61 < 26 }
        switch properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return true
        default: return false
        }
    }

    var isPythonAlphanumeric: Bool {
        if isASCII { return isPythonLetter || value &- 0x30 < 10 }
        return isPythonLetter || properties.numericType != nil
    }

    /// `str.isprintable` of one character: what `repr` shows as it is.
    var isPythonPrintable: Bool {
        if isASCII { return value >= 0x20 && value < 0x7F }
        switch properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator,
            .spaceSeparator:
            return false
        default: return true
        }
    }
}

extension String {
    /// Length as Python counts it.
    var scalarCount: Int { isASCII ? utf8.count : unicodeScalars.count }

    var isASCII: Bool {
        utf8.withContiguousStorageIfAvailable { $0.allSatisfy { $0 < 0x80 } } ?? utf8.allSatisfy { $0 < 0x80 }
    }

    init(scalars: some Sequence<Unicode.Scalar>) {
        var view = String.UnicodeScalarView()
        view.append(contentsOf: scalars)
        self = String(view)
    }
}

/// Python's `repr` of a string.
func quoted(_ text: String) -> String {
    let quote: Unicode.Scalar = text.utf8.contains(0x27) && !text.utf8.contains(0x22) ? "\"" : "'"
    // Scalar by scalar: `append(contentsOf:)` copies all that is there.
    var output = String.UnicodeScalarView()
    output.append(quote)
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\\", quote:
            output.append("\\")
            output.append(scalar)
        case "\n": "\\n".unicodeScalars.forEach { output.append($0) }
        case "\r": "\\r".unicodeScalars.forEach { output.append($0) }
        case "\t": "\\t".unicodeScalars.forEach { output.append($0) }
        default:
            if scalar.isPythonPrintable {
                output.append(scalar)
            } else {
                let (letter, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
                "\\\(letter)\(hex(scalar.value, width: width))".unicodeScalars.forEach { output.append($0) }
            }
        }
    }
    output.append(quote)
    return String(output)
}

/// Lower-case hexadecimal digits, at least `width`.
func hex(_ value: UInt32, width: Int) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
}

extension Value {
    /// Python's `str`.
    func string(_ run: Run) throws -> String {
        switch self {
        case .undefined: ""
        case .string(let text), .markup(let text): text
        default: try representation(run)
        }
    }

    /// Python's `repr`.
    func representation(_ run: Run) throws -> String {
        var output = ""
        try represent(into: &output, run, level: 0)
        try run.charge(text: output.utf8.count)
        return output
    }

    func represent(into output: inout String, _ run: Run, level: Int) throws {
        try run.step()
        guard level <= maxNesting * 4 else { throw TemplateFailure("a value is nested too deeply to print") }
        if output.utf8.count > run.limits.outputBytes { try run.charge(text: output.utf8.count) }
        switch self {
        case .undefined: output += "Undefined"
        case .null: output += "None"
        case .bool(let value): output += value ? "True" : "False"
        case .int(let value): output += String(value)
        case .float(let value): output += pythonFloat(value)
        case .string(let text):
            try run.work(text.utf8.count)
            output += quoted(text)
        case .markup(let text): output += "Markup(\(quoted(text)))"
        case .list(let list):
            output += "["
            try representItems(list.items, into: &output, run, level)
            output += "]"
        case .tuple(let list):
            output += "("
            try representItems(list.items, into: &output, run, level)
            output += list.items.count == 1 ? ",)" : ")"
        case .dict(let dict):
            output += "{"
            for (i, (key, value)) in try dict.pairs().enumerated() {
                if i > 0 { output += ", " }
                try key.represent(into: &output, run, level: level + 1)
                output += ": "
                try value.represent(into: &output, run, level: level + 1)
            }
            output += "}"
        case .object(let object): output += try run.nested { try object.text(run) }
        }
    }

    private func representItems(_ items: [Value], into output: inout String, _ run: Run, _ level: Int) throws {
        for (i, item) in items.enumerated() {
            if i > 0 { output += ", " }
            try item.represent(into: &output, run, level: level + 1)
        }
    }
}
