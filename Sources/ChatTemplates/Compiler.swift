// The tree to closures: every name is a numbered variable and every filter found before the first rendering.

typealias Evaluate = (Frame) throws -> Value
typealias Execute = (Frame) throws -> Flow

enum Flow { case normal, breakLoop, continueLoop }

/// Where a statement stands.
struct Position {
    var scope: Scope
    /// Inside a loop of the same function, so that `break` means something.
    var inLoop = false
    /// Inside an `if`: an unknown filter is only an error when it is reached.
    var isConditional = false

    func inner(_ scope: Scope, inLoop: Bool? = nil) -> Position {
        Position(scope: scope, inLoop: inLoop ?? self.inLoop, isConditional: false)
    }

    var conditional: Position { Position(scope: scope, inLoop: inLoop, isConditional: true) }
}

/// A template ready to render.
struct Program: @unchecked Sendable {
    // Closures that share nothing mutable: all state is in `Run` and `Frame`.
    let body: Execute
    let slotCount: Int
    /// Names looked up outside the template, in the order of `Run.context`.
    let contextNames: [String]
}

final class Compiler {
    private(set) var contextNames: [String] = []
    private var blockNames: Set<String> = []
    private var hasBlocks = false

    static func compile(_ template: String) throws -> Program {
        let statements = try Parser.parse(template)
        let compiler = Compiler()
        let unit = CodeUnit(parent: nil)
        let scope = Scope(parent: nil, unit: unit, isTopLevel: true)
        scope.analyze(statements)
        let body = try compiler.body(statements, Position(scope: scope))
        let enter = compiler.entry(scope)
        return Program(
            body: { frame in
                enter(frame)
                return try body(frame)
            }, slotCount: unit.slotCount, contextNames: compiler.contextNames)
    }

    /// The place of a name in `Run.context`.
    func contextSlot(_ name: String) -> Int {
        if let found = contextNames.firstIndex(of: name) { return found }
        contextNames.append(name)
        return contextNames.count - 1
    }

    // MARK: Variables

    /// Sets the variables of a scope to what they are when it is entered.
    func entry(_ scope: Scope) -> (Frame) -> Void {
        var steps: [(Frame) -> Void] = []
        for (name, slot, initial) in scope.initialValues {
            switch initial {
            case .parameter: break
            case .undefined:
                let value = Value.undefined(Undefined(name: name))
                steps.append { $0.slots[slot] = value }
            case .context(let name):
                let index = contextSlot(name)
                steps.append { $0.slots[slot] = $0.run.context[index] }
            case .copy(let variable):
                let read = reader(variable, from: scope.unit)
                steps.append { $0.slots[slot] = read($0) }
            }
        }
        switch steps.count {
        case 0: return { _ in }
        case 1: return steps[0]
        default: return { [steps] frame in for step in steps { step(frame) } }
        }
    }

    func reader(_ variable: Variable, from unit: CodeUnit) -> (Frame) -> Value {
        let slot = variable.slot
        switch unit.level - variable.unit.level {
        case 0: return { $0.slots[slot] }
        case 1: return { $0.parent!.slots[slot] }
        case let hops:
            return { frame in
                var frame = frame
                for _ in 0..<hops { frame = frame.parent! }
                return frame.slots[slot]
            }
        }
    }

    /// Stores into names of the scope, tuples of them, and namespace attributes.
    func assignment(_ target: Expression, _ position: Position, alwaysLocal: Bool = false) throws
        -> (Frame, Value) throws -> Void
    {
        switch target {
        case .name(let name):
            let slot = position.scope.variable(name)!.slot
            guard position.scope.isTopLevel, hasBlocks else { return { $0.slots[slot] = $1 } }
            let index = contextSlot(name)
            return { frame, value in
                frame.slots[slot] = value
                frame.run.context[index] = value
            }
        case .namespaceAttribute(let name, let attribute):
            let read = reader(position.scope.variable(name)!, from: position.scope.unit)
            return { frame, value in
                guard case .object(let namespace as Namespace) = read(frame) else {
                    throw TemplateFailure("cannot assign attribute on non-namespace object '\(name)'")
                }
                try namespace.set(attribute, value)
            }
        case .tuple(let items):
            let stores = try items.map { try assignment($0, position) }
            return { frame, value in
                let values = try value.items(frame.run)
                guard values.count == stores.count else {
                    throw TemplateFailure("cannot unpack \(values.count) values into \(stores.count) names")
                }
                for (store, value) in zip(stores, values) { try store(frame, value) }
            }
        default: throw TemplateFailure("cannot assign to this")
        }
    }

