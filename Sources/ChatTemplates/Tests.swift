// Jinja's tests: `value is name(arguments)`.

typealias Test = @Sendable (Value, Arguments, Run) throws -> Bool

let tests: [String: Test] = {
    var tests: [String: Test] = [
        "defined": simple("defined") { !$0.isUndefined },
        "undefined": simple("undefined") { $0.isUndefined },
        "none": simple("none") { $0.isNone },
        "boolean": simple("boolean") { if case .bool = $0 { true } else { false } },
        "true": simple("true") { if case .bool(true) = $0 { true } else { false } },
        "false": simple("false") { if case .bool(false) = $0 { true } else { false } },
        "integer": simple("integer") { if case .int = $0 { true } else { false } },
        "float": simple("float") { if case .float = $0 { true } else { false } },
        "number": simple("number") { $0.number != nil },
        "string": simple("string") { $0.text != nil },
        "mapping": simple("mapping") { if case .dict = $0 { true } else { false } },
        "iterable": simple("iterable") { isIterable($0) },
        "sequence": simple("sequence") { isSequence($0) },
        "callable": simple("callable") { if case .object(let object) = $0 { object.isCallable } else { false } },
        "escaped": simple("escaped") { $0.isMarkup },
        "odd": { value, arguments, run in
            try arguments.none(of: "odd")
            return try equal(try binary(.modulo, value, .int(2), run), .int(1), run)
        },
        "even": { value, arguments, run in
            try arguments.none(of: "even")
            return try equal(try binary(.modulo, value, .int(2), run), .int(0), run)
        },
        "divisibleby": { value, arguments, run in
            try equal(
                try binary(.modulo, value, try arguments.bound(to: ["num"], required: 1, of: "divisibleby")[0]!, run),
                .int(0), run)
        },
        "sameas": { value, arguments, _ in
            isSame(value, try arguments.bound(to: ["other"], required: 1, of: "sameas")[0]!)
        },
        "in": { value, arguments, run in
            try contains(try arguments.bound(to: ["seq"], required: 1, of: "in")[0]!, value, run)
        },
        "upper": cased("isupper"), "lower": cased("islower"),
        "filter": { value, arguments, _ in
            try arguments.none(of: "filter")
            return value.text.map { filters[$0] != nil } ?? false
        },
        "test": { value, arguments, _ in
            try arguments.none(of: "test")
            return value.text.map { isTestName($0) } ?? false
        },
    ]
    let comparisons: [(ComparisonOperator, [String])] = [
        (.equal, ["==", "eq", "equalto"]), (.notEqual, ["!=", "ne"]), (.greater, [">", "gt", "greaterthan"]),
        (.greaterOrEqual, [">=", "ge"]), (.less, ["<", "lt", "lessthan"]), (.lessOrEqual, ["<=", "le"]),
    ]
    for (op, names) in comparisons {
        for name in names { tests[name] = { try compare(op, $0, try $1.one(of: name), $2) } }
    }
    return tests
}()

private func isTestName(_ name: String) -> Bool { tests[name] != nil }

private func simple(_ name: String, _ test: @escaping @Sendable (Value) -> Bool) -> Test {
    { value, arguments, _ in
        try arguments.none(of: name)
        return test(value)
    }
}

private func cased(_ method: String) -> Test {
    { value, arguments, run in try stringMethod(try value.string(run), method)!(arguments, run).isTrue }
}

func isIterable(_ value: Value) -> Bool {
    switch value {
    case .undefined, .string, .markup, .list, .tuple, .dict: true
    case .object(let object): object.isIterable
    default: false
    }
}

private func isSequence(_ value: Value) -> Bool {
    switch value {
    case .undefined, .string, .markup, .list, .tuple, .dict: true
    case .object(let object): object.isSequence
    default: false
    }
}

/// Python's `is`, where it says something about plain values.
private func isSame(_ a: Value, _ b: Value) -> Bool {
    switch (a, b) {
    case (.null, .null): true
    case (.bool(let x), .bool(let y)): x == y
    case (.int(let x), .int(let y)): x == y
    case (.float(let x), .float(let y)): x == y
    case (.string(let x), .string(let y)): sameText(x, y)
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)): x === y
    case (.dict(let x), .dict(let y)): x === y
    case (.object(let x), .object(let y)): x === y
    case (.undefined(let x), .undefined(let y)): x === y
    default: false
    }
}
