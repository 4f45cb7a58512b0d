// Template source to tokens, with Jinja's whitespace rules (trim_blocks and lstrip_blocks on, as chat templates
// expect).

/// Why a template cannot be parsed or rendered; becomes a `UserError` at the edge of this target.
struct TemplateFailure: Error {
    var message: String
    /// Line of the template, from 1; set by the innermost statement that knows it.
    var line: Int?

    init(_ message: String, line: Int? = nil) {
        self.message = message
        self.line = line
    }
}

struct Token {
    enum Kind: Equatable {
        case data(String)
        case variableBegin, variableEnd, blockBegin, blockEnd
        case name(String)
        case string(String)
        case integer(Int)
        case float(Double)
        case op(String)
        case end
    }
    let kind: Kind
    let line: Int
}

struct Lexer {
    private let source: [UInt8]
    private var at = 0
    private var line = 1
    private var tokens: [Token] = []
    /// Whether the last match ended a line: text up to a block may then be stripped.
    private var lineStarting = true

    /// All tokens of a template, `.end` last.
    static func tokens(of template: String) throws -> [Token] {
        var lexer = Lexer(template)
        while lexer.at < lexer.source.count { try lexer.root() }
        lexer.add(.end)
        return lexer.tokens
    }

    private init(_ template: String) {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(template.utf8.count)
        var afterReturn = false
        for byte in template.utf8 {
            if byte == 0x0A, afterReturn {
                afterReturn = false
                continue
            }
            afterReturn = byte == 0x0D
            bytes.append(afterReturn ? 0x0A : byte)
        }
        if bytes.last == 0x0A { bytes.removeLast() }
        source = bytes
    }

    private mutating func add(_ kind: Token.Kind) { tokens.append(Token(kind: kind, line: line)) }

    private func failure(_ message: String) -> TemplateFailure { TemplateFailure(message, line: line) }

    private func byte(_ i: Int) -> UInt8 { i < source.count ? source[i] : 0 }

    private func matches(_ text: StaticString, _ i: Int) -> Bool {
        let n = text.utf8CodeUnitCount
        guard i >= 0, i + n <= source.count else { return false }
        for k in 0..<n where source[i + k] != text.utf8Start[k] { return false }
        return true
    }

    /// Moves to `end`, counting lines.
    private mutating func advance(to end: Int) {
        for i in at..<end where source[i] == 0x0A { line += 1 }
        if end > at { lineStarting = source[end - 1] == 0x0A }
        at = end
    }

    // MARK: Text between tags

    private mutating func root() throws {
        var begin = at
        while begin < source.count, !(source[begin] == 0x7B && [0x25, 0x7B, 0x23].contains(byte(begin + 1))) {
            begin += 1
        }
        guard begin < source.count else {
            addData(at..<begin)
            advance(to: begin)
            return
        }
        let opener = source[begin + 1]
        if opener == 0x25, let body = rawBegin(begin) { return try raw(begin, body) }
        var after = begin + 2
        let sign = byte(after)
        if sign == 0x2D || sign == 0x2B { after += 1 }
        addStripped(at..<begin, sign: sign, isVariable: opener == 0x7B)
        advance(to: after)
        switch opener {
        case 0x23: try comment()
        case 0x7B:
            add(.variableBegin)
            try tag(isVariable: true)
        default:
            add(.blockBegin)
            try tag(isVariable: false)
        }
    }

    private mutating func addData(_ range: Range<Int>) {
        if !range.isEmpty { add(.data(String(decoding: source[range], as: UTF8.self))) }
    }

    /// Text before a tag: `-` strips all white space at its end, else white space from the start of the line on goes
    /// (blocks and comments only), unless `+` says to keep it.
    private mutating func addStripped(_ range: Range<Int>, sign: UInt8, isVariable: Bool) {
        let stripped = spaceStart(range)
        if sign == 0x2D { return addData(range.lowerBound..<stripped) }
        if sign != 0x2B, !isVariable {
            var lineStart = range.upperBound
            while lineStart > range.lowerBound, source[lineStart - 1] != 0x0A { lineStart -= 1 }
            if lineStart > range.lowerBound || lineStarting, stripped <= lineStart {
                return addData(range.lowerBound..<lineStart)
            }
        }
        addData(range)
    }

    /// Where the run of white space at the end of `range` starts.
    private func spaceStart(_ range: Range<Int>) -> Int {
        var end = range.upperBound
        while end > range.lowerBound {
            var start = end - 1
            while start > range.lowerBound, source[start] & 0xC0 == 0x80 { start -= 1 }
            guard isSpace(start, end) else { break }
            end = start
        }
        return end
    }

    private func isSpace(_ start: Int, _ end: Int) -> Bool {
        if source[start] < 0x80 { return Unicode.Scalar(source[start]).isPythonSpace }
        return String(decoding: source[start..<end], as: UTF8.self).unicodeScalars.first!.isPythonSpace
    }

    private func skipSpace(_ from: Int) -> Int {
        var i = from
        while i < source.count {
            var end = i + 1
            while end < source.count, source[end] & 0xC0 == 0x80 { end += 1 }
            guard isSpace(i, end) else { break }
            i = end
        }
        return i
    }