    // MARK: Statements

    func body(_ statements: [Statement], _ position: Position) throws -> Execute {
        if !hasBlocks, statements.contains(where: { if case .block = $0 { true } else { false } }) { hasBlocks = true }
        let steps = try statements.map { try statement($0, position) }
        switch steps.count {
        case 0: return { _ in .normal }
        case 1: return steps[0]
        default:
            return { [steps] frame in
                for step in steps {
                    let flow = try step(frame)
                    if flow != .normal { return flow }
                }
                return .normal
            }
        }
    }

    /// Gives failures of `execute` the line they happened on.
    private func located(_ line: Int, _ execute: @escaping Execute) -> Execute {
        { frame in
            do {
                try frame.run.step()
                return try execute(frame)
            } catch var failure as TemplateFailure where failure.line == nil {
                failure.line = line
                throw failure
            }
        }
    }

    private func statement(_ statement: Statement, _ position: Position) throws -> Execute {
        switch statement {
        case .text(let text):
            return { frame in
                try frame.run.write(text)
                return .normal
            }
        case .output(let expression, let line): return located(line, try output(expression, position))
        case .set(let target, let value, let line): return located(line, try set(target, value, position))
        case .setBlock(let target, let filter, let body, let line):
            return located(line, try setBlock(target, filter, body, position))
        case .ifElse(let branches, let otherwise, let line):
            return try ifElse(branches, otherwise, position, line)
        case .forLoop(let loop): return located(loop.line, try forLoop(loop, position))
        case .macro(let name, let signature, let body, let line):
            let make = try macro(name, signature, body, position)
            let store = try assignment(.name(name), position)
            return located(line) { frame in
                try store(frame, .object(make(frame)))
                return .normal
            }
        case .callBlock(let call, let signature, let body, let line):
            return located(line, try callBlock(call, signature, body, position))
        case .filterBlock(let filter, let body, let line):
            return located(line, try filterBlock(filter, body, position))
        case .with(let targets, let values, let body, let line):
            return located(line, try with(targets, values, body, position))
        case .generation(let body, let line): return located(line, try generation(body, position))
        case .block(let name, let body, let line): return located(line, try block(name, body, line))
        case .breakLoop(let line):
            guard position.inLoop else { throw TemplateFailure("{% break %} outside a loop", line: line) }
            return { _ in .breakLoop }
        case .continueLoop(let line):
            guard position.inLoop else { throw TemplateFailure("{% continue %} outside a loop", line: line) }
            return { _ in .continueLoop }
        }
    }

    private func output(_ expression: Expression, _ position: Position) throws -> Execute {
        // Parts of a `+` or `~` chain need not become one text first, but `+` may also add numbers: only `~` is split.
        if case .concat(let parts) = expression {
            let writes = try parts.map { try evaluate($0, position) }
            return { frame in
                let texts = try writes.map { try $0(frame).string(frame.run) }
                for text in texts { try frame.run.write(text) }
                return .normal
            }
        }
        let value = try evaluate(expression, position)
        return { frame in
            let value = try value(frame)
            if case .string(let text) = value {
                try frame.run.write(text)
            } else {
                try frame.run.write(try value.string(frame.run))
            }
            return .normal
        }
    }

    private func set(_ target: Expression, _ value: Expression, _ position: Position) throws -> Execute {
        let value = try evaluate(value, position)
        let store = try assignment(target, position)
        return { frame in
            try store(frame, try value(frame))
            return .normal
        }
    }

