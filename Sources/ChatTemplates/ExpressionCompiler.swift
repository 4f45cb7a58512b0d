// Expressions to closures.

extension Compiler {
    func evaluate(_ expression: Expression, _ position: Position) throws -> Evaluate {
        switch expression {
        case .constant(let value): return { _ in value }
        case .name(let name):
            guard let variable = position.scope.variable(name) else {
                throw TemplateFailure("the name '\(name)' is used where it cannot be resolved")
            }
            return reader(variable, from: position.scope.unit)
        case .namespaceAttribute: throw TemplateFailure("a namespace attribute can only be assigned")
        case .list(let items):
            let items = try evaluateAll(items, position)
            return { .list(try List(try items($0))) }
        case .tuple(let items):
            let items = try evaluateAll(items, position)
            return { .tuple(try List(try items($0))) }
        case .dict(let pairs): return try dict(pairs, position)
        case .attribute(let base, let name): return try attributeAccess(base, name, position)
        case .item(let base, let key): return try subscripted(base, key, position)
        case .slice: throw TemplateFailure("a slice can only stand alone in brackets")
        case .call(let function, let arguments):
            let invoke = try call(function, arguments, position)
            return { try invoke($0) { _ in } }
        case .filter, .test: return try filterOrTest(expression, position)
        default: return try operation(expression, position)
        }
    }

    private func evaluateAll(_ items: [Expression], _ position: Position) throws -> (Frame) throws -> [Value] {
        let items = try items.map { try evaluate($0, position) }
        return { frame in
            try frame.run.charge(bytes: items.count * 24)
            return try items.map { try $0(frame) }
        }
    }

    private func dict(_ pairs: [(key: Expression, value: Expression)], _ position: Position) throws -> Evaluate {
        let pairs = try pairs.map { (try evaluate($0.key, position), try evaluate($0.value, position)) }
        return { frame in
            try frame.run.charge(bytes: pairs.count * 64)
            return .dict(try Dict(try pairs.map { (try $0.0(frame), try $0.1(frame)) }))
        }
    }

    private func attributeAccess(_ base: Expression, _ name: String, _ position: Position) throws -> Evaluate {
        let base = try evaluate(base, position)
        let isMethod = DictMethod(rawValue: name) != nil
        let missing = Value.undefined(Undefined("'dict object' has no attribute '\(name)'"))
        return { frame in
            let value = try base(frame)
            if case .dict(let dict) = value, !isMethod { return try dict.value(named: name) ?? missing }
            return try attribute(value, name, frame.run)
        }
    }

    private func subscripted(_ base: Expression, _ key: Expression, _ position: Position) throws -> Evaluate {
        let base = try evaluate(base, position)
        switch key {
        case .slice(let start, let stop, let step):
            let bounds = try [start, stop, step].map { try evaluate($0 ?? .constant(.null), position) }
            return { frame in
                try slice(try base(frame), bounds[0](frame), bounds[1](frame), bounds[2](frame), frame.run)
            }
        case .constant(.string(let name)):
            let key = Value.string(name)
            return { frame in
                let value = try base(frame)
                if case .dict(let dict) = value, let found = try dict.value(named: name) { return found }
                return try item(value, key, frame.run)
            }
        default:
            let key = try evaluate(key, position)
            return { frame in try item(try base(frame), try key(frame), frame.run) }
        }
    }

    // MARK: Calls

    func arguments(_ source: CallArguments, _ position: Position) throws -> (Frame) throws -> Arguments {
        if source.isEmpty { return { _ in Arguments() } }
        let positional = try source.positional.map { try evaluate($0, position) }
        let keywords = try source.keywords.map { (name: $0.name, value: try evaluate($0.value, position)) }
        let starred = try source.starred.map { try evaluate($0, position) }
        let doubleStarred = try source.doubleStarred.map { try evaluate($0, position) }
        return { frame in
            var result = Arguments()
            result.positional = try positional.map { try $0(frame) }
            result.keywords = try keywords.map { ($0.name, try $0.value(frame)) }
            if let starred { result.positional += try starred(frame).items(frame.run) }
            if let doubleStarred { try result.add(keywordsFrom: try doubleStarred(frame)) }
            return result
        }
    }

    /// A call whose arguments the caller may still add to (call blocks do).
    func call(_ function: Expression, _ source: CallArguments, _ position: Position) throws
        -> (Frame, (inout Arguments) -> Void) throws -> Value
    {
        let arguments = try arguments(source, position)
        if case .attribute(let base, let name) = function {
            let base = try evaluate(base, position)
            return { frame, extend in
                let value = try base(frame)
                try frame.run.step()
                if let method = boundMethod(of: value, name) {
                    var arguments = try arguments(frame)
                    extend(&arguments)
                    try frame.run.look(at: value, arguments)
                    return try method(arguments, frame.run)
                }
                let function = try attribute(value, name, frame.run)
                var arguments = try arguments(frame)
                extend(&arguments)
                return try ChatTemplates.call(function, arguments, frame.run)
            }
        }
        let function = try evaluate(function, position)
        return { frame, extend in
            try frame.run.step()
            let function = try function(frame)
            var arguments = try arguments(frame)
            extend(&arguments)
            return try ChatTemplates.call(function, arguments, frame.run)
        }
    }

