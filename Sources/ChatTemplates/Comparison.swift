// Equality, order and membership as Python has them.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// `a == b`.
func equal(_ a: Value, _ b: Value, _ run: Run) throws -> Bool {
    switch (a, b) {
    case (.string(let x), .string(let y)):
        if x.utf8.count > 64 { try run.work(x.utf8.count) }
        return sameText(x, y)
    case (.undefined, .undefined), (.null, .null): return true
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)): return try equal(x.items, y.items, run)
    case (.dict(let x), .dict(let y)): return try equal(x, y, run)
    case (.object(let x), .object(let y)): return try x.isEqual(to: y, run)
    default: break
    }
    if let x = a.number, let y = b.number { return x.isEqual(to: y) }
    if let x = a.text, let y = b.text {
        try run.work(x.utf8.count)
        return sameText(x, y)
    }
    return false
}

private func equal(_ a: [Value], _ b: [Value], _ run: Run) throws -> Bool {
    guard a.count == b.count else { return false }
    for i in a.indices {
        try run.work(16)
        if !(try equal(a[i], b[i], run)) { return false }
    }
    return true
}

private func equal(_ a: Dict, _ b: Dict, _ run: Run) throws -> Bool {
    if a === b { return true }
    guard a.count == b.count else { return false }
    for (key, value) in try a.pairs() {
        try run.work(16)
        guard let other = try b.value(for: key), try equal(value, other, run) else { return false }
    }
    return true
}

/// `a < b`.
func less(_ a: Value, _ b: Value, _ run: Run, _ sign: String = "<") throws -> Bool {
    if let x = a.number, let y = b.number { return x.isLess(than: y) }
    if let x = a.text, let y = b.text {
        try run.work(min(x.utf8.count, y.utf8.count))
        return x.utf8.lexicographicallyPrecedes(y.utf8)  // UTF-8 sorts by code points
    }
    switch (a, b) {
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)):
        for (p, q) in zip(x.items, y.items) where !(try equal(p, q, run)) { return try less(p, q, run, sign) }
        return x.items.count < y.items.count
    default:
        try a.checkDefined()
        try b.checkDefined()
        throw TemplateFailure("'\(sign)' is not supported between '\(a.typeName)' and '\(b.typeName)'")
    }
}

func compare(_ op: ComparisonOperator, _ a: Value, _ b: Value, _ run: Run) throws -> Bool {
    switch op {
    case .equal: return try equal(a, b, run)
    case .notEqual: return !(try equal(a, b, run))
    case .isIn: return try contains(b, a, run)
    case .notIn: return !(try contains(b, a, run))
    case .less: return try less(a, b, run)
    case .greater: return try less(b, a, run, ">")
    case .lessOrEqual: return try lessOrEqual(a, b, run, "<=")
    case .greaterOrEqual: return try lessOrEqual(b, a, run, ">=")
    }
}

private func lessOrEqual(_ a: Value, _ b: Value, _ run: Run, _ sign: String) throws -> Bool {
    if case .float(let x) = a, x.isNaN { return false }
    if case .float(let y) = b, y.isNaN { return false }
    if try less(a, b, run, sign) { return true }
    return try equal(a, b, run)
}

/// `item in container`.
func contains(_ container: Value, _ item: Value, _ run: Run) throws -> Bool {
    switch container {
    case .string(let text), .markup(let text):
        guard let part = item.text else {
            try item.checkDefined()
            throw TemplateFailure("'in <string>' requires string as left operand, not \(item.typeName)")
        }
        return try find(part, in: text, run) != nil
    case .list(let list), .tuple(let list):
        for other in list.items {
            try run.work(16)
            if try equal(other, item, run) { return true }
        }
        return false
    case .dict(let dict): return try dict.value(for: item) != nil
    case .undefined: return false
    case .object(let object): return try object.contains(item, run)
    default: throw TemplateFailure("argument of type '\(container.typeName)' is not iterable")
    }
}

/// Byte offset of the first (or last) occurrence of `part`, whose bytes can only match at a character's start.
func find(_ part: String, in text: String, last: Bool = false, _ run: Run) throws -> Int? {
    try run.work(text.utf8.count)
    var (text, part) = (text, part)
    return try text.withUTF8 { text in
        try part.withUTF8 { part in last ? try findLast(part, in: text, run) : try findFirst(part, in: text[...], run) }
    }
}

/// Offset of the first occurrence. Texts made to be searched slowly run into the limit of time.
func findFirst(
    _ part: UnsafeBufferPointer<UInt8>, in text: Slice<UnsafeBufferPointer<UInt8>>, _ run: Run
) throws -> Int? {
    guard part.count <= text.count else { return nil }
    guard let first = part.first, let base = text.base.baseAddress else { return text.startIndex }
    var at = text.startIndex
    let last = text.endIndex - part.count
    while at <= last {
        guard let start = memchr(base + at, Int32(first), last - at + 1) else { return nil }
        at = UnsafeRawPointer(start) - UnsafeRawPointer(base)
        if part.count > 16 { try run.work(part.count) }
        if memcmp(base + at, part.baseAddress!, part.count) == 0 { return at }
        at += 1
    }
    return nil
}

private func findLast(
    _ part: UnsafeBufferPointer<UInt8>, in text: UnsafeBufferPointer<UInt8>, _ run: Run
) throws -> Int? {
    guard part.count <= text.count else { return nil }
    guard let first = part.first else { return text.count }
    for at in stride(from: text.count - part.count, through: 0, by: -1) where text[at] == first {
        try run.work(part.count)
        if memcmp(text.baseAddress! + at, part.baseAddress!, part.count) == 0 { return at }
    }
    return nil
}
