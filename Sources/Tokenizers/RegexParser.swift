// Reads the regular expressions of tokenizer files into a tree.
import Diagnostics

/// A pattern as a tree.
indirect enum RegexNode {
    case empty
    case set(RegexSet)
    case sequence([RegexNode])
    case alternatives([RegexNode])
    /// `max` nil: no limit.
    case repeated(RegexNode, min: Int, max: Int?, RegexRepetition)
    case atomic(RegexNode)
    case look(RegexNode, behind: Bool, negative: Bool)
    case assertion(RegexAssertion)
}

enum RegexRepetition { case greedy, lazy, possessive }

enum RegexAssertion: Equatable {
    case textStart, textEnd, textEndOrLastBreak, lineStart, lineEnd, wordBoundary, noWordBoundary
}

/// Whose rules a pattern follows where they differ.
enum RegexDialect {
    /// Oniguruma, the engine of `tokenizer.json`: `^` and `$` are of lines, `(?m)` lets `.` match line breaks, `{1,3}+`
    /// repeats.
    case oniguruma
    /// The Rust crates that tiktoken uses: `^` and `$` are of the text, `(?s)`, `{1,3}+` does not give back.
    case rust
}

struct RegexParser {
    private let text: [UInt32]
    private let dialect: RegexDialect
    private var at = 0
    private var depth = 0
    private var options = Options()

    private struct Options {
        var ignoresCase = false, dotMatchesBreaks = false, isMultiLine = false, isExtended = false
    }

    /// Longest pattern read, and deepest nesting.
    static let maxLength = 20_000, maxDepth = 64, maxRepeat = 1000

    private init(_ pattern: String, _ dialect: RegexDialect) {
        (text, self.dialect) = (pattern.unicodeScalars.map(\.value), dialect)
    }

    /// - Throws: `UserError` saying what in the pattern is not understood.
    static func parse(_ pattern: String, _ dialect: RegexDialect) throws -> RegexNode {
        var parser = RegexParser(pattern, dialect)
        guard parser.text.count <= maxLength else {
            throw UserError("the pattern is longer than \(maxLength) characters")
        }
        let node = try parser.alternatives()
        if parser.at < parser.text.count { throw parser.failure("a closing parenthesis without an opening one") }
        return node
    }

    private func failure(_ what: String) -> UserError { UserError("character \(at + 1): \(what)") }

    private func peek(_ ahead: Int = 0) -> UInt32? { at + ahead < text.count ? text[at + ahead] : nil }

    private mutating func take(_ expected: String) -> Bool {
        let wanted = expected.unicodeScalars.map(\.value)
        guard at + wanted.count <= text.count, text[at..<at + wanted.count].elementsEqual(wanted) else { return false }
        at += wanted.count
        return true
    }

    // MARK: Structure

    private mutating func alternatives() throws -> RegexNode {
        depth += 1
        defer { depth -= 1 }
        if depth > Self.maxDepth { throw failure("groups nested deeper than \(Self.maxDepth)") }
        let outer = options
        defer { options = outer }
        var branches = [try sequence()]
        while take("|") { branches.append(try sequence()) }
        return branches.count == 1 ? branches[0] : .alternatives(branches)
    }

    private mutating func sequence() throws -> RegexNode {
        var parts: [RegexNode] = []
        while let next = peek(), next != 0x7C, next != 0x29 {
            if options.isExtended, skipExtended() { continue }
            guard let atom = try atom() else { continue }
            parts.append(try quantified(atom))
        }
        return parts.count == 1 ? parts[0] : .sequence(parts)
    }

    /// White space and comments of `(?x)`.
    private mutating func skipExtended() -> Bool {
        if let next = peek(), RegexSet.space.contains(next) {
            at += 1
            return true
        }
        guard take("#") else { return false }
        while let next = peek(), next != 0x0A { at += 1 }
        return true
    }

    private mutating func quantified(_ atom: RegexNode) throws -> RegexNode {
        var node = atom
        while let (min, max, isInterval) = try quantifier() {
            var kind = RegexRepetition.greedy
            if take("?") {
                kind = .lazy
                if isInterval, dialect == .oniguruma, min == max {  // `{3}?` is an optional `{3}` there
                    node = .repeated(.repeated(node, min: min, max: max, .greedy), min: 0, max: 1, .greedy)
                    continue
                }
            } else if !(isInterval && dialect == .oniguruma), take("+") {
                kind = .possessive
            }
            if case .assertion = node { throw failure("a repeated anchor") }
            if case .look = node { throw failure("a repeated look-around") }
            node = .repeated(node, min: min, max: max, kind)
        }
        return node
    }

    private mutating func quantifier() throws -> (min: Int, max: Int?, isInterval: Bool)? {
        if take("*") { return (0, nil, false) }
        if take("+") { return (1, nil, false) }
        if take("?") { return (0, 1, false) }
        let start = at
        guard take("{") else { return nil }
        let low = number(), hasComma = take(","), high = hasComma ? number() : low
        guard take("}"), low != nil || high != nil else {
            at = start  // a brace that stands for itself
            return nil
        }
        if low == nil, dialect == .rust {
            at = start
            return nil
        }
        let min = low ?? 0
        guard min <= Self.maxRepeat, high ?? 0 <= Self.maxRepeat else {
            throw failure("a repetition beyond \(Self.maxRepeat)")
        }
        if let high, high < min { throw failure("a repetition whose end is below its start") }
        return (min, high, true)
    }

