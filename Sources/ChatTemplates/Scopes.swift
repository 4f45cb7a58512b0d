// Which variable a name means. Jinja decides this before rendering, from what a scope stores and loads in what order:
// a scope that stores a name has a variable of its own, which starts as a copy of the outer one, as undefined, or
// (when only some branches store it) as what the caller passed under that name.

/// Code whose variables share one `Frame`: the template, a macro, the body of a recursive loop.
final class CodeUnit {
    let parent: CodeUnit?
    let level: Int
    private(set) var slotCount = 0

    init(parent: CodeUnit?) {
        self.parent = parent
        level = (parent?.level ?? -1) + 1
    }

    func newSlot() -> Int {
        slotCount += 1
        return slotCount - 1
    }
}

struct Variable {
    let unit: CodeUnit
    let slot: Int
}

/// What a variable is when its scope is entered.
enum InitialValue {
    case parameter
    /// What the caller of the template (or the language) defines under the name.
    case context(String)
    case copy(Variable)
    case undefined
}

/// Names referenced so far in a scope; copied for the branches of an `if`.
private struct Symbols {
    var known: Set<String> = []
    var initial: [String: InitialValue] = [:]
    var stored: Set<String> = []
}

final class Scope {
    let parent: Scope?
    let unit: CodeUnit
    /// Top level of the template, outside loops and macros.
    let isTopLevel: Bool
    private var symbols = Symbols()
    private var slots: [String: Int] = [:]

    init(parent: Scope?, unit: CodeUnit, isTopLevel: Bool = false) {
        (self.parent, self.unit, self.isTopLevel) = (parent, unit, isTopLevel)
    }

    /// The variable of a name that was declared, stored or loaded here or further out.
    func variable(_ name: String) -> Variable? {
        if symbols.known.contains(name) { return Variable(unit: unit, slot: slots[name]!) }
        return parent?.variable(name)
    }

    var initialValues: [(name: String, slot: Int, value: InitialValue)] {
        symbols.initial.keys.sorted().map { ($0, slots[$0]!, symbols.initial[$0]!) }
    }

    private func define(_ name: String, _ value: InitialValue) {
        if slots[name] == nil { slots[name] = unit.newSlot() }
        symbols.known.insert(name)
        symbols.initial[name] = value
    }

    // MARK: Analysis

    func declareParameter(_ name: String) {
        symbols.stored.insert(name)
        define(name, .parameter)
    }

    func declareParameters(_ target: Expression) { forEachTarget(target) { name, _ in declareParameter(name) } }

    func load(_ name: String) { if variable(name) == nil { define(name, .context(name)) } }

    func loadAll(_ expressions: [Expression]) {
        for expression in expressions { forEachName(in: expression) { load($0) } }
    }

    private func store(_ name: String) {
        symbols.stored.insert(name)
        if symbols.known.contains(name) { return }
        if let outer = parent?.variable(name) { define(name, .copy(outer)) } else { define(name, .undefined) }
    }

    func storeTarget(_ target: Expression) {
        forEachTarget(target) { name, isNamespace in if isNamespace { load(name) } else { store(name) } }
    }

    func analyze(_ statements: [Statement]) { for statement in statements { analyze(statement) } }

    private func analyze(_ statement: Statement) {
        switch statement {
        case .output(let expression, _): loadAll([expression])
        case .set(let target, let value, _):
            loadAll([value])
            storeTarget(target)
        case .setBlock(let target, _, _, _): storeTarget(target)
        case .macro(let name, _, _, _): store(name)
        case .callBlock(let call, _, _, _): loadAll([call])
        case .filterBlock(let filter, _, _): loadAll([filter])
        case .with(_, let values, _, _): loadAll(values)
        case .forLoop(let loop): loadAll([loop.iterable])
        case .ifElse(let branches, let otherwise, _): analyzeBranches(branches, otherwise)
        case .text, .generation, .block, .breakLoop, .continueLoop: break
        }
    }

