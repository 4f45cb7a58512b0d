// Expressions, with the precedence of Jinja (unlike Python's in places: `~`, unary minus and powers, filters).

extension Parser {
    /// One expression, or a tuple of several separated by commas.
    mutating func tuple(
        simplified: Bool = false, withConditional: Bool = true, endingBefore end: String? = nil,
        inParentheses: Bool = false, withNamespace: Bool = false
    ) throws -> Expression {
        var items: [Expression] = []
        var isTuple = false
        while true {
            if !items.isEmpty { try expectOp(",") }
            if current.kind == .variableEnd || current.kind == .blockEnd || isOp(")") { break }
            if let end, isName(end) { break }
            items.append(
                simplified
                    ? try primary(withNamespace: withNamespace) : try expression(withConditional: withConditional))
            guard isOp(",") else { break }
            isTuple = true
        }
        if !isTuple {
            if let item = items.first { return item }
            guard inParentheses else { throw failure("expected an expression, found \(describe(current))") }
        }
        return .tuple(items)
    }

    mutating func expression(withConditional: Bool = true) throws -> Expression {
        try nested { withConditional ? try $0.conditional() : try $0.or() }
    }

    private mutating func conditional() throws -> Expression {
        var result = try or()
        while takeName("if") {
            let test = try linked { try $0.or() }
            let otherwise = takeName("else") ? try nested { try $0.conditional() } : nil
            result = .conditional(test: test, then: result, otherwise: otherwise)
        }
        return result
    }

    private mutating func or() throws -> Expression {
        var left = try and()
        while takeName("or") { left = .or(left, try linked { try $0.and() }) }
        return left
    }

    private mutating func and() throws -> Expression {
        var left = try not()
        while takeName("and") { left = .and(left, try linked { try $0.not() }) }
        return left
    }

    private mutating func not() throws -> Expression {
        if takeName("not") { return .not(try nested { try $0.not() }) }
        return try comparison()
    }

    private mutating func comparison() throws -> Expression {
        let first = try sum()
        var rest: [(ComparisonOperator, Expression)] = []
        while let op = comparisonOperator() { rest.append((op, try sum())) }
        return rest.isEmpty ? first : .compare(first, rest)
    }

    private mutating func comparisonOperator() -> ComparisonOperator? {
        let found: ComparisonOperator? =
            switch current.kind {
            case .op("=="): .equal
            case .op("!="): .notEqual
            case .op("<"): .less
            case .op("<="): .lessOrEqual
            case .op(">"): .greater
            case .op(">="): .greaterOrEqual
            case .name("in"): .isIn
            case .name("not"): next.kind == .name("in") ? .notIn : nil
            default: nil
            }
        if found == .notIn { advance() }
        if found != nil { advance() }
        return found
    }

    private mutating func binaryOperator(_ among: Set<BinaryOperator>) -> BinaryOperator? {
        guard case .op(let text) = current.kind, let op = BinaryOperator(rawValue: text), among.contains(op) else {
            return nil
        }
        advance()
        return op
    }

    private mutating func sum() throws -> Expression {
        var left = try concatenation()
        while let op = binaryOperator([.add, .subtract]) {
            left = .binary(op, left, try linked { try $0.concatenation() })
        }
        return left
    }

    private mutating func concatenation() throws -> Expression {
        var parts = [try product()]
        while takeOp("~") { parts.append(try product()) }
        return parts.count == 1 ? parts[0] : .concat(parts)
    }

    private mutating func product() throws -> Expression {
        var left = try power()
        while let op = binaryOperator([.multiply, .divide, .floorDivide, .modulo]) {
            left = .binary(op, left, try linked { try $0.power() })
        }
        return left
    }

    private mutating func power() throws -> Expression {
        var left = try unary()
        while binaryOperator([.power]) != nil {
            left = .binary(.power, left, try linked { try $0.unary() })
        }
        return left
    }

    private mutating func unary(withFilter: Bool = true) throws -> Expression {
        var result: Expression
        if takeOp("-") {
            result = .unary(.minus, try nested { try $0.unary(withFilter: false) })
        } else if takeOp("+") {
            result = .unary(.plus, try nested { try $0.unary(withFilter: false) })
        } else {
            result = try primary()
        }
        result = try postfix(result)
        return withFilter ? try filtersAndTests(result) : result
    }

    mutating func primary(withNamespace: Bool = false) throws -> Expression {
        let token = current
        switch token.kind {
        case .name(let name):
            advance()
            switch name {
            case "true", "True": return .constant(.bool(true))
            case "false", "False": return .constant(.bool(false))
            case "none", "None": return .constant(.null)
            default:
                if withNamespace, takeOp(".") { return .namespaceAttribute(name, try expectName()) }
                return .name(name)
            }
        case .string(var text):
            advance()
            while case .string(let more) = current.kind {
                text += more
                advance()
            }
            return .constant(.string(text))
        case .integer(let value):
            advance()
            return .constant(.int(value))
        case .float(let value):
            advance()
            return .constant(.float(value))
        case .op("("):
            advance()
            let result = try nested { try $0.tuple(inParentheses: true) }
            try expectOp(")")
            return result
        case .op("["):
            return .list(try items("[", "]") { try $0.expression() })
        case .op("{"):
            return .dict(
                try items("{", "}") { parser in
                    let key = try parser.expression()
                    try parser.expectOp(":")
                    return (key, try parser.expression())
                })
        default: throw failure("unexpected \(describe(token))")
        }
    }

