// Jinja's filters on sequences.

let sequenceFilters: [String: Filter] = [
    "first": { value, arguments, run in
        try arguments.none(of: "first")
        let first: Value?
        switch value {
        case .object(let iterator as Iterator): first = try iterator.next()
        case .string(let text), .markup(let text): first = text.unicodeScalars.first.map { .string(String($0)) }
        default: first = try value.items(run).first
        }
        return first ?? .undefined(Undefined("no first item, the sequence was empty"))
    },
    "last": { value, arguments, run in
        try arguments.none(of: "last")
        if case .object(let object) = value, object is Iterator || object is Namespace {
            throw TemplateFailure("'\(value.typeName)' object is not reversible")
        }
        let last: Value?
        switch value {
        case .undefined: throw TemplateFailure("'Undefined' object is not reversible")
        case .string(let text), .markup(let text): last = text.unicodeScalars.last.map { .string(String($0)) }
        default: last = try value.items(run).last
        }
        return last ?? .undefined(Undefined("no last item, the sequence was empty"))
    },
    "list": { value, arguments, run in
        try arguments.none(of: "list")
        return .list(try List(try value.items(run)))
    },
    "join": { value, arguments, run in
        let bound = try arguments.bound(to: ["d", "attribute"], of: "join")
        let separator = try bound[0]?.string(run) ?? ""
        let items = try mapped(value, bound[1], run)
        return .string(try joined(items, by: separator, run) { try $0.string(run) })
    },
    "reverse": { value, arguments, run in
        try arguments.none(of: "reverse")
        if let text = value.text {
            try run.charge(text: text.utf8.count)
            return .string(String(scalars: text.unicodeScalars.reversed()))
        }
        let reversed = Array(try value.items(run).reversed())
        if case .object(let object) = value, object is Iterator { return .list(try List(reversed)) }
        if value.isUndefined { return .list(.empty) }
        return .object(Iterator(reversed))
    },
    "sum": { value, arguments, run in
        let bound = try arguments.bound(to: ["attribute", "start"], of: "sum")
        var total = bound[1] ?? .int(0)
        if total.text != nil { throw TemplateFailure("sum() cannot add strings; use join") }
        for item in try mapped(value, bound[0], run) {
            try run.step()
            total = try binary(.add, total, item, run)
        }
        return total
    },
    "sort": { value, arguments, run in
        let bound = try arguments.bound(to: ["reverse", "case_sensitive", "attribute"], of: "sort")
        let ignoresCase = !(bound[1]?.isTrue ?? false)
        let attributes = try attributeLists(bound[2] ?? .null)
        let keyed = try value.items(run).map { item in
            try run.step()
            let keys = try attributes.map { try key(of: item, $0, ignoresCase, nil, run) }
            return (key: bound[2] == nil || attributes.count == 1 ? keys[0] : .list(try List(keys)), value: item)
        }
        return .list(try List(try sorted(keyed, reverse: bound[0]?.isTrue ?? false, run)))
    },
    "dictsort": { value, arguments, run in
        let bound = try arguments.bound(to: ["case_sensitive", "by", "reverse"], of: "dictsort")
        let by = bound[1]?.text ?? "key"
        guard by == "key" || by == "value" else { throw TemplateFailure("you can only sort by \"key\" or \"value\"") }
        guard case .dict(let dict) = value else {
            throw TemplateFailure("dictsort needs a mapping, not \(value.typeName)")
        }
        let ignoresCase = !(bound[0]?.isTrue ?? false)
        let keyed = try dict.pairs().map { pair in
            (
                key: folded(by == "key" ? pair.0 : pair.1, ignoresCase), value: Value.tuple(try List([pair.0, pair.1]))
            )
        }
        return .list(try List(try sorted(keyed, reverse: bound[2]?.isTrue ?? false, run)))
    },
    "unique": { value, arguments, run in
        let bound = try arguments.bound(to: ["case_sensitive", "attribute"], of: "unique")
        let ignoresCase = !(bound[0]?.isTrue ?? false)
        let path = try attributePath(bound[1] ?? .null)
        let source = try LoopSource(value, test: nil, run)
        var seen: Set<Key> = []
        return .object(
            Iterator {
                while let item = try source.next() {
                    try run.step()
                    let key = try key(of: item, path, ignoresCase, nil, run)
                    try key.checkHashable()
                    if seen.insert(Key(value: key)).inserted { return item }
                }
                return nil
            })
    },
    "min": { try extreme($0, $1, $2, isMax: false) },
    "max": { try extreme($0, $1, $2, isMax: true) },
    "groupby": groupby,
    "batch": { value, arguments, run in
        let bound = try arguments.bound(to: ["linecount", "fill_with"], required: 1, of: "batch")
        let size = try integerArgument(bound[0]!)
        let items = try value.items(run)
        var groups: [Value] = [], group: [Value] = []
        for item in items {
            if group.count == size {
                groups.append(.list(try List(group)))
                group = []
            }
            group.append(item)
        }
        if !group.isEmpty {
            if let fill = bound[1], !fill.isNone, group.count < size {
                try run.charge(bytes: min(size, Int.max / 64) * 24)
                group += Array(repeating: fill, count: size - group.count)
            }
            groups.append(.list(try List(group)))
        }
        return .object(Iterator(groups))
    },
    "slice": { value, arguments, run in
        let bound = try arguments.bound(to: ["slices", "fill_with"], required: 1, of: "slice")
        let slices = try integerArgument(bound[0]!)
        let items = try value.items(run)
        guard slices != 0 else { return .object(Iterator { throw TemplateFailure("division by zero") }) }
        try run.charge(bytes: min(max(slices, 0), Int.max / 64) * 40)
        let (size, extra) = (items.count / max(slices, 1), items.count % max(slices, 1))
        var groups: [Value] = [], at = 0
        for i in 0..<max(slices, 0) {
            let end = at + size + (i < extra ? 1 : 0)
            var group = Array(items[at..<end])
            if let fill = bound[1], !fill.isNone, i >= extra { group.append(fill) }
            groups.append(.list(try List(group)))
            at = end
        }
        return .object(Iterator(groups))
    },
]

