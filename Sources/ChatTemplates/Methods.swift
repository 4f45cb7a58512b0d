// Methods of Python's strings, dictionaries, lists, tuples and numbers that cannot change their value.

typealias Method = (Arguments, Run) throws -> Value

enum DictMethod: String { case items, keys, values, get, copy, clear, pop, popitem, setdefault, update, fromkeys }

/// The method of a value under a name; nil when the type has none.
func boundMethod(of value: Value, _ name: String) -> Method? {
    switch value {
    case .string(let text): stringMethod(text, name)
    case .markup(let text): stringMethod(text, name).map { method in { asMarkup(try method($0, $1)) } }
    case .dict(let dict): DictMethod(rawValue: name).flatMap { dictMethod(dict, $0) }
    case .list(let list): listMethod(list, name, isTuple: false)
    case .tuple(let list): listMethod(list, name, isTuple: true)
    case .int, .bool, .float: numberMethod(value.number!, name)
    default: nil
    }
}

/// The method as a value; methods that would change it are there but undefined, as in Jinja's immutable sandbox.
func method(of value: Value, _ name: String) -> Value? {
    if let method = boundMethod(of: value, name) { return .object(Function(name, method)) }
    switch value {
    case .dict where DictMethod(rawValue: name) != nil, .list where listChanges.contains(name):
        return .undefined(Undefined("access to attribute '\(name)' of '\(value.typeName)' object is unsafe"))
    case .int, .bool, .float:
        switch (name, value.number!) {
        case ("real", let number): return number.value
        case ("imag", .int): return .int(0)
        case ("imag", .float): return .float(0)
        case ("numerator", .int(let number)): return .int(number)
        case ("denominator", .int): return .int(1)
        default: return nil
        }
    default: return nil
    }
}

private let listChanges: Set<String> = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"]

private func asMarkup(_ value: Value) -> Value {
    switch value {
    case .string(let text): .markup(text)
    case .list(let list): .list(List(shallow: list.items.map(asMarkup)))
    case .tuple(let list): .tuple(List(shallow: list.items.map(asMarkup)))
    default: value
    }
}

private func numberMethod(_ number: Number, _ name: String) -> Method? {
    switch (name, number) {
    case ("is_integer", .float(let value)):
        return { arguments, _ in
            try arguments.none(of: name)
            return .bool(value.isFinite && value == value.rounded(.towardZero))
        }
    case ("bit_length", .int(let value)):
        return { arguments, _ in
            try arguments.none(of: name)
            return .int(Int.bitWidth - value.magnitude.leadingZeroBitCount)
        }
    case ("conjugate", _):
        return { arguments, _ in
            try arguments.none(of: name)
            return number.value
        }
    default: return nil
    }
}

private func dictMethod(_ dict: Dict, _ method: DictMethod) -> Method? {
    switch method {
    case .get:
        return { arguments, _ in
            guard arguments.keywords.isEmpty else { throw TemplateFailure("get() takes no keyword arguments") }
            let bound = try arguments.bound(to: ["key", "default"], required: 1, of: "get()")
            return try dict.value(for: bound[0]!) ?? bound[1] ?? .null
        }
    case .items, .keys, .values:
        return { arguments, _ in
            try arguments.none(of: method.rawValue + "()")
            return .object(DictView(dict, DictView.Kind(rawValue: method.rawValue)!))
        }
    case .copy:
        return { arguments, _ in
            try arguments.none(of: "copy()")
            return .dict(dict)
        }
    case .fromkeys:
        return { arguments, run in
            let bound = try arguments.bound(to: ["iterable", "value"], required: 1, of: "fromkeys()")
            return .dict(try Dict(try bound[0]!.items(run).map { ($0, bound[1] ?? .null) }))
        }
    case .clear, .pop, .popitem, .setdefault, .update: return nil
    }
}

private func listMethod(_ list: List, _ name: String, isTuple: Bool) -> Method? {
    switch name {
    case "count":
        return { arguments, run in
            let wanted = try arguments.one(of: "count()")
            try run.work(list.items.count * 8)
            return .int(try list.items.count { try equal($0, wanted, run) })
        }
    case "index":
        return { arguments, run in
            let bound = try arguments.bound(to: ["value", "start", "stop"], required: 1, of: "index()")
            let (start, stop) = try window(bound[1], bound[2], list.items.count)
            for i in start..<max(start, stop) where try equal(list.items[i], bound[0]!, run) { return .int(i) }
            throw TemplateFailure("\(isTuple ? "tuple" : "list").index(x): x is not there")
        }
    case "copy" where !isTuple:
        return { arguments, _ in
            try arguments.none(of: "copy()")
            return .list(list)
        }
    default: return nil
    }
}

/// Start and end arguments of `find`, `count`, `index` and the like, clamped to `count` items.
func window(_ start: Value?, _ stop: Value?, _ count: Int) throws -> (Int, Int) {
    func clamped(_ value: Value?, _ fallback: Int) throws -> Int {
        switch value {
        case nil, .some(.null): return fallback
        case .some(let value):
            guard case .int(let i)? = value.number else {
                throw TemplateFailure("slice indices must be integers or none")
            }
            return min(max(i < 0 ? i &+ count : i, 0), count)
        }
    }
    return (try clamped(start, 0), try clamped(stop, count))
}
