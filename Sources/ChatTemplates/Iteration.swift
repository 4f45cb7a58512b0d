// What loops run over: ranges, dictionary views, one-pass iterators, and the `loop` variable.

/// `range(start, stop, step)`.
final class PyRange: Object, @unchecked Sendable {
    private let start: Int, step: Int, length: Int

    private init(start: Int, step: Int, length: Int) {
        (self.start, self.step, self.length) = (start, step, length)
    }

    convenience init(_ arguments: Arguments, _ run: Run) throws {
        guard arguments.keywords.isEmpty, (1...3).contains(arguments.positional.count) else {
            throw TemplateFailure("range takes one to three numbers")
        }
        let numbers = try arguments.positional.map { value in
            guard case .int(let number)? = value.number else {
                try value.checkDefined()
                throw TemplateFailure("'\(value.typeName)' object cannot be interpreted as an integer")
            }
            return number
        }
        let (start, stop) = numbers.count == 1 ? (0, numbers[0]) : (numbers[0], numbers[1])
        let step = numbers.count == 3 ? numbers[2] : 1
        if step == 0 { throw TemplateFailure("range step must not be zero") }
        let (span, overflow) =
            step > 0 ? stop.subtractingReportingOverflow(start) : start.subtractingReportingOverflow(stop)
        if overflow, (step > 0) == (stop > start) { throw TemplateFailure("the range is too big") }
        let length = span > 0 && !overflow ? Int((UInt(span) - 1) / step.magnitude) + 1 : 0
        guard length <= run.limits.rangeItems else {
            throw TemplateFailure("the range has \(length) items; \(run.limits.rangeItems) are allowed")
        }
        self.init(start: start, step: step, length: length)
    }

    override var typeName: String { "range" }
    override func count() throws -> Int? { length }
    override var isTrue: Bool { length > 0 }
    override var isIterable: Bool { true }
    override var isSequence: Bool { true }

    override func items(_ run: Run) throws -> [Value]? {
        try run.charge(bytes: length * 24)
        return (0..<length).map { .int(start + $0 * step) }
    }

    override func item(_ key: Value, _ run: Run) throws -> Value? {
        guard case .int(let index)? = key.number else { return nil }
        return position(index, length).map { .int(start + $0 * step) }
    }

    func sliced(_ from: Value, _ to: Value, _ by: Value) throws -> PyRange {
        guard let bounds = try SliceBounds(from, to, by, count: length) else {
            return PyRange(start: start, step: step, length: 0)
        }
        return PyRange(start: start + bounds.start * step, step: step &* bounds.step, length: bounds.count)
    }

    override func attribute(_ name: String) throws -> Value? {
        switch name {
        case "start": .int(start)
        case "stop": .int(start + length * step)
        case "step": .int(step)
        default: nil
        }
    }

    override func isEqual(to other: Object, _ run: Run) throws -> Bool {
        guard let other = other as? PyRange, length == other.length else { return false }
        return length == 0 || (start == other.start && (length == 1 || step == other.step))
    }

    override func text(_ run: Run) throws -> String {
        let stop = start + length * step
        return step == 1 ? "range(\(start), \(stop))" : "range(\(start), \(stop), \(step))"
    }
}

/// `dict.keys()`, `.values()` and `.items()`.
final class DictView: Object, @unchecked Sendable {
    enum Kind: String { case keys, values, items }
    private let dict: Dict
    private let kind: Kind

    init(_ dict: Dict, _ kind: Kind) { (self.dict, self.kind) = (dict, kind) }

    override var typeName: String { "dict_\(kind.rawValue)" }
    override func count() throws -> Int? { dict.count }
    override var isTrue: Bool { dict.count > 0 }
    override var isIterable: Bool { true }

    override func items(_ run: Run) throws -> [Value]? {
        try run.charge(bytes: dict.count * 24)
        switch kind {
        case .keys: return try dict.keys()
        case .values: return try dict.values()
        case .items: return try dict.pairs().map { .tuple(try List([$0, $1])) }
        }
    }

    override func text(_ run: Run) throws -> String {
        "\(typeName)(\(try Value.list(try List(try items(run) ?? [])).representation(run)))"
    }
}

/// A one-pass iterator, as Python's generators are: the result of `map`, `select` and others.
final class Iterator: Object, @unchecked Sendable {
    private var pull: (() throws -> Value?)?

    init(_ pull: @escaping () throws -> Value?) { self.pull = pull }

    /// Over items that exist already.
    convenience init(_ items: [Value]) {
        var at = 0
        self.init {
            defer { at += 1 }
            return at < items.count ? items[at] : nil
        }
    }

    override var typeName: String { "generator" }
    override var isIterable: Bool { true }

    func next() throws -> Value? {
        guard let item = try pull?() else {
            pull = nil
            return nil
        }
        return item
    }