    /// End of a closing `%}` or `#}` at `i` with its sign and what it swallows; nil if there is none.
    private func closing(_ close: StaticString, _ i: Int, keepsLine: Bool = false) -> Int? {
        if byte(i) == 0x2D, matches(close, i + 1) { return skipSpace(i + 3) }
        if byte(i) == 0x2B, !keepsLine, matches(close, i + 1) { return i + 3 }
        guard matches(close, i) else { return nil }
        return !keepsLine && byte(i + 2) == 0x0A ? i + 3 : i + 2
    }

    private mutating func comment() throws {
        var i = at
        while i < source.count {
            if let end = closing("#}", i) { return advance(to: end) }
            i += 1
        }
        if at == source.count { return }  // as Jinja: an opening with nothing after it is let pass
        throw failure("a comment {# is not closed")
    }

    /// Where the text of `{% raw %}` at `i` starts; nil if this is another block.
    private func rawBegin(_ i: Int) -> Int? {
        var j = i + 2
        if byte(j) == 0x2D || byte(j) == 0x2B { j += 1 }
        j = skipSpace(j)
        guard matches("raw", j) else { return nil }
        return closing("%}", skipSpace(j + 3), keepsLine: true)
    }

    private mutating func raw(_ begin: Int, _ body: Int) throws {
        addStripped(at..<begin, sign: byte(begin + 2), isVariable: false)
        advance(to: body)
        var i = at
        while i < source.count {
            if matches("{%", i) {
                var j = i + 2
                if byte(j) == 0x2D || byte(j) == 0x2B { j += 1 }
                j = skipSpace(j)
                if matches("endraw", j), let end = closing("%}", skipSpace(j + 6)) {
                    addStripped(at..<i, sign: byte(i + 2), isVariable: false)
                    return advance(to: end)
                }
            }
            i += 1
        }
        if at == source.count { return }
        throw failure("{% raw %} is not closed by {% endraw %}")
    }

    // MARK: Inside a tag

    private mutating func tag(isVariable: Bool) throws {
        var open: [UInt8] = []
        while at < source.count {
            if open.isEmpty, let end = tagEnd(isVariable) {
                add(isVariable ? .variableEnd : .blockEnd)
                return advance(to: end)
            }
            let space = skipSpace(at)
            if space > at {
                advance(to: space)
            } else if !(try number()), !(try name()), !(try string()) {
                try op(&open)
            }
        }
        // The parser reports the unexpected end with what it was looking for.
    }

    private func tagEnd(_ isVariable: Bool) -> Int? {
        guard isVariable else { return closing("%}", at) }
        if matches("-}}", at) { return skipSpace(at + 3) }
        return matches("}}", at) ? at + 2 : nil
    }

    /// End of a run of digits with single underscores between them; nil if there is no digit at `i`.
    private func digits(_ i: Int, _ isDigit: (UInt8) -> Bool = { $0 &- 0x30 < 10 }) -> Int? {
        guard isDigit(byte(i)) else { return nil }
        var j = i + 1
        while isDigit(byte(j)) || (byte(j) == 0x5F && isDigit(byte(j + 1))) { j += 1 }
        return j
    }

    private mutating func number() throws -> Bool {
        guard let whole = digits(at) else { return false }
        if byte(at &- 1) != 0x2E || at == 0, let end = floatEnd(whole) {
            guard let value = Double(numberText(end)) else { throw failure("bad number \(numberText(end))") }
            add(.float(value))
            advance(to: end)
            return true
        }
        let (end, text, radix) = integerParts(whole)
        guard let value = Int(text, radix: radix) else {
            throw failure("the integer \(text.prefix(30)) is beyond 64 bits")
        }
        add(.integer(value))
        advance(to: end)
        return true
    }

    private func numberText(_ end: Int) -> String {
        String(decoding: source[at..<end].filter { $0 != 0x5F }, as: UTF8.self)
    }

    /// End of a literal with fraction or exponent (or both) whose whole part ends at `whole`.
    private func floatEnd(_ whole: Int) -> Int? {
        var end = whole
        if byte(end) == 0x2E, let fraction = digits(end + 1) { end = fraction }
        if byte(end) | 0x20 == 0x65 {
            let sign = byte(end + 1) == 0x2B || byte(end + 1) == 0x2D ? 1 : 0
            if let exponent = digits(end + 1 + sign) { end = exponent }
        }
        return end > whole ? end : nil
    }

    private func integerParts(_ whole: Int) -> (end: Int, text: String, radix: Int) {
        if byte(at) == 0x30 {
            let prefixed: (Int, (UInt8) -> Bool)? =
                switch byte(at + 1) | 0x20 {
                case 0x62: (2, { $0 &- 0x30 < 2 })
                case 0x6F: (8, { $0 &- 0x30 < 8 })
                case 0x78: (16, { $0 &- 0x30 < 10 || ($0 | 0x20) &- 0x61 < 6 })
                default: nil
                }
            if let (radix, isDigit) = prefixed {
                let start = at + 2 + (byte(at + 2) == 0x5F ? 1 : 0)
                if let end = digits(start, isDigit) { return (end, String(numberText(end).dropFirst(2)), radix) }
            }
            let zeros = digits(at) { $0 == 0x30 }!
            return (zeros, "0", 10)
        }
        return (whole, numberText(whole), 10)
    }