    /// Comma-separated items in brackets, a comma after the last allowed.
    private mutating func items<Item>(
        _ open: String, _ close: String, _ item: (inout Parser) throws -> Item
    ) throws -> [Item] {
        try expectOp(open)
        var items: [Item] = []
        while !isOp(close) {
            if !items.isEmpty {
                try expectOp(",")
                if isOp(close) { break }
            }
            items.append(try item(&self))
        }
        try expectOp(close)
        return items
    }

    private mutating func postfix(_ start: Expression) throws -> Expression {
        var result = start
        while true {
            if isOp(".") || isOp("[") {
                result = try linked { [result] in try $0.subscripted(result) }
            } else if isOp("(") {
                result = .call(result, try linked { try $0.arguments() })
            } else {
                return result
            }
        }
    }

    private mutating func filtersAndTests(_ start: Expression) throws -> Expression {
        var result = start
        while true {
            if isOp("|") {
                result = try filters(of: result, startsInline: false)!
            } else if isName("is") {
                result = try linked { [result] in try $0.test(result) }
            } else if isOp("(") {
                result = .call(result, try linked { try $0.arguments() })
            } else {
                return result
            }
        }
    }

    private mutating func subscripted(_ base: Expression) throws -> Expression {
        if takeOp(".") {
            switch current.kind {
            case .name(let name):
                advance()
                return .attribute(base, name)
            case .integer(let value):
                advance()
                return .item(base, .constant(.int(value)))
            default: throw failure("expected a name or number after '.', found \(describe(current))")
            }
        }
        try expectOp("[")
        var items: [Expression] = []
        while !isOp("]") {
            if !items.isEmpty { try expectOp(",") }
            items.append(try subscriptItem())
        }
        try expectOp("]")
        return .item(base, items.count == 1 ? items[0] : .tuple(items))
    }

    private mutating func subscriptItem() throws -> Expression {
        func isEnd(_ parser: Parser) -> Bool { parser.isOp(":") || parser.isOp("]") || parser.isOp(",") }
        var start: Expression?
        if !isOp(":") {
            let first = try expression()
            guard isOp(":") else { return first }
            start = first
        }
        advance()
        let stop = isEnd(self) ? nil : try expression()
        let step = takeOp(":") && !(isOp("]") || isOp(",")) ? try expression() : nil
        return .slice(start, stop, step)
    }

    mutating func arguments() throws -> CallArguments {
        let line = current.line
        func ensure(_ isAllowed: Bool) throws {
            if !isAllowed { throw TemplateFailure("arguments are in the wrong order", line: line) }
        }
        var result = CallArguments()
        try expectOp("(")
        var isFirst = true
        while !isOp(")") {
            if !isFirst {
                try expectOp(",")
                if isOp(")") { break }
            }
            isFirst = false
            if takeOp("*") {
                try ensure(result.starred == nil && result.doubleStarred == nil)
                result.starred = try expression()
            } else if takeOp("**") {
                try ensure(result.doubleStarred == nil)
                result.doubleStarred = try expression()
            } else if case .name(let name) = current.kind, next.kind == .op("=") {
                try ensure(result.doubleStarred == nil)
                advance()
                advance()
                guard !result.keywords.contains(where: { $0.name == name }) else {
                    throw failure("argument '\(name)' repeated")
                }
                result.keywords.append((name, try expression()))
            } else {
                try ensure(result.starred == nil && result.doubleStarred == nil && result.keywords.isEmpty)
                result.positional.append(try expression())
            }
        }
        try expectOp(")")
        return result
    }

    private mutating func dottedName() throws -> String {
        var name = try expectName()
        while takeOp(".") { name += "." + (try expectName()) }
        return name
    }

    /// `| name(arguments)`, once or more; nil when there is none (block sets).
    mutating func filters(of input: Expression?, startsInline: Bool) throws -> Expression? {
        var result = input
        var inline = startsInline
        while inline || isOp("|") {
            if !inline { advance() }
            inline = false
            let line = current.line
            let name = try dottedName()
            result = .filter(
                result, name, try linked { $0.isOp("(") ? try $0.arguments() : CallArguments() }, line: line)
        }
        return result
    }

    private mutating func test(_ value: Expression) throws -> Expression {
        advance()
        let isNegated = takeName("not")
        let line = current.line
        let name = try dottedName()
        var arguments = CallArguments()
        if isOp("(") {
            arguments = try self.arguments()
        } else if startsTestArgument {
            if isName("is") { throw failure("tests cannot be chained with 'is'") }
            let argument = try nested { try $0.primary() }
            arguments.positional = [try postfix(argument)]
        }
        let result = Expression.test(value, name, arguments, line: line)
        return isNegated ? .not(result) : result
    }

    private var startsTestArgument: Bool {
        switch current.kind {
        case .name(let name): !["else", "or", "and"].contains(name)
        case .string, .integer, .float, .op("["), .op("{"): true
        default: false
        }
    }
}
