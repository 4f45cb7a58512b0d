// The binary and unary operators on all kinds of values, attribute access and subscripts.

func unary(_ op: UnaryOperator, _ value: Value) throws -> Value {
    switch value.number {
    case .int(let number)?: return .int(op == .minus ? try checked((0).subtractingReportingOverflow(number)) : number)
    case .float(let number)?: return .float(op == .minus ? -number : number)
    case nil:
        try value.checkDefined()
        throw TemplateFailure("bad operand type for unary \(op == .minus ? "-" : "+"): '\(value.typeName)'")
    }
}

func binary(_ op: BinaryOperator, _ a: Value, _ b: Value, _ run: Run) throws -> Value {
    if let x = a.number, let y = b.number { return try arithmetic(op, x, y) }
    switch op {
    case .add:
        if let sum = try added(a, b, run) { return sum }
    case .multiply:
        if case .int(let n)? = b.number, let result = try repeated(a, n, run) { return result }
        if case .int(let n)? = a.number, let result = try repeated(b, n, run) { return result }
    case .modulo:
        if let format = a.text {
            let result = try percentFormat(format, b, run)
            return a.isMarkup ? .markup(result) : .string(result)
        }
    default: break
    }
    try a.checkDefined()
    try b.checkDefined()
    throw TemplateFailure("unsupported operand types for \(op.rawValue): '\(a.typeName)' and '\(b.typeName)'")
}

private func added(_ a: Value, _ b: Value, _ run: Run) throws -> Value? {
    switch (a, b) {
    case (.string(let x), .string(let y)):
        try run.charge(text: x.utf8.count + y.utf8.count)
        return .string(x + y)
    case (.markup, .string), (.markup, .markup), (.string, .markup):
        let (x, y) = (escaped(a), escaped(b))
        try run.charge(text: x.utf8.count + y.utf8.count)
        return .markup(x + y)
    case (.list(let x), .list(let y)):
        try run.charge(bytes: (x.items.count + y.items.count) * 24)
        return .list(try List(x.items + y.items))
    case (.tuple(let x), .tuple(let y)):
        try run.charge(bytes: (x.items.count + y.items.count) * 24)
        return .tuple(try List(x.items + y.items))
    default: return nil
    }
}

private func repeated(_ value: Value, _ times: Int, _ run: Run) throws -> Value? {
    let n = max(0, times)
    func checkedSize(_ unit: Int) throws -> Int {
        let (size, overflow) = unit.multipliedReportingOverflow(by: n)
        return overflow ? Int.max / 2 : size
    }
    switch value {
    case .string(let text), .markup(let text):
        try run.charge(text: try checkedSize(text.utf8.count))
        let result = String(repeating: text, count: text.isEmpty ? 0 : n)
        return value.isMarkup ? .markup(result) : .string(result)
    case .list(let list), .tuple(let list):
        try run.charge(bytes: try checkedSize(list.items.count * 24))
        var items: [Value] = []
        if !list.items.isEmpty { for _ in 0..<n { items += list.items } }
        return value.isTuple ? .tuple(try List(items)) : .list(try List(items))
    default: return nil
    }
}

extension Value {
    var isMarkup: Bool { if case .markup = self { true } else { false } }
    var isTuple: Bool { if case .tuple = self { true } else { false } }
}

/// HTML escapes of a text that is not marked as escaped already.
func escaped(_ value: Value) -> String {
    switch value {
    case .markup(let text): return text
    case .string(let text): return escaped(text)
    default: return ""
    }
}

func escaped(_ text: String) -> String {
    // Bytes: appending to a view of scalars copies all that is there, once for every escaped character.
    var output: [UInt8] = []
    output.reserveCapacity(text.utf8.count)
    for byte in text.utf8 {
        switch byte {
        case UInt8(ascii: "&"): output += "&amp;".utf8
        case UInt8(ascii: "<"): output += "&lt;".utf8
        case UInt8(ascii: ">"): output += "&gt;".utf8
        case UInt8(ascii: "'"): output += "&#39;".utf8
        case UInt8(ascii: "\""): output += "&#34;".utf8
        default: output.append(byte)
        }
    }
    return String(decoding: output, as: UTF8.self)
}

// MARK: Attributes and items

/// `value.name`: an attribute, else an item of that name, else undefined. Nothing here reaches beyond plain data.
func attribute(_ value: Value, _ name: String, _ run: Run) throws -> Value {
    switch value {
    case .undefined(let undefined): throw TemplateFailure(undefined.message)
    case .dict(let dict):
        if let method = method(of: value, name) { return method }
        if let found = try dict.value(named: name) { return found }
    case .object(let object):
        if !name.utf8.starts(with: "_".utf8), let found = try object.attribute(name) { return found }
        if let found = try object.item(.string(name), run) { return found }
    default:
        if let method = method(of: value, name) { return method }
    }
    return noAttribute(value, name)
}

