// `for`, macros and call blocks.

extension Compiler {
    func forLoop(_ loop: ForLoop, _ position: Position) throws -> Execute {
        try checkLoopTarget(loop)
        let iterable = try evaluate(loop.iterable, position)
        let unit = loop.isRecursive ? CodeUnit(parent: position.scope.unit) : position.scope.unit
        let rounds = try self.rounds(loop, position, unit)
        guard loop.isRecursive else {
            return { frame in try rounds(frame, try iterable(frame), nil, 0) }
        }
        return { frame in
            let text = try recursion(iterable(frame), depth: 0, frame, unit, rounds)
            try frame.run.write(text)
            return .normal
        }
    }

    /// Jinja refuses templates that assign the name `loop` inside a loop.
    private func checkLoopTarget(_ loop: ForLoop) throws {
        var storesLoop = false
        forEachStoredName(in: [.forLoop(loop)]) { if $0 == "loop" { storesLoop = true } }
        if storesLoop { throw TemplateFailure("cannot assign to 'loop' inside a loop", line: loop.line) }
    }

    typealias Rounds = (Frame, Value, LoopState.Recursion?, Int) throws -> Flow

    private func rounds(_ loop: ForLoop, _ position: Position, _ unit: CodeUnit) throws -> Rounds {
        let scope = Scope(parent: position.scope, unit: unit)
        let needsState = loop.isRecursive || UndeclaredNames.find(["loop"], in: loop.body).contains("loop")
        if needsState { scope.declareParameter("loop") }
        scope.declareParameters(loop.target)
        scope.analyze(loop.body)
        let inner = position.inner(scope, inLoop: true)
        let assign = try assignment(loop.target, inner)
        let body = try body(loop.body, inner)
        let enter = entry(scope)
        let test = try loop.test.map { try self.loopTest($0, loop.target, position, unit) }
        let otherwise = try loop.otherwise.isEmpty ? nil : self.otherwise(loop, position, unit)
        let stateSlot = needsState ? scope.variable("loop")!.slot : 0

        return { frame, iterable, recursion, depth in
            let source = try LoopSource(iterable, test: test.map { test in { try test(frame, $0) } }, frame.run)
            let state = needsState ? LoopState(source, recursion: recursion, depth: depth) : nil
            if let state { frame.slots[stateSlot] = .object(state) }
            defer { if needsState { frame.slots[stateSlot] = .null } }
            var runsOtherwise = true
            while let item = try state?.advance() ?? (needsState ? nil : source.next()) {
                try frame.run.step()
                if let state { frame.slots[stateSlot] = .object(state) }
                try assign(frame, item)
                enter(frame)
                let flow = try body(frame)
                if flow == .breakLoop { break }
                // As in Jinja, a round that `continue` cuts short does not count against `else`.
                if flow == .normal { runsOtherwise = false }
            }
            if runsOtherwise, let otherwise { return try otherwise(frame) }
            return .normal
        }
    }

    private func loopTest(_ test: Expression, _ target: Expression, _ position: Position, _ unit: CodeUnit) throws
        -> (Frame, Value) throws -> Bool
    {
        let scope = Scope(parent: position.scope, unit: unit)
        scope.declareParameters(target)
        scope.loadAll([test])
        let inner = position.inner(scope)
        let assign = try assignment(target, inner)
        let test = try evaluate(test, inner)
        let enter = entry(scope)
        return { frame, item in
            try frame.run.step()
            enter(frame)
            try assign(frame, item)
            return try test(frame).isTrue
        }
    }

    private func otherwise(_ loop: ForLoop, _ position: Position, _ unit: CodeUnit) throws -> Execute {
        let scope = Scope(parent: position.scope, unit: unit)
        scope.analyze(loop.otherwise)
        let body = try body(loop.otherwise, position.inner(scope))
        let enter = entry(scope)
        return { frame in
            enter(frame)
            return try body(frame)
        }
    }

