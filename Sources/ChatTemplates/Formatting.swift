// Python's `format % values` and `format.format(values)`.

func percentFormat(_ format: String, _ operand: Value, _ run: Run) throws -> String {
    var formatter = PercentFormatter(operand, run)
    let text = try formatter.text(format)
    try run.charge(text: text.utf8.count)
    return text
}

private struct PercentFormatter {
    private let operand: Value
    private let run: Run
    private let positional: [Value]
    private var used = 0

    init(_ operand: Value, _ run: Run) {
        (self.operand, self.run) = (operand, run)
        if case .tuple(let list) = operand { positional = list.items } else { positional = [operand] }
    }

    mutating func text(_ format: String) throws -> String {
        var output = ""
        var rest = format.unicodeScalars[...]
        while let percent = rest.firstIndex(of: "%") {
            output.unicodeScalars.append(contentsOf: rest[..<percent])
            rest = rest[rest.index(after: percent)...]
            output += try conversion(&rest)
            try run.step()
            try run.check(text: output.utf8.count)
        }
        output.unicodeScalars.append(contentsOf: rest)
        var isMapping = false
        if case .dict = operand { isMapping = true }
        if case .list = operand, used == 0 { isMapping = true }
        if !isMapping, used < positional.count {
            throw TemplateFailure("not all arguments converted during string formatting")
        }
        return output
    }

    private mutating func next() throws -> Value {
        guard used < positional.count else { throw TemplateFailure("not enough arguments for format string") }
        used += 1
        return positional[used - 1]
    }

    private mutating func conversion(_ rest: inout Substring.UnicodeScalarView) throws -> String {
        var named: Value?
        if rest.first == "(" {
            guard let close = rest.firstIndex(of: ")") else { throw TemplateFailure("incomplete format key") }
            let name = String(rest[rest.index(after: rest.startIndex)..<close])
            rest = rest[rest.index(after: close)...]
            guard case .dict(let dict) = operand else { throw TemplateFailure("format requires a mapping") }
            guard let value = try dict.value(named: name) else {
                throw TemplateFailure("no value for the format key \(quoted(name))")
            }
            named = value
        }
        var spec = FormatSpec()
        while let flag = rest.first, "-+ #0".unicodeScalars.contains(flag) {
            switch flag {
            case "-": spec.align = "<"
            case "+": spec.sign = "+"
            case " ": if spec.sign != "+" { spec.sign = " " }
            case "#": spec.isAlternate = true
            default: spec.zeroPads = true
            }
            rest.removeFirst()
        }
        spec.width = try number(&rest) ?? 0
        if spec.width < 0 { (spec.width, spec.align) = (-spec.width, "<") }
        if rest.first == "." {
            rest.removeFirst()
            spec.precision = max(0, try number(&rest) ?? 0)
        }
        while let length = rest.first, "hlL".unicodeScalars.contains(length) { rest.removeFirst() }
        guard let type = rest.popFirst() else { throw TemplateFailure("incomplete format") }
        if type == "%" { return "%" }
        let value = try named ?? next()
        return try spec.percent(type, value, run)
    }

    private mutating func number(_ rest: inout Substring.UnicodeScalarView) throws -> Int? {
        if rest.first == "*" {
            rest.removeFirst()
            return try integerArgument(try next())
        }
        return try leadingInteger(&rest)
    }
}

private func leadingInteger(_ rest: inout Substring.UnicodeScalarView) throws -> Int? {
    let digits = String(rest.prefix { $0.isASCII && $0.value &- 0x30 < 10 })
    if digits.isEmpty { return nil }
    rest = rest.dropFirst(digits.utf8.count)
    guard let value = Int(digits), value < 100_000_000 else {
        throw TemplateFailure("a width or precision is too large")
    }
    return value
}

/// How one value is laid out.
private struct FormatSpec {
    var fill: Unicode.Scalar = " "
    var align: Unicode.Scalar?
    var sign: Unicode.Scalar = "-"
    var isAlternate = false
    var zeroPads = false
    var width = 0
    var grouping: Unicode.Scalar?
    var precision: Int?