    // MARK: Filters and tests

    /// The filter of a filter block or block set, applied to the captured text.
    func blockFilter(_ filter: Expression, _ position: Position) throws -> (Frame, Value) throws -> Value {
        guard case .filter(let input, let name, let source, let line) = filter else {
            throw TemplateFailure("expected a filter")
        }
        let apply = try self.filter(name, source, line, position)
        guard let input else { return apply }
        let inner = try blockFilter(input, position)
        return { try apply($0, try inner($0, $1)) }
    }

    private func filter(_ name: String, _ source: CallArguments, _ line: Int, _ position: Position) throws
        -> (Frame, Value) throws -> Value
    {
        guard let filter = filters[name] else {
            let failure = TemplateFailure("no filter named '\(name.prefix(60))'", line: line)
            if position.isConditional { return { _, _ in throw failure } }
            throw failure
        }
        let arguments = try arguments(source, position)
        return { frame, input in
            try frame.run.step()
            let arguments = try arguments(frame)
            try frame.run.look(at: input, arguments)
            return try filter(input, arguments, frame.run)
        }
    }

    private func filterOrTest(_ expression: Expression, _ position: Position) throws -> Evaluate {
        switch expression {
        case .filter(let input?, let name, let source, let line):
            let input = try evaluate(input, position)
            let apply = try filter(name, source, line, position)
            return { try apply($0, try input($0)) }
        case .test(let value, let name, let source, let line):
            return try test(try evaluate(value, position), name, source, line, position)
        default: throw TemplateFailure("a filter without input")
        }
    }

    private func test(
        _ value: @escaping Evaluate, _ name: String, _ source: CallArguments, _ line: Int, _ position: Position
    ) throws -> Evaluate {
        if source.isEmpty {  // the common ones without a detour
            switch name {
            case "defined": return { .bool(!(try value($0).isUndefined)) }
            case "none": return { .bool(try value($0).isNone) }
            case "string": return { .bool(try value($0).text != nil) }
            default: break
            }
        }
        guard let test = tests[name] else {
            let failure = TemplateFailure("no test named '\(name.prefix(60))'", line: line)
            if position.isConditional { return { _ in throw failure } }
            throw failure
        }
        let arguments = try arguments(source, position)
        return { frame in
            try frame.run.step()
            let value = try value(frame)
            let arguments = try arguments(frame)
            try frame.run.look(at: value, arguments)
            return .bool(try test(value, arguments, frame.run))
        }
    }

    // MARK: Operators

    private func operation(_ expression: Expression, _ position: Position) throws -> Evaluate {
        switch expression {
        case .unary(let op, let value):
            let value = try evaluate(value, position)
            return { try unary(op, try value($0)) }
        case .binary(let op, let a, let b):
            let (a, b) = (try evaluate(a, position), try evaluate(b, position))
            return { frame in try binary(op, try a(frame), try b(frame), frame.run) }
        case .and(let a, let b):
            let (a, b) = (try evaluate(a, position), try evaluate(b, position))
            return { frame in
                let left = try a(frame)
                return left.isTrue ? try b(frame) : left
            }
        case .or(let a, let b):
            let (a, b) = (try evaluate(a, position), try evaluate(b, position))
            return { frame in
                let left = try a(frame)
                return left.isTrue ? left : try b(frame)
            }
        case .not(let value):
            let value = try evaluate(value, position)
            return { .bool(!(try value($0).isTrue)) }
        case .concat(let parts):
            let parts = try parts.map { try evaluate($0, position) }
            return { frame in
                var text = ""
                for part in try parts.map({ try $0(frame) }) {
                    text += try part.string(frame.run)
                    try frame.run.charge(text: text.utf8.count)
                }
                return .string(text)
            }
        case .compare(let first, let rest): return try comparison(first, rest, position)
        case .conditional(let test, let then, let otherwise):
            let position = position.conditional
            let (test, then) = (try evaluate(test, position), try evaluate(then, position))
            let missing = Value.undefined(Undefined("the inline if evaluated to false and has no else"))
            let otherwise =
                try otherwise.map { try evaluate($0, position) } ?? { (_: Frame) throws -> Value in missing }
            return { try test($0).isTrue ? try then($0) : try otherwise($0) }
        default: throw TemplateFailure("unexpected expression")
        }
    }

    private func comparison(
        _ first: Expression, _ rest: [(ComparisonOperator, Expression)], _ position: Position
    ) throws -> Evaluate {
        let first = try evaluate(first, position)
        let rest = try rest.map { (op: $0.0, value: try evaluate($0.1, position)) }
        if rest.count == 1 {
            let (op, second) = rest[0]
            return { frame in .bool(try compare(op, try first(frame), try second(frame), frame.run)) }
        }
        return { frame in
            var left = try first(frame)
            for (op, value) in rest {
                let right = try value(frame)
                guard try compare(op, left, right, frame.run) else { return .bool(false) }
                left = right
            }
            return .bool(true)
        }
    }
}