    /// The later tests of an `elif` chain count as branches of their own, as in Jinja's tree.
    private func analyzeBranches(_ branches: [(test: Expression, body: [Statement])], _ otherwise: [Statement]) {
        loadAll([branches[0].test])
        let bodies: [() -> Void] = [
            { self.analyze(branches[0].body) },
            { for branch in branches.dropFirst() { self.analyzeBranches([branch], []) } },
            { self.analyze(otherwise) },
        ]
        let before = symbols
        var merged = before
        var branchStores: Set<String> = []
        for body in bodies {
            symbols = before
            body()
            merged.known.formUnion(symbols.known)
            merged.initial.merge(symbols.initial) { _, new in new }
            merged.stored.formUnion(symbols.stored)
            branchStores.formUnion(symbols.stored)
        }
        symbols = merged
        for name in branchStores.subtracting(before.stored) {
            symbols.initial[name] = parent?.variable(name).map { .copy($0) } ?? .context(name)
        }
    }
}

/// Calls `use` for every name an assignment stores (or, for `ns.x`, loads).
func forEachTarget(_ target: Expression, _ use: (_ name: String, _ isNamespace: Bool) -> Void) {
    switch target {
    case .name(let name): use(name, false)
    case .namespaceAttribute(let name, _): use(name, true)
    case .tuple(let items): for item in items { forEachTarget(item, use) }
    default: break
    }
}

extension Expression {
    var children: [Expression] {
        switch self {
        case .constant, .name, .namespaceAttribute: []
        case .list(let items), .tuple(let items), .concat(let items): items
        case .dict(let pairs): pairs.flatMap { [$0.key, $0.value] }
        case .attribute(let base, _): [base]
        case .item(let base, let key): [base, key]
        case .slice(let start, let stop, let step): [start, stop, step].compactMap { $0 }
        case .call(let function, let arguments): [function] + arguments.all
        case .filter(let input, _, let arguments, _): [input].compactMap { $0 } + arguments.all
        case .test(let value, _, let arguments, _): [value] + arguments.all
        case .unary(_, let value), .not(let value): [value]
        case .binary(_, let a, let b), .and(let a, let b), .or(let a, let b): [a, b]
        case .compare(let first, let rest): [first] + rest.map(\.1)
        case .conditional(let test, let then, let otherwise): [test, then] + [otherwise].compactMap { $0 }
        }
    }
}

func forEachName(in expression: Expression, _ use: (String) -> Void) {
    if case .name(let name) = expression { use(name) }
    for child in expression.children { forEachName(in: child, use) }
}

/// Which of `names` the statements read before anything (in source order) stores them: decides whether a loop needs
/// its `loop` object and a macro its `caller`, `kwargs` and `varargs`.
struct UndeclaredNames {
    private var wanted: Set<String>
    private var found: Set<String> = []

    static func find(_ names: Set<String>, in statements: [Statement]) -> Set<String> {
        var search = UndeclaredNames(wanted: names)
        search.visit(statements)
        return search.found
    }

    private mutating func load(_ expression: Expression?) {
        guard let expression else { return }
        var loaded: [String] = []
        forEachName(in: expression) { loaded.append($0) }
        for name in loaded where wanted.contains(name) { found.insert(name) }
    }

    private mutating func store(_ target: Expression) {
        var stored: [String] = []
        forEachTarget(target) { name, isNamespace in if !isNamespace { stored.append(name) } }
        wanted.subtract(stored)
    }

    private mutating func visit(_ statements: [Statement]) { for statement in statements { visit(statement) } }

    private mutating func visit(_ signature: Signature) {
        wanted.subtract(signature.names)
        for value in signature.defaults { load(value) }
    }

    private mutating func visit(_ statement: Statement) {
        switch statement {
        case .output(let expression, _): load(expression)
        case .set(let target, let value, _):
            store(target)
            load(value)
        case .setBlock(let target, let filter, let body, _):
            store(target)
            load(filter)
            visit(body)
        case .macro(_, let signature, let body, _):
            visit(signature)
            visit(body)
        case .callBlock(let call, let signature, let body, _):
            load(call)
            visit(signature)
            visit(body)
        case .filterBlock(let filter, let body, _):
            visit(body)
            load(filter)
        case .with(let targets, let values, let body, _):
            for target in targets { store(target) }
            for value in values { load(value) }
            visit(body)
        case .forLoop(let loop):
            store(loop.target)
            load(loop.iterable)
            visit(loop.body)
            visit(loop.otherwise)
            load(loop.test)
        case .ifElse(let branches, let otherwise, _):
            for branch in branches {
                load(branch.test)
                visit(branch.body)
            }
            visit(otherwise)
        case .generation(let body, _): visit(body)
        case .text, .block, .breakLoop, .continueLoop: break
        }
    }
}