// MARK: Attributes of items

/// `a.b.0` as the keys to follow.
func attributePath(_ attribute: Value) throws -> [Value] {
    switch attribute {
    case .null: return []
    case .string(let text), .markup(let text):
        return text.split(separator: ".", omittingEmptySubsequences: false).map { part in
            part.utf8.allSatisfy { $0 &- 0x30 < 10 }
                ? Int(part).map { .int($0) } ?? .string(String(part)) : .string(String(part))
        }
    default: return [attribute]
    }
}

private func attributeLists(_ attribute: Value) throws -> [[Value]] {
    guard let text = attribute.text else { return [try attributePath(attribute)] }
    return try text.split(separator: ",", omittingEmptySubsequences: false).map {
        try attributePath(.string(String($0)))
    }
}

func follow(_ path: [Value], from value: Value, default fallback: Value?, _ run: Run) throws -> Value {
    var value = value
    for part in path {
        value = try item(value, part, run)
        if value.isUndefined, let fallback, !fallback.isNone { value = fallback }
    }
    return value
}

private func mapped(_ value: Value, _ attribute: Value?, _ run: Run) throws -> [Value] {
    let items = try value.items(run)
    guard let attribute, !attribute.isNone else { return items }
    let path = try attributePath(attribute)
    return try items.map { item in
        try run.step()
        return try follow(path, from: item, default: nil, run)
    }
}

private func folded(_ value: Value, _ ignoresCase: Bool) -> Value {
    guard ignoresCase, let text = value.text else { return value }
    return .string(lowercased(text))
}

private func key(of item: Value, _ path: [Value], _ ignoresCase: Bool, _ fallback: Value?, _ run: Run) throws -> Value {
    folded(try follow(path, from: item, default: fallback, run), ignoresCase)
}

/// Stable order by key, also when reversed, as Python's `sorted`.
private func sorted(_ keyed: [(key: Value, value: Value)], reverse: Bool, _ run: Run) throws -> [Value] {
    let order = try keyed.indices.sorted { a, b in
        try run.work(32)
        if reverse ? try less(keyed[b].key, keyed[a].key, run) : try less(keyed[a].key, keyed[b].key, run) {
            return true
        }
        if reverse ? try less(keyed[a].key, keyed[b].key, run) : try less(keyed[b].key, keyed[a].key, run) {
            return false
        }
        return a < b
    }
    return order.map { keyed[$0].value }
}

private func extreme(_ value: Value, _ arguments: Arguments, _ run: Run, isMax: Bool) throws -> Value {
    let bound = try arguments.bound(to: ["case_sensitive", "attribute"], of: isMax ? "max" : "min")
    let ignoresCase = !(bound[0]?.isTrue ?? false)
    let path = try attributePath(bound[1] ?? .null)
    var best: (key: Value, value: Value)?
    for item in try value.items(run) {
        try run.step()
        let key = try key(of: item, path, ignoresCase, nil, run)
        if let found = best {
            let isBetter = isMax ? try less(found.key, key, run, ">") : try less(key, found.key, run)
            if isBetter { best = (key, item) }
        } else {
            best = (key, item)
        }
    }
    return best?.value ?? .undefined(Undefined("no aggregated item, the sequence was empty"))
}

