// Tokens to statements; expressions are in ExpressionParser.swift.

struct Parser {
    private let tokens: [Token]
    private var at = 0
    private(set) var depth = 0
    /// Operators, subscripts, calls and filters chained in the tag being read: each makes the tree one level deeper.
    private var links = 0
    static let maxDepth = 100
    static let maxLinks = 1000

    static func parse(_ template: String) throws -> [Statement] {
        var parser = Parser(tokens: try Lexer.tokens(of: template))
        return try parser.statements(until: [])
    }

    private init(tokens: [Token]) { self.tokens = tokens }

    var current: Token { tokens[at] }
    var next: Token { tokens[min(at + 1, tokens.count - 1)] }

    mutating func advance() { if at < tokens.count - 1 { at += 1 } }

    func failure(_ message: String) -> TemplateFailure { TemplateFailure(message, line: current.line) }

    /// Bounds recursion: parentheses, brackets, unary operators and blocks inside each other.
    mutating func nested<Result>(_ body: (inout Parser) throws -> Result) throws -> Result {
        depth += 1
        defer { depth -= 1 }
        guard depth <= Self.maxDepth else { throw failure("the template nests deeper than \(Self.maxDepth)") }
        return try body(&self)
    }

    /// One more link of a chain, whose tree deepens without any recursion of the parser.
    mutating func linked<Result>(_ body: (inout Parser) throws -> Result) throws -> Result {
        links += 1
        guard links <= Self.maxLinks else { throw failure("a tag chains more than \(Self.maxLinks) operators") }
        return try body(&self)
    }

    func isOp(_ text: String) -> Bool { current.kind == .op(text) }
    func isName(_ text: String) -> Bool { current.kind == .name(text) }

    mutating func takeOp(_ text: String) -> Bool {
        guard isOp(text) else { return false }
        advance()
        return true
    }

    mutating func takeName(_ text: String) -> Bool {
        guard isName(text) else { return false }
        advance()
        return true
    }

    mutating func expect(_ kind: Token.Kind, _ what: String) throws {
        guard current.kind == kind else { throw failure("expected \(what), found \(describe(current))") }
        advance()
    }

    mutating func expectOp(_ text: String) throws { try expect(.op(text), "'\(text)'") }

    mutating func expectName() throws -> String {
        guard case .name(let name) = current.kind else { throw failure("expected a name, found \(describe(current))") }
        advance()
        return name
    }

    func describe(_ token: Token) -> String {
        switch token.kind {
        case .data: "text"
        case .variableBegin: "{{"
        case .variableEnd: "}}"
        case .blockBegin: "{%"
        case .blockEnd: "%}"
        case .name(let name): "'\(name.prefix(40))'"
        case .string: "a string"
        case .integer, .float: "a number"
        case .op(let op): "'\(op)'"
        case .end: "the end of the template"
        }
    }

    // MARK: Statements

    /// Statements up to a block whose tag is one of `ends`; that tag is the current token afterwards.
    private mutating func statements(until ends: [String]) throws -> [Statement] {
        var body: [Statement] = []
        while true {
            let token = current
            links = 0
            switch token.kind {
            case .end:
                guard ends.isEmpty else {
                    throw failure("the template ends before \(ends.map { "{% \($0) %}" }.joined(separator: " or "))")
                }
                return body
            case .data(let text):
                advance()
                body.append(.text(text))
            case .variableBegin:
                advance()
                body.append(.output(try tuple(), line: token.line))
                try expect(.variableEnd, "'}}'")
            case .blockBegin:
                advance()
                if case .name(let tag) = current.kind, ends.contains(tag) { return body }
                body.append(contentsOf: try nested { try $0.statement(insteadOf: ends) })
                try expect(.blockEnd, "'%}'")
            default: throw failure("unexpected \(describe(token))")
            }
        }
    }

    /// The rest of an opening tag and the statements up to one of `ends`, which is taken.
    private mutating func body(_ ends: String...) throws -> (statements: [Statement], end: String) {
        _ = takeOp(":")
        try expect(.blockEnd, "'%}'")
        let statements = try statements(until: ends)
        return (statements, try expectName())
    }