    // MARK: Functions

    /// Compiles a macro; the closure makes the function at the place where it is defined.
    func macro(_ name: String?, _ signature: Signature, _ statements: [Statement], _ position: Position) throws
        -> (Frame) -> Macro
    {
        let unit = CodeUnit(parent: position.scope.unit)
        let scope = Scope(parent: position.scope, unit: unit)
        for name in signature.names { scope.declareParameter(name) }
        scope.loadAll(signature.defaults)
        scope.analyze(statements)
        var special = UndeclaredNames.find(["caller", "kwargs", "varargs"], in: statements)
        let takesCaller = special.contains("caller")
        if takesCaller, let explicit = signature.names.firstIndex(of: "caller"),
            explicit < signature.names.count - signature.defaults.count
        {
            throw TemplateFailure("the parameter 'caller' of a macro needs a default")
        }
        special.subtract(signature.names)
        for name in special.sorted() { scope.declareParameter(name) }
        let inner = position.inner(scope, inLoop: false)
        let shape = MacroShape(
            name: name, parameters: signature.names, takesCaller: takesCaller,
            callerSlot: special.contains("caller") ? scope.variable("caller")!.slot : nil,
            kwargsSlot: special.contains("kwargs") ? scope.variable("kwargs")!.slot : nil,
            varargsSlot: special.contains("varargs") ? scope.variable("varargs")!.slot : nil,
            slots: signature.names.map { scope.variable($0)!.slot },
            defaults: try signature.defaults.map { try evaluate($0, inner) },
            enter: { _ in }, body: try body(statements, inner), unit: unit)
        let complete = shape.entering(entry(scope))
        return { frame in
            frame.run.atEnd { frame.clear() }
            return Macro(complete, frame)
        }
    }

    func callBlock(_ call: Expression, _ signature: Signature, _ statements: [Statement], _ position: Position) throws
        -> Execute
    {
        guard case .call(let function, let arguments) = call else { throw TemplateFailure("{% call %} needs a call") }
        let make = try macro(nil, signature, statements, position)
        let invoke = try self.call(function, arguments, position)
        return { frame in
            let result = try invoke(frame) { $0.keywords.append(("caller", .object(make(frame)))) }
            try frame.run.write(try result.string(frame.run))
            return .normal
        }
    }
}

/// Renders a recursive loop over `iterable` into a text of its own.
private func recursion(
    _ iterable: Value, depth: Int, _ parent: Frame, _ unit: CodeUnit, _ rounds: @escaping Compiler.Rounds
) throws -> String {
    let run = parent.run
    let frame = Frame(count: unit.slotCount, parent: parent, run: run)
    let recurse: LoopState.Recursion = { iterable, depth in try recursion(iterable, depth: depth, parent, unit, rounds)
    }
    return try run.nested { try run.captured { try rounds(frame, iterable, recurse, depth) }.1 }
}

/// Every name that the statements assign with `set`, `for` and the like, at any depth.
func forEachStoredName(in statements: [Statement], _ use: (String) -> Void) {
    func target(_ target: Expression) { forEachTarget(target) { name, isNamespace in if !isNamespace { use(name) } } }
    for statement in statements {
        switch statement {
        case .set(let name, _, _): target(name)
        case .setBlock(let name, _, let body, _):
            target(name)
            forEachStoredName(in: body, use)
        case .forLoop(let loop):
            target(loop.target)
            forEachStoredName(in: loop.body + loop.otherwise, use)
        case .macro(_, _, let body, _), .callBlock(_, _, let body, _), .filterBlock(_, let body, _),
            .with(_, _, let body, _), .generation(let body, _), .block(_, let body, _):
            forEachStoredName(in: body, use)
        case .ifElse(let branches, let otherwise, _):
            for branch in branches { forEachStoredName(in: branch.body, use) }
            forEachStoredName(in: otherwise, use)
        case .text, .output, .breakLoop, .continueLoop: break
        }
    }
}