    private mutating func number() -> Int? {
        var value: Int?
        while let digit = peek(), (0x30...0x39).contains(digit), (value ?? 0) < 1_000_000 {
            value = (value ?? 0) * 10 + Int(digit - 0x30)
            at += 1
        }
        return value
    }

    /// Nil for what stands for nothing, such as `(?i)`.
    private mutating func atom() throws -> RegexNode? {
        let next = peek()!
        switch next {
        case 0x28:  // (
            at += 1
            return try group()
        case 0x5B:  // [
            at += 1
            return .set(cased(try bracket()))
        case 0x2E:
            at += 1
            return .set(options.dotMatchesBreaks ? .any : .not(.lineFeed))
        case 0x5E:
            at += 1
            return .assertion(dialect == .oniguruma || options.isMultiLine ? .lineStart : .textStart)
        case 0x24:
            at += 1
            return .assertion(dialect == .oniguruma || options.isMultiLine ? .lineEnd : .textEnd)
        case 0x5C:
            at += 1
            return try escape()
        case 0x2A, 0x2B, 0x3F: throw failure("nothing to repeat")
        default:
            at += 1
            return literal(next)
        }
    }

    private func literal(_ scalar: UInt32) -> RegexNode {
        guard options.ignoresCase else { return .set(.ranges([scalar...scalar])) }
        return .set(.ranges(caseVariants(of: scalar).map { $0...$0 }))
    }

    private func cased(_ set: RegexSet) -> RegexSet { options.ignoresCase ? .anyCase(set) : set }

    private mutating func group() throws -> RegexNode? {
        func close(_ node: RegexNode) throws -> RegexNode {
            guard take(")") else { throw failure("a group that is not closed") }
            return node
        }
        guard take("?") else { return try close(alternatives()) }
        if take("#") {
            while let next = peek(), next != 0x29 { at += next == 0x5C ? 2 : 1 }
            _ = try close(.empty)
            return nil
        }
        if take(":") { return try close(alternatives()) }
        if take(">") { return try close(.atomic(alternatives())) }
        if take("=") { return try close(.look(alternatives(), behind: false, negative: false)) }
        if take("!") { return try close(.look(alternatives(), behind: false, negative: true)) }
        if take("<=") { return try close(.look(alternatives(), behind: true, negative: false)) }
        if take("<!") { return try close(.look(alternatives(), behind: true, negative: true)) }
        if take("<") || take("P<") {
            while let next = peek(), next != 0x3E { at += 1 }
            guard take(">") else { throw failure("a group name that is not closed") }
            return try close(alternatives())
        }
        return try optionGroup()
    }

    /// `(?i)` to the end of the group, or `(?i:...)`.
    private mutating func optionGroup() throws -> RegexNode? {
        var changed = options, isOn = true
        while let letter = peek(), letter != 0x29, letter != 0x3A {
            switch letter {
            case 0x2D: isOn = false
            case 0x69: changed.ignoresCase = isOn
            case 0x78: changed.isExtended = isOn
            case 0x6D where dialect == .oniguruma: changed.dotMatchesBreaks = isOn
            case 0x6D: changed.isMultiLine = isOn
            case 0x73 where dialect == .rust: changed.dotMatchesBreaks = isOn
            default: throw failure("the group (?\(Unicode.Scalar(letter).map(String.init) ?? "") is not supported")
            }
            at += 1
        }
        if take(")") {
            options = changed
            // In Oniguruma what follows, alternatives included, belongs to the option.
            guard dialect == .oniguruma else { return nil }
            return try alternatives()
        }
        guard take(":") else { throw failure("a group that is not closed") }
        let outer = options
        options = changed
        let node = try alternatives()
        options = outer
        guard take(")") else { throw failure("a group that is not closed") }
        return node
    }

    // MARK: Escapes

    private mutating func escape() throws -> RegexNode {
        guard let letter = peek() else { throw failure("a backslash at the end") }
        if let set = try setEscape() { return .set(cased(set)) }
        switch letter {
        case 0x41: return anchor(.textStart)  // A
        case 0x7A: return anchor(.textEnd)  // z
        case 0x5A: return anchor(.textEndOrLastBreak)  // Z
        case 0x62: return anchor(.wordBoundary)  // b
        case 0x42: return anchor(.noWordBoundary)  // B
        default: return literal(try characterEscape())
        }
    }

    private mutating func anchor(_ assertion: RegexAssertion) -> RegexNode {
        at += 1
        return .assertion(assertion)
    }