    func padded(_ sign: String, _ body: String, isNumber: Bool, _ run: Run) throws -> String {
        let missing = width - sign.scalarCount - body.scalarCount
        guard missing > 0 else { return sign + body }
        try run.charge(text: width * 4)
        let fill = zeroPads && align == nil ? "0" : String(fill)
        let align = align ?? (zeroPads ? "=" : isNumber ? ">" : "<")
        func pad(_ n: Int) -> String { String(repeating: fill, count: n) }
        switch align {
        case "<": return sign + body + pad(missing)
        case "=": return sign + pad(missing) + body
        case "^": return pad(missing / 2) + sign + body + pad(missing - missing / 2)
        default: return pad(missing) + sign + body
        }
    }

    func signText(_ isNegative: Bool) -> String { isNegative ? "-" : sign == "-" ? "" : String(sign) }

    // MARK: %

    func percent(_ type: Unicode.Scalar, _ value: Value, _ run: Run) throws -> String {
        switch type {
        case "s", "r", "a":
            var text = type == "s" ? try value.string(run) : try value.representation(run)
            if let precision { text = String(scalars: text.unicodeScalars.prefix(precision)) }
            var spec = self
            spec.zeroPads = false
            if spec.align == nil { spec.align = ">" }
            return try spec.padded("", text, isNumber: false, run)
        case "c":
            if let text = value.text {
                guard text.unicodeScalars.count == 1 else { throw TemplateFailure("%c requires int or char") }
                return try percent("s", value, run)
            }
            guard let scalar = Unicode.Scalar(UInt32(clamping: try integerArgument(value))) else {
                throw TemplateFailure("%c out of range")
            }
            return try percent("s", .string(String(scalar)), run)
        case "d", "i", "u":
            guard let number = value.number else {
                try value.checkDefined()
                throw TemplateFailure("%\(type) format: a number is required, not \(value.typeName)")
            }
            return try integer(try truncated(number), "d", run)
        case "x", "X", "o":
            guard case .int(let number)? = value.number else {
                try value.checkDefined()
                throw TemplateFailure("%\(type) format: an integer is required, not \(value.typeName)")
            }
            return try integer(number, type, run)
        case "e", "E", "f", "F", "g", "G":
            guard let number = value.number?.double else {
                try value.checkDefined()
                throw TemplateFailure("must be a real number, not \(value.typeName)")
            }
            return try double(number, type, run)
        default: throw TemplateFailure("unsupported format character '\(type)'")
        }
    }

    private func truncated(_ number: Number) throws -> Int {
        switch number {
        case .int(let value): return value
        case .float(let value):
            guard let int = Int(exactly: value.rounded(.towardZero)) else {
                throw TemplateFailure("cannot convert a float to an integer")
            }
            return int
        }
    }

    func integer(_ value: Int, _ type: Unicode.Scalar, _ run: Run) throws -> String {
        let radix = type == "x" || type == "X" ? 16 : type == "o" ? 8 : type == "b" ? 2 : 10
        var digits = String(value.magnitude, radix: radix, uppercase: type == "X")
        if let precision, precision > digits.utf8.count {
            try run.charge(text: precision)
            digits = String(repeating: "0", count: precision - digits.utf8.count) + digits
        }
        digits = grouped(digits, by: radix == 10 ? 3 : 4)
        let prefix = isAlternate && radix != 10 ? "0\(type)" : ""
        return try padded(signText(value < 0) + prefix, digits, isNumber: true, run)
    }

    private func grouped(_ digits: String, by size: Int) -> String {
        guard let grouping else { return digits }
        var output = String.UnicodeScalarView()
        for (i, digit) in digits.unicodeScalars.enumerated() {
            if i > 0, (digits.utf8.count - i) % size == 0 { output.append(grouping) }
            output.append(digit)
        }
        return String(output)
    }