private func noAttribute(_ value: Value, _ name: String) -> Value {
    .undefined(Undefined("'\(value.typeName) object' has no attribute '\(name)'"))
}

/// `value[key]`: an item, else (for text keys) an attribute, else undefined.
func item(_ value: Value, _ key: Value, _ run: Run) throws -> Value {
    switch value {
    case .undefined(let undefined): throw TemplateFailure(undefined.message)
    case .dict(let dict):
        if key.isHashable, let found = try dict.value(for: key) { return found }
    case .list(let list), .tuple(let list):
        if case .int(let index)? = key.number, let i = position(index, list.items.count) { return list.items[i] }
    case .string(let text), .markup(let text):
        if case .int(let index)? = key.number, let found = try character(index, of: text, run) { return .string(found) }
    case .object(let object):
        if let found = try object.item(key, run) { return found }
    default: break
    }
    if let name = key.text {
        if case .object(let object) = value {
            if !name.utf8.starts(with: "_".utf8), let found = try object.attribute(name) { return found }
        } else if let method = method(of: value, name) {
            return method
        }
        return noAttribute(value, name)
    }
    let kind = value.isNone ? "None" : "\(value.typeName) object"
    if case .int(let index)? = key.number { return .undefined(Undefined("\(kind) has no element \(index)")) }
    return .undefined(Undefined("\(kind) has no element of type \(key.typeName)"))
}

extension Value {
    var isHashable: Bool {
        switch self {
        case .list, .dict: false
        case .tuple(let list): list.items.allSatisfy(\.isHashable)
        default: true
        }
    }
}

/// The place of a Python index (negative from the end) among `count` items.
func position(_ index: Int, _ count: Int) -> Int? {
    let i = index < 0 ? index &+ count : index
    return i >= 0 && i < count ? i : nil
}

private func character(_ index: Int, of text: String, _ run: Run) throws -> String? {
    try run.work(text.utf8.count)
    if text.isASCII {
        return position(index, text.utf8.count).map { i in
            String(Unicode.Scalar(text.utf8[text.utf8.index(text.utf8.startIndex, offsetBy: i)]))
        }
    }
    let scalars = Array(text.unicodeScalars)
    return position(index, scalars.count).map { String(scalars[$0]) }
}

/// `value[start:stop:step]`.
func slice(_ value: Value, _ start: Value, _ stop: Value, _ step: Value, _ run: Run) throws -> Value {
    try value.checkDefined()
    switch value {
    case .list(let list):
        return .list(try List(try sliced(list.items, start, stop, step, run)))
    case .tuple(let list):
        return .tuple(try List(try sliced(list.items, start, stop, step, run)))
    case .string(let text), .markup(let text):
        try run.charge(bytes: text.utf8.count)
        let result = String(scalars: try sliced(Array(text.unicodeScalars), start, stop, step, run))
        return value.isMarkup ? .markup(result) : .string(result)
    case .object(let range as PyRange): return .object(try range.sliced(start, stop, step))
    default: throw TemplateFailure("'\(value.typeName)' object cannot be sliced")
    }
}

private func sliced<Item>(_ items: [Item], _ start: Value, _ stop: Value, _ step: Value, _ run: Run) throws -> [Item] {
    guard let bounds = try SliceBounds(start, stop, step, count: items.count) else { return [] }
    try run.charge(bytes: bounds.count * 24)
    if bounds.step == 1 { return Array(items[bounds.start..<(bounds.start + bounds.count)]) }
    return (0..<bounds.count).map { items[bounds.start + $0 * bounds.step] }
}

/// Which of `count` items a slice takes.
struct SliceBounds {
    let start: Int, step: Int, count: Int

    /// Nil when it takes none.
    init?(_ start: Value, _ stop: Value, _ step: Value, count n: Int) throws {
        func bound(_ value: Value) throws -> Int? {
            switch value {
            case .null: return nil
            case .int(let i): return i
            case .bool(let flag): return flag ? 1 : 0
            default:
                try value.checkDefined()
                throw TemplateFailure("slice indices must be integers or none, not \(value.typeName)")
            }
        }
        let step = try bound(step) ?? 1
        if step == 0 { throw TemplateFailure("slice step cannot be zero") }
        func clamped(_ index: Int?, _ fallback: Int) -> Int {
            guard let index else { return fallback }
            let (low, high) = step > 0 ? (0, n) : (-1, n - 1)
            return min(max(index < 0 ? index &+ n : index, low), high)
        }
        let first = clamped(try bound(start), step > 0 ? 0 : n - 1)
        let end = clamped(try bound(stop), step > 0 ? n : -1)
        let span = step > 0 ? end - first : first - end
        if span <= 0 { return nil }
        (self.start, self.step) = (first, step)
        self.count = Int((UInt(span) + step.magnitude - 1) / step.magnitude)
    }
}