    override func items(_ run: Run) throws -> [Value]? {
        var items: [Value] = []
        while let item = try next() {
            try run.charge(bytes: 24)
            items.append(item)
        }
        return items
    }

    override func contains(_ value: Value, _ run: Run) throws -> Bool {
        while let item = try next() { if try equal(item, value, run) { return true } }
        return false
    }
}

/// The items of one `for`, filtered by its `if` as they are asked for.
final class LoopSource {
    private let items: [Value]
    private let test: ((Value) throws -> Bool)?
    private let iterator: Iterator?
    private var at = 0
    /// Length where Python's `len` has one.
    let count: Int?

    init(_ iterable: Value, test: ((Value) throws -> Bool)?, _ run: Run) throws {
        self.test = test
        if case .object(let iterator as Iterator) = iterable {
            (items, self.iterator, count) = ([], iterator, nil)
        } else {
            items = try iterable.items(run)
            iterator = nil
            count = test == nil ? items.count : nil
        }
    }

    func next() throws -> Value? {
        while let item = try candidate() { if try test?(item) ?? true { return item } }
        return nil
    }

    private func candidate() throws -> Value? {
        if let iterator { return try iterator.next() }
        guard at < items.count else { return nil }
        at += 1
        return items[at - 1]
    }
}

/// The variable `loop`.
final class LoopState: Object, @unchecked Sendable {
    /// Renders the loop over other items, at a depth.
    typealias Recursion = (Value, Int) throws -> String

    private let source: LoopSource
    private let recursion: Recursion?
    private let depth: Int
    private var index = -1
    private var previous: Value?, current: Value?
    /// Items taken from the source but not yet run: `last` looks ahead by one, `length` may take all.
    private var ahead: [Value] = []
    private var knownLength: Int?
    private var lastChanged: [Value]?

    init(_ source: LoopSource, recursion: Recursion?, depth: Int) {
        (self.source, self.recursion, self.depth) = (source, recursion, depth)
        knownLength = source.count
    }

    /// Moves on to the next item.
    func advance() throws -> Value? {
        guard let item = try ahead.isEmpty ? source.next() : ahead.removeFirst() else { return nil }
        index += 1
        (previous, current) = (current, item)
        return item
    }

    private func peek() throws -> Value? {
        if ahead.isEmpty, let item = try source.next() { ahead.append(item) }
        return ahead.first
    }

    private func length() throws -> Int {
        if let knownLength { return knownLength }
        while let item = try source.next() { ahead.append(item) }
        let length = index + 1 + ahead.count
        knownLength = length
        return length
    }

    override var typeName: String { "LoopContext" }
    override var isCallable: Bool { true }
    override func count() throws -> Int? { try length() }
    override var isIterable: Bool { true }

    override func attribute(_ name: String) throws -> Value? {
        switch name {
        case "index": .int(index + 1)
        case "index0": .int(index)
        case "first": .bool(index == 0)
        case "last": .bool(try peek() == nil)
        case "length": .int(try length())
        case "revindex": .int(try length() - index)
        case "revindex0": .int(try length() - index - 1)
        case "depth": .int(depth + 1)
        case "depth0": .int(depth)
        case "previtem": index > 0 ? previous : .undefined(Undefined("there is no previous item"))
        case "nextitem": try peek() ?? .undefined(Undefined("there is no next item"))
        case "cycle": .object(Function("cycle") { [unowned self] arguments, _ in try cycle(arguments) })
        case "changed": .object(Function("changed") { [unowned self] arguments, run in try changed(arguments, run) })
        default: nil
        }
    }

    private func cycle(_ arguments: Arguments) throws -> Value {
        guard !arguments.positional.isEmpty else { throw TemplateFailure("no items for cycling given") }
        guard arguments.keywords.isEmpty else { throw TemplateFailure("cycle takes no keyword arguments") }
        return arguments.positional[index % arguments.positional.count]
    }

    private func changed(_ arguments: Arguments, _ run: Run) throws -> Value {
        guard arguments.keywords.isEmpty else { throw TemplateFailure("changed takes no keyword arguments") }
        let now = Value.tuple(try List(arguments.positional))
        if let lastChanged, try equal(.tuple(try List(lastChanged)), now, run) { return .bool(false) }
        lastChanged = arguments.positional
        return .bool(true)
    }

    override func call(_ arguments: Arguments, _ run: Run) throws -> Value {
        guard let recursion else { throw TemplateFailure("the loop must be marked 'recursive' to be called") }
        return .string(try recursion(try arguments.bound(to: ["iterable"], required: 1, of: "loop")[0]!, depth + 1))
    }

    override func text(_ run: Run) throws -> String { "<LoopContext \(index + 1)/\(try length())>" }
}