    func double(_ value: Double, _ type: Unicode.Scalar, _ run: Run) throws -> String {
        let digits = precision ?? 6
        guard digits <= 100 else { throw TemplateFailure("precision too large") }
        let magnitude = abs(value)
        var body: String
        if !value.isFinite {
            body = value.isNaN ? "nan" : "inf"
            if type.properties.isUppercase { body = body.uppercased() }
        } else if type == "%" {
            body = fixed(magnitude * 100, digits) + "%"
        } else {
            body = cFormat("%\(isAlternate ? "#" : "").\(digits)\(type)", magnitude)
        }
        if grouping != nil {
            let whole = body.prefix { $0.isNumber }
            body = grouped(String(whole), by: 3) + body.dropFirst(whole.count)
        }
        return try padded(signText(value.sign == .minus && !value.isNaN), body, isNumber: true, run)
    }
}

// MARK: str.format

func formatMethod(_ text: String, _ name: String) -> Method {
    { arguments, run in
        var formatter = BraceFormatter(arguments, run)
        if name == "format_map" {
            guard arguments.keywords.isEmpty, arguments.positional.count == 1 else {
                throw TemplateFailure("format_map() takes exactly one argument")
            }
            var mapped = Arguments()
            try mapped.add(keywordsFrom: arguments.positional[0])
            formatter = BraceFormatter(mapped, run)
        }
        let result = try formatter.text(text, depth: 2)
        try run.charge(text: result.utf8.count)
        return .string(result)
    }
}

private struct BraceFormatter {
    private let arguments: Arguments
    private let run: Run
    /// The next automatic field number; nil once fields are numbered by hand.
    private var automatic: Int? = 0
    private var isManual = false

    init(_ arguments: Arguments, _ run: Run) { (self.arguments, self.run) = (arguments, run) }

    mutating func text(_ format: String, depth: Int) throws -> String {
        guard depth > 0 else { throw TemplateFailure("max string recursion exceeded") }
        var output = ""
        var rest = format.unicodeScalars[...]
        while let scalar = rest.popFirst() {
            if scalar == "{" || scalar == "}", rest.first == scalar {
                output.unicodeScalars.append(scalar)
                rest.removeFirst()
            } else if scalar == "}" {
                throw TemplateFailure("single '}' encountered in format string")
            } else if scalar == "{" {
                output += try field(&rest, depth)
                try run.step()
                try run.check(text: output.utf8.count)
            } else {
                output.unicodeScalars.append(scalar)
            }
        }
        return output
    }

    private mutating func field(_ rest: inout Substring.UnicodeScalarView, _ depth: Int) throws -> String {
        var content = String.UnicodeScalarView(), level = 1
        while let scalar = rest.popFirst() {
            if scalar == "{" { level += 1 }
            if scalar == "}" { level -= 1 }
            if level == 0 { break }
            content.append(scalar)
        }
        guard level == 0 else { throw TemplateFailure("expected '}' before end of string") }
        let colon = content.firstIndex(of: ":")
        var head = content[..<(colon ?? content.endIndex)]
        let spec = colon.map { String(content[content.index(after: $0)...]) } ?? ""
        var conversion: Unicode.Scalar?
        if let bang = head.firstIndex(of: "!") {
            conversion = head[bang...].dropFirst().first
            head = head[..<bang]
        }
        var value = try lookUp(String(head))
        switch conversion {
        case nil: break
        case "s": value = .string(try value.string(run))
        case "r", "a": value = .string(try value.representation(run))
        default: throw TemplateFailure("unknown conversion specifier in a format string")
        }
        return try formatted(value, spec.utf8.contains(0x7B) ? try text(spec, depth: depth - 1) : spec)
    }

    /// `name.attribute[item]` through the same rules as in expressions.
    private mutating func lookUp(_ path: String) throws -> Value {
        var rest = path.unicodeScalars[...]
        let head = String(rest.prefix { $0 != "." && $0 != "[" })
        rest = rest.dropFirst(head.unicodeScalars.count)
        var value = try first(head)
        while let mark = rest.popFirst() {
            if mark == "." {
                let name = String(rest.prefix { $0 != "." && $0 != "[" })
                if name.isEmpty { throw TemplateFailure("empty attribute in format string") }
                rest = rest.dropFirst(name.unicodeScalars.count)
                value = try attribute(value, name, run)
            } else {
                let key = String(rest.prefix { $0 != "]" })
                rest = rest.dropFirst(key.unicodeScalars.count)
                guard rest.popFirst() == "]", !key.isEmpty else {
                    throw TemplateFailure("missing ']' in format string")
                }
                value = try item(value, Int(key).map { .int($0) } ?? .string(key), run)
            }
        }
        return value
    }