    private mutating func name() throws -> Bool {
        var end = at
        for scalar in scalars(from: at) {
            guard scalar == "_" || scalar.isPythonAlphanumeric else { break }
            end += UTF8.width(scalar)
        }
        guard end > at else { return false }
        let text = String(decoding: source[at..<end], as: UTF8.self)
        guard text.unicodeScalars.allSatisfy({ $0 == "_" || $0.properties.isXIDContinue }),
            text.unicodeScalars.first!.properties.isXIDStart || text.utf8.first == 0x5F
        else { throw failure("invalid character in identifier \(text.prefix(40))") }
        add(.name(text))
        advance(to: end)
        return true
    }

    /// The scalars from byte `i` on, in pieces that keep long templates linear.
    private func scalars(from i: Int) -> String.UnicodeScalarView {
        var end = min(i + 256, source.count)
        while end < source.count, source[end] & 0xC0 == 0x80 { end += 1 }
        return String(decoding: source[i..<end], as: UTF8.self).unicodeScalars
    }

    private mutating func string() throws -> Bool {
        let quote = byte(at)
        guard quote == 0x22 || quote == 0x27 else { return false }
        var end = at + 1
        while end < source.count, source[end] != quote { end += source[end] == 0x5C ? 2 : 1 }
        guard end < source.count else { throw failure("a string is not closed") }
        add(.string(try unescaped(String(decoding: source[(at + 1)..<end], as: UTF8.self))))
        advance(to: end + 1)
        return true
    }

    /// Python's escapes, unknown ones kept as they are.
    private func unescaped(_ text: String) throws -> String {
        guard text.utf8.contains(0x5C) else { return text }
        var output = String.UnicodeScalarView()
        let scalars = Array(text.unicodeScalars)
        var i = 0
        while i < scalars.count {
            guard scalars[i] == "\\", i + 1 < scalars.count else {
                output.append(scalars[i])
                i += 1
                continue
            }
            let escape = scalars[i + 1]
            i += 2
            switch escape {
            case "\n": break
            case "\\", "'", "\"": output.append(escape)
            case "a": output.append("\u{7}")
            case "b": output.append("\u{8}")
            case "f": output.append("\u{C}")
            case "n": output.append("\n")
            case "r": output.append("\r")
            case "t": output.append("\t")
            case "v": output.append("\u{B}")
            case "0"..."7":
                var value = escape.value - 48, n = 1
                while n < 3, i < scalars.count, ("0"..."7").contains(scalars[i]) {
                    value = value * 8 + scalars[i].value - 48
                    (i, n) = (i + 1, n + 1)
                }
                output.append(Unicode.Scalar(value)!)
            case "x", "u", "U":
                let n = escape == "x" ? 2 : escape == "u" ? 4 : 8
                let hex = String(String.UnicodeScalarView(scalars[i..<min(i + n, scalars.count)]))
                guard hex.utf8.count == n, let value = UInt32(hex, radix: 16), let scalar = Unicode.Scalar(value) else {
                    throw failure("bad escape \\\(escape)\(hex) in a string")
                }
                output.append(scalar)
                i += n
            case "N": throw failure("\\N{...} escapes are not supported; write the character itself")
            default:
                output.append("\\")
                // Python passes strings through an ASCII form first, so a backslash hits the escape of what follows.
                if escape.isASCII { output.append(escape) } else { output.append(contentsOf: asciiForm(escape)) }
            }
        }
        return String(output)
    }

    private func asciiForm(_ scalar: Unicode.Scalar) -> String.UnicodeScalarView {
        let hex = String(scalar.value, radix: 16)
        let (letter, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
        return (letter + String(repeating: "0", count: width - hex.utf8.count) + hex).unicodeScalars
    }

    private mutating func op(_ open: inout [UInt8]) throws {
        let two = at + 1 < source.count ? String(decoding: source[at...(at + 1)], as: UTF8.self) : ""
        if ["//", "**", "==", "!=", ">=", "<="].contains(two) {
            add(.op(two))
            return advance(to: at + 2)
        }
        let first = source[at]
        guard "+-/*%~[](){}><=.:|,;".utf8.contains(first) else {
            throw failure("unexpected character \"\(scalars(from: at).first!)\" in a tag")
        }
        switch first {
        case 0x7B: open.append(0x7D)
        case 0x28: open.append(0x29)
        case 0x5B: open.append(0x5D)
        case 0x7D, 0x29, 0x5D:
            guard open.popLast() == first else { throw failure("unexpected \"\(Unicode.Scalar(first))\"") }
        default: break
        }
        add(.op(String(Unicode.Scalar(first))))
        advance(to: at + 1)
    }
}