    private func setBlock(
        _ target: Expression, _ filter: Expression?, _ statements: [Statement], _ position: Position
    ) throws -> Execute {
        let scope = Scope(parent: position.scope, unit: position.scope.unit)
        scope.analyze(statements)
        if let filter { scope.loadAll([filter]) }
        let inner = position.inner(scope)
        let body = try body(statements, inner)
        let filter = try filter.map { try blockFilter($0, inner) }
        let store = try assignment(target, position)
        let enter = entry(scope)
        return { frame in
            enter(frame)
            let (flow, text) = try frame.run.captured { try body(frame) }
            if flow != .normal { return flow }
            try store(frame, try filter?(frame, .string(text)) ?? .string(text))
            return .normal
        }
    }

    private func filterBlock(_ filter: Expression, _ statements: [Statement], _ position: Position) throws -> Execute {
        let scope = Scope(parent: position.scope, unit: position.scope.unit)
        scope.loadAll([filter])
        scope.analyze(statements)
        let inner = position.inner(scope)
        let body = try body(statements, inner)
        let filter = try blockFilter(filter, inner)
        let enter = entry(scope)
        return { frame in
            enter(frame)
            let (flow, text) = try frame.run.captured { try body(frame) }
            if flow != .normal { return flow }
            try frame.run.write(try filter(frame, .string(text)).string(frame.run))
            return .normal
        }
    }

    private func ifElse(
        _ branches: [(test: Expression, body: [Statement])], _ otherwise: [Statement], _ position: Position, _ line: Int
    ) throws -> Execute {
        let position = position.conditional
        let compiled = try branches.map { (test: try evaluate($0.test, position), body: try body($0.body, position)) }
        let otherwise = try body(otherwise, position)
        func choose(_ frame: Frame) throws -> Execute {
            do {
                try frame.run.step()
                for branch in compiled where try branch.test(frame).isTrue { return branch.body }
                return otherwise
            } catch var failure as TemplateFailure where failure.line == nil {
                failure.line = line
                throw failure
            }
        }
        return { frame in try choose(frame)(frame) }
    }

    private func with(
        _ targets: [Expression], _ values: [Expression], _ statements: [Statement], _ position: Position
    ) throws -> Execute {
        let scope = Scope(parent: position.scope, unit: position.scope.unit)
        for target in targets { scope.declareParameters(target) }
        scope.analyze(statements)
        let inner = position.inner(scope)
        let stores = try zip(targets, values).map { target, value in
            (value: try evaluate(value, position), store: try assignment(target, inner))
        }
        let body = try body(statements, inner)
        let enter = entry(scope)
        return { frame in
            enter(frame)
            for (value, store) in stores { try store(frame, try value(frame)) }
            return try body(frame)
        }
    }

    private func generation(_ statements: [Statement], _ position: Position) throws -> Execute {
        let unit = CodeUnit(parent: position.scope.unit)
        let scope = Scope(parent: position.scope, unit: unit)
        scope.analyze(statements)
        let body = try body(statements, position.inner(scope, inLoop: false))
        let enter = entry(scope)
        return { frame in
            let inner = Frame(count: unit.slotCount, parent: frame, run: frame.run)
            enter(inner)
            let (_, text) = try frame.run.nested { try frame.run.captured { try body(inner) } }
            let start = frame.run.output.utf8.count
            try frame.run.write(text)
            if frame.run.captureDepth == 0 { frame.run.generated.append(start..<frame.run.output.utf8.count) }
            return .normal
        }
    }

    /// A named block: without other templates to replace it, a function that sees the caller's variables only.
    private func block(_ name: String, _ statements: [Statement], _ line: Int) throws -> Execute {
        guard blockNames.insert(name).inserted else {
            throw TemplateFailure("block '\(name)' defined twice", line: line)
        }
        let unit = CodeUnit(parent: nil)
        let scope = Scope(parent: nil, unit: unit)
        scope.analyze(statements)
        let body = try body(statements, Position(scope: scope))
        let enter = entry(scope)
        return { frame in
            let inner = Frame(count: unit.slotCount, parent: nil, run: frame.run)
            enter(inner)
            return try body(inner)
        }
    }
}