    private mutating func first(_ name: String) throws -> Value {
        var index = name.utf8.allSatisfy { $0 &- 0x30 < 10 } ? Int(name) : nil
        if name.isEmpty {
            guard let next = automatic, !isManual else {
                throw TemplateFailure("cannot switch to automatic field numbering")
            }
            index = next
            automatic = next + 1
        } else if index != nil {
            if let automatic, automatic > 0 { throw TemplateFailure("cannot switch to manual field numbering") }
            isManual = true
        }
        if let index {
            guard index < arguments.positional.count else {
                throw TemplateFailure("replacement index \(index) out of range")
            }
            return arguments.positional[index]
        }
        guard let found = arguments.keywords.first(where: { sameText($0.name, name) }) else {
            throw TemplateFailure("no value for the format field \(quoted(name))")
        }
        return found.value
    }

    private func formatted(_ value: Value, _ text: String) throws -> String {
        if text.isEmpty { return try value.string(run) }
        var (spec, type) = try parse(text)
        switch value {
        case .string, .markup, .undefined:
            try value.checkDefined()
            guard type == nil || type == "s", spec.align != "=", spec.sign == "-", spec.grouping == nil else {
                throw TemplateFailure("bad format \(quoted(text)) for a string")
            }
            var string = try value.string(run)
            if let precision = spec.precision { string = String(scalars: string.unicodeScalars.prefix(precision)) }
            if spec.zeroPads { (spec.fill, spec.zeroPads) = ("0", false) }
            return try spec.padded("", string, isNumber: false, run)
        case .int, .bool, .float: return try number(value.number!, spec, type, text)
        default: throw TemplateFailure("unsupported format string passed to \(value.typeName)")
        }
    }

    private func number(_ number: Number, _ spec: FormatSpec, _ type: Unicode.Scalar?, _ text: String) throws -> String
    {
        switch (number, type) {
        case (.int(let int), nil), (.int(let int), "d"), (.int(let int), "n"):
            guard spec.precision == nil else { throw TemplateFailure("precision not allowed in integer format") }
            return try spec.integer(int, "d", run)
        case (.int(let int), "x"?), (.int(let int), "X"?), (.int(let int), "o"?), (.int(let int), "b"?):
            return try spec.integer(int, type!, run)
        case (.int(let int), "c"?):
            guard let scalar = Unicode.Scalar(UInt32(clamping: int)) else {
                throw TemplateFailure("character out of range")
            }
            return try spec.padded("", String(scalar), isNumber: true, run)
        case (.float(let double), nil) where spec.precision == nil:
            return try spec.padded(
                spec.signText(double.sign == .minus && !double.isNaN), pythonFloat(abs(double)), isNumber: true, run)
        case (_, "e"?), (_, "E"?), (_, "f"?), (_, "F"?), (_, "g"?), (_, "G"?), (_, "%"?):
            return try spec.double(number.double, type!, run)
        case (.float(let double), nil): return try spec.double(double, "g", run)
        default: throw TemplateFailure("unknown format code in \(quoted(text))")
        }
    }

    /// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
    private func parse(_ text: String) throws -> (FormatSpec, Unicode.Scalar?) {
        var spec = FormatSpec()
        var rest = Substring(text).unicodeScalars
        let aligns = "<>=^".unicodeScalars
        if let second = rest.dropFirst().first, aligns.contains(second) {
            (spec.fill, spec.align) = (rest.removeFirst(), rest.removeFirst())
        } else if let first = rest.first, aligns.contains(first) {
            spec.align = rest.removeFirst()
        }
        if let sign = rest.first, "+- ".unicodeScalars.contains(sign) { spec.sign = rest.removeFirst() }
        if rest.first == "#" { spec.isAlternate = !rest.isEmpty && rest.removeFirst() == "#" }
        if rest.first == "0" {
            rest.removeFirst()
            if spec.align == nil { spec.zeroPads = true }
        }
        spec.width = try leadingInteger(&rest) ?? 0
        if let mark = rest.first, mark == "," || mark == "_" { spec.grouping = rest.removeFirst() }
        if rest.first == "." {
            rest.removeFirst()
            guard let precision = try leadingInteger(&rest) else {
                throw TemplateFailure("format specifier missing precision")
            }
            spec.precision = precision
        }
        let type = rest.popFirst()
        guard rest.isEmpty else { throw TemplateFailure("invalid format specifier \(quoted(text))") }
        return (spec, type)
    }
}