    private mutating func statement(insteadOf ends: [String]) throws -> [Statement] {
        let line = current.line
        let tag = try expectName()
        switch tag {
        case "for": return [try forLoop(line)]
        case "if": return [try ifElse(line)]
        case "set": return [try set(line)]
        case "macro":
            let name = try expectName()
            let signature = try signature()
            return [.macro(name: name, signature, body: try body("endmacro").statements, line: line)]
        case "call":
            let signature = isOp("(") ? try signature() : Signature()
            let call = try expression()
            guard case .call = call else { throw TemplateFailure("{% call %} needs a call", line: line) }
            return [.callBlock(call: call, signature, body: try body("endcall").statements, line: line)]
        case "filter":
            let filter = try filters(of: nil, startsInline: true)!
            return [.filterBlock(filter, body: try body("endfilter").statements, line: line)]
        case "with": return [try with(line)]
        case "print": return try printed(line)
        case "generation": return [.generation(body: try body("endgeneration").statements, line: line)]
        case "block": return [try block(line)]
        case "autoescape":
            _ = try expression()
            throw TemplateFailure("{% autoescape %} is not supported in chat templates", line: line)
        case "break": return [.breakLoop(line: line)]
        case "continue": return [.continueLoop(line: line)]
        case "extends", "include", "import", "from":
            throw TemplateFailure("{% \(tag) %} is not allowed: a chat template cannot read other files", line: line)
        default:
            let wanted =
                ends.isEmpty ? "" : "; open is what \(ends.map { "{% \($0) %}" }.joined(separator: " or ")) ends"
            throw TemplateFailure("unknown tag '\(tag.prefix(40))'\(wanted)", line: line)
        }
    }

    private mutating func forLoop(_ line: Int) throws -> Statement {
        let target = try target(endingBefore: "in", withNamespace: false)
        try expect(.name("in"), "'in'")
        let iterable = try tuple(withConditional: false, endingBefore: "recursive")
        let test = takeName("if") ? try expression() : nil
        let isRecursive = takeName("recursive")
        let (statements, end) = try body("endfor", "else")
        let otherwise = end == "else" ? try body("endfor").statements : []
        return .forLoop(
            ForLoop(
                target: target, iterable: iterable, test: test, isRecursive: isRecursive, body: statements,
                otherwise: otherwise, line: line))
    }

    private mutating func ifElse(_ line: Int) throws -> Statement {
        var branches: [(test: Expression, body: [Statement])] = []
        while true {
            let test = try tuple(withConditional: false)
            let (statements, end) = try body("elif", "else", "endif")
            branches.append((test, statements))
            if end == "elif" { continue }
            let otherwise = end == "else" ? try body("endif").statements : []
            return .ifElse(branches, otherwise: otherwise, line: line)
        }
    }

    private mutating func set(_ line: Int) throws -> Statement {
        let target = try target(endingBefore: nil, withNamespace: true)
        if takeOp("=") { return .set(target: target, value: try tuple(), line: line) }
        let filter = try filters(of: nil, startsInline: false)
        return .setBlock(target: target, filter: filter, body: try body("endset").statements, line: line)
    }

    private mutating func with(_ line: Int) throws -> Statement {
        var targets: [Expression] = [], values: [Expression] = []
        while current.kind != .blockEnd {
            if !targets.isEmpty { try expectOp(",") }
            targets.append(try target(endingBefore: nil, withNamespace: false))
            try expectOp("=")
            values.append(try expression())
        }
        return .with(targets: targets, values: values, body: try body("endwith").statements, line: line)
    }

    private mutating func printed(_ line: Int) throws -> [Statement] {
        var outputs: [Statement] = []
        while current.kind != .blockEnd {
            if !outputs.isEmpty { try expectOp(",") }
            outputs.append(.output(try expression(), line: line))
        }
        return outputs
    }

    private mutating func block(_ line: Int) throws -> Statement {
        let name = try expectName()
        guard !isName("scoped"), !isName("required") else {
            throw failure("scoped and required blocks are not supported")
        }
        let statements = try body("endblock").statements
        _ = takeName(name)
        return .block(name: name, body: statements, line: line)
    }

    private mutating func signature() throws -> Signature {
        var signature = Signature()
        try expectOp("(")
        while !isOp(")") {
            if !signature.names.isEmpty { try expectOp(",") }
            let name = try expectName()
            try checkAssignable(name)
            if takeOp("=") {
                signature.defaults.append(try expression())
            } else if !signature.defaults.isEmpty {
                throw failure("a parameter without default follows one with a default")
            }
            signature.names.append(name)
        }
        try expectOp(")")
        return signature
    }

    func checkAssignable(_ name: String) throws {
        if ["true", "false", "none", "True", "False", "None"].contains(name) {
            throw failure("cannot assign to '\(name)'")
        }
    }

    /// Names, tuples of names and (for `set`) namespace attributes.
    private mutating func target(endingBefore end: String?, withNamespace: Bool) throws -> Expression {
        let target = try tuple(simplified: true, endingBefore: end, withNamespace: withNamespace)
        try checkTarget(target)
        return target
    }

    private func checkTarget(_ target: Expression) throws {
        switch target {
        case .name(let name): try checkAssignable(name)
        case .namespaceAttribute: break
        case .tuple(let items): try items.forEach(checkTarget)
        default: throw failure("cannot assign to this")
        }
    }
}