private func groupby(_ value: Value, _ arguments: Arguments, _ run: Run) throws -> Value {
    let bound = try arguments.bound(to: ["attribute", "default", "case_sensitive"], required: 1, of: "groupby")
    let ignoresCase = !(bound[2]?.isTrue ?? false)
    let path = try attributePath(bound[0]!)
    let keyed = try value.items(run).map { item in
        try run.step()
        return (key: try key(of: item, path, ignoresCase, bound[1], run), value: item)
    }
    var groups: [(key: Value, items: [Value])] = []
    for item in try sorted(keyed, reverse: false, run) {
        let key = try key(of: item, path, ignoresCase, bound[1], run)
        if let last = groups.last, try equal(last.key, key, run) {
            groups[groups.count - 1].items.append(item)
        } else {
            groups.append((key, [item]))
        }
    }
    return .list(
        try List(
            try groups.map { group in
                let key = try follow(path, from: group.items[0], default: bound[1], run)
                return .object(Group(ignoresCase ? key : group.key, try List(group.items)))
            }))
}

/// One group of `groupby`: a pair with names.
final class Group: Object, @unchecked Sendable {
    private let grouper: Value
    private let list: List

    init(_ grouper: Value, _ list: List) { (self.grouper, self.list) = (grouper, list) }

    private var pair: [Value] { [grouper, .list(list)] }
    override var typeName: String { "_GroupTuple" }
    override func count() throws -> Int? { 2 }
    override var isIterable: Bool { true }
    override var isSequence: Bool { true }
    override func items(_ run: Run) throws -> [Value]? { pair }

    override func attribute(_ name: String) throws -> Value? {
        name == "grouper" ? grouper : name == "list" ? .list(list) : nil
    }

    override func item(_ key: Value, _ run: Run) throws -> Value? {
        guard case .int(let index)? = key.number else { return nil }
        return position(index, 2).map { pair[$0] }
    }

    override func text(_ run: Run) throws -> String { try Value.tuple(try List(pair)).representation(run) }
}

// MARK: Filters that apply filters and tests

let selectingFilters: [String: Filter] = [
    "map": { value, arguments, run in
        guard value.isTrue else { return .object(Iterator([])) }
        let transform = try mapping(arguments, run)
        let source = try LoopSource(value, test: nil, run)
        return .object(
            Iterator {
                guard let item = try source.next() else { return nil }
                try run.step()
                return try transform(item)
            })
    },
    "select": { try selected($0, $1, $2, byAttribute: false, keeps: true) },
    "reject": { try selected($0, $1, $2, byAttribute: false, keeps: false) },
    "selectattr": { try selected($0, $1, $2, byAttribute: true, keeps: true) },
    "rejectattr": { try selected($0, $1, $2, byAttribute: true, keeps: false) },
]

private func mapping(_ arguments: Arguments, _ run: Run) throws -> (Value) throws -> Value {
    if arguments.positional.isEmpty, arguments.keywords.contains(where: { $0.name == "attribute" }) {
        let bound = try arguments.bound(to: ["attribute", "default"], of: "map")
        let path = try attributePath(bound[0]!)
        return { try follow(path, from: $0, default: bound[1], run) }
    }
    guard let name = arguments.positional.first else { throw TemplateFailure("map requires a filter") }
    guard let text = name.text, let filter = filter(named: text) else {
        throw TemplateFailure("no filter named \(try name.representation(run))")
    }
    var rest = arguments
    rest.positional.removeFirst()
    return { [rest] in
        try run.look(at: $0, rest)
        return try filter($0, rest, run)
    }
}

private func filter(named name: String) -> Filter? { filters[name] }

private func selected(
    _ value: Value, _ arguments: Arguments, _ run: Run, byAttribute: Bool, keeps: Bool
) throws -> Value {
    guard value.isTrue else { return .object(Iterator([])) }
    var rest = arguments
    var path: [Value] = []
    if byAttribute {
        guard !rest.positional.isEmpty else { throw TemplateFailure("the name of an attribute is missing") }
        path = try attributePath(rest.positional.removeFirst())
    }
    var test: Test = { value, _, _ in value.isTrue }
    if !rest.positional.isEmpty {
        let name = rest.positional.removeFirst()
        guard let text = name.text, let found = tests[text] else {
            throw TemplateFailure("no test named \(try name.representation(run))")
        }
        test = found
    }
    let source = try LoopSource(value, test: nil, run)
    return .object(
        Iterator { [rest, path, test] in
            while let item = try source.next() {
                try run.step()
                let value = try follow(path, from: item, default: nil, run)
                try run.look(at: value, rest)
                if try test(value, rest, run) == keeps { return item }
            }
            return nil
        })
}