    /// `\s`, `\p{L}` and the like at the letter after the backslash; nil for other escapes.
    private mutating func setEscape() throws -> RegexSet? {
        let letter = peek()!
        func plain(_ set: RegexSet) -> RegexSet {
            at += 1
            return set
        }
        let decimal = RegexSet.property("Nd")!
        switch letter {
        case 0x73: return plain(.space)
        case 0x53: return plain(.not(.space))
        case 0x64: return plain(decimal)
        case 0x44: return plain(.not(decimal))
        case 0x77: return plain(.word)
        case 0x57: return plain(.not(.word))
        case 0x68 where dialect == .oniguruma: return plain(.ranges([0x30...0x39, 0x41...0x46, 0x61...0x66]))
        case 0x48 where dialect == .oniguruma: return plain(.not(.ranges([0x30...0x39, 0x41...0x46, 0x61...0x66])))
        case 0x70, 0x50:
            at += 1
            var name = "", isNegative = letter == 0x50
            if take("{") {
                if take("^") { isNegative.toggle() }
                while let next = peek(), next != 0x7D {
                    if let scalar = Unicode.Scalar(next) { name.unicodeScalars.append(scalar) }
                    at += 1
                }
                guard take("}") else { throw failure("a property that is not closed") }
            } else if dialect == .rust, let next = peek(), let scalar = Unicode.Scalar(next) {
                name.unicodeScalars.append(scalar)
                at += 1
            }
            guard let set = RegexSet.property(name) else { throw failure("the property \(quoted(name)) is not known") }
            return isNegative ? .not(set) : set
        default: return nil
        }
    }

    /// The character that an escape stands for, from the letter after the backslash on.
    private mutating func characterEscape() throws -> UInt32 {
        let letter = text[at]
        at += 1
        switch letter {
        case 0x6E: return 0x0A
        case 0x74: return 0x09
        case 0x72: return 0x0D
        case 0x66: return 0x0C
        case 0x76: return 0x0B
        case 0x61: return 0x07
        case 0x65: return 0x1B
        case 0x78: return take("{") ? try hexadecimal(1...8, closed: true) : try hexadecimal(1...2, closed: false)
        case 0x75: return take("{") ? try hexadecimal(1...8, closed: true) : try hexadecimal(4...4, closed: false)
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A:
            at -= 1
            throw failure("the escape \\\(Unicode.Scalar(letter)!) is not supported")
        default: return letter
        }
    }

    private mutating func hexadecimal(_ digits: ClosedRange<Int>, closed: Bool) throws -> UInt32 {
        var value: UInt32 = 0, count = 0
        while count < digits.upperBound, let next = peek(), let scalar = Unicode.Scalar(next),
            let digit = Character(scalar).hexDigitValue
        {
            value = value << 4 | UInt32(digit)
            at += 1
            count += 1
        }
        guard count >= digits.lowerBound, !closed || take("}"), Unicode.Scalar(value) != nil else {
            throw failure("a code point that is none")
        }
        return value
    }

    // MARK: Bracket expressions

    /// After `[`.
    private mutating func bracket() throws -> RegexSet {
        depth += 1
        defer { depth -= 1 }
        if depth > Self.maxDepth { throw failure("sets nested deeper than \(Self.maxDepth)") }
        let isNegative = take("^")
        var whole: RegexSet?, parts: [RegexSet] = [], isFirst = true
        while true {
            guard let next = peek() else { throw failure("a set that is not closed") }
            if next == 0x5D, !isFirst { break }  // a bracket that comes first stands for itself
            isFirst = false
            if take("&&") {
                whole = whole.map { .intersection($0, .union(parts)) } ?? .union(parts)
                parts = []
            } else if next == 0x5B, peek(1) == 0x3A {
                throw failure("the POSIX bracket [: is not supported")
            } else if take("[") {
                parts.append(try bracket())
            } else {
                parts.append(try member())
            }
        }
        at += 1
        let set = whole.map { RegexSet.intersection($0, .union(parts)) } ?? .union(parts)
        return isNegative ? .not(set) : set
    }

    /// A character, a range or an escaped set.
    private mutating func member() throws -> RegexSet {
        guard let first = try end() else { return try setEscape()! }
        guard peek() == 0x2D, let after = peek(1), after != 0x5D, after != 0x5B else { return .ranges([first...first]) }
        at += 1
        guard let last = try end() else {  // `a-\w`: all three stand for themselves
            return .union([.ranges([first...first, 0x2D...0x2D]), try setEscape()!])
        }
        guard last >= first else { throw failure("a range whose end is below its start") }
        return .ranges([first...last])
    }

    /// One end of a range; nil, and only the backslash taken, where a set stands.
    private mutating func end() throws -> UInt32? {
        guard take("\\") else {
            at += 1
            return text[at - 1]
        }
        guard let letter = peek() else { throw failure("a backslash at the end") }
        if "sSdDwWpP".unicodeScalars.contains(where: { $0.value == letter }) { return nil }
        if dialect == .oniguruma, letter == 0x68 || letter == 0x48 { return nil }
        if letter == 0x62 {  // in a set, \b is the backspace
            at += 1
            return 0x08
        }
        return try characterEscape()
    }
}
