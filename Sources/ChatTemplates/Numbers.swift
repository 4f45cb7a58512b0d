// Python's numbers: integers (64 bits here, with a clear error beyond), floats, and their operators.

#if canImport(Glibc)
    import Glibc
#else
    import Darwin
#endif

/// A bool, int or float as an operand.
enum Number {
    case int(Int)
    case float(Double)

    var double: Double {
        switch self {
        case .int(let value): Double(value)
        case .float(let value): value
        }
    }

    var value: Value {
        switch self {
        case .int(let value): .int(value)
        case .float(let value): .float(value)
        }
    }

    func isEqual(to other: Number) -> Bool {
        switch (self, other) {
        case (.int(let a), .int(let b)): a == b
        case (.float(let a), .float(let b)): a == b
        case (.int(let a), .float(let b)), (.float(let b), .int(let a)): Int(exactly: b) == a
        }
    }

    func isLess(than other: Number) -> Bool {
        switch (self, other) {
        case (.int(let a), .int(let b)): a < b
        default: double < other.double
        }
    }
}

extension Value {
    var number: Number? {
        switch self {
        case .bool(let value): .int(value ? 1 : 0)
        case .int(let value): .int(value)
        case .float(let value): .float(value)
        default: nil
        }
    }
}

let integerOverflow = TemplateFailure("an integer grew beyond 64 bits")

func checked(_ result: (partialValue: Int, overflow: Bool)) throws -> Int {
    if result.overflow { throw integerOverflow }
    return result.partialValue
}

/// Both operands as numbers.
func arithmetic(_ op: BinaryOperator, _ a: Number, _ b: Number) throws -> Value {
    if case .int(let a) = a, case .int(let b) = b { return try arithmetic(op, a, b) }
    let (x, y) = (a.double, b.double)
    switch op {
    case .add: return .float(x + y)
    case .subtract: return .float(x - y)
    case .multiply: return .float(x * y)
    case .divide:
        if y == 0 { throw TemplateFailure("division by zero") }
        return .float(x / y)
    case .floorDivide:
        if y == 0 { throw TemplateFailure("division by zero") }
        return .float(floorDivision(x, y).quotient)
    case .modulo:
        if y == 0 { throw TemplateFailure("division by zero") }
        return .float(floorDivision(x, y).remainder)
    case .power:
        if x == 0, y < 0 { throw TemplateFailure("0.0 cannot be raised to a negative power") }
        if x < 0, y.isFinite, y != y.rounded(.towardZero) { throw TemplateFailure("complex numbers are not supported") }
        let result = pow(x, y)
        if result.isInfinite, x.isFinite, y.isFinite { throw TemplateFailure("a power is too large") }
        return .float(result)
    }
}

/// Quotient rounded down and the remainder with the divisor's sign, as Python computes them.
private func floorDivision(_ x: Double, _ y: Double) -> (quotient: Double, remainder: Double) {
    var remainder = fmod(x, y)
    var quotient = (x - remainder) / y
    if remainder != 0 {
        if (y < 0) != (remainder < 0) {
            remainder += y
            quotient -= 1
        }
    } else {
        remainder = copysign(0, y)
    }
    if quotient != 0 {
        let whole = floor(quotient)
        quotient = quotient - whole > 0.5 ? whole + 1 : whole
    } else {
        quotient = copysign(0, x / y)
    }
    return (quotient, remainder)
}

private func arithmetic(_ op: BinaryOperator, _ a: Int, _ b: Int) throws -> Value {
    switch op {
    case .add: return .int(try checked(a.addingReportingOverflow(b)))
    case .subtract: return .int(try checked(a.subtractingReportingOverflow(b)))
    case .multiply: return .int(try checked(a.multipliedReportingOverflow(by: b)))
    case .divide:
        if b == 0 { throw TemplateFailure("division by zero") }
        return .float(Double(a) / Double(b))
    case .floorDivide, .modulo:
        if b == 0 { throw TemplateFailure("division by zero") }
        let quotient = try checked(a.dividedReportingOverflow(by: b))
        let remainder = a % b
        let roundsDown = remainder != 0 && (remainder < 0) != (b < 0)
        if op == .modulo { return .int(roundsDown ? remainder + b : remainder) }
        return .int(roundsDown ? quotient - 1 : quotient)
    case .power:
        if b < 0 { return try arithmetic(.power, .float(Double(a)), .float(Double(b))) }
        return .int(try power(a, b))
    }
}

private func power(_ base: Int, _ exponent: Int) throws -> Int {
    var (result, factor, rest) = (1, base, exponent)
    while rest > 0 {
        if rest & 1 == 1 { result = try checked(result.multipliedReportingOverflow(by: factor)) }
        rest >>= 1
        if rest > 0 { factor = try checked(factor.multipliedReportingOverflow(by: factor)) }
    }
    return result
}

/// The shortest digits that read back as `value`, spelled as Python's `repr`.
func pythonFloat(_ value: Double) -> String {
    if value.isNaN { return "nan" }
    if value.isInfinite { return value < 0 ? "-inf" : "inf" }
    if value == 0 { return value.sign == .minus ? "-0.0" : "0.0" }
    let (digits, exponent) = shortestDigits(abs(value))
    let sign = value < 0 ? "-" : ""
    if exponent < -4 || exponent >= 16 {
        let mantissa = digits.count == 1 ? digits : "\(digits.prefix(1)).\(digits.dropFirst())"
        let power = abs(exponent) < 10 ? "0\(abs(exponent))" : "\(abs(exponent))"
        return "\(sign)\(mantissa)e\(exponent < 0 ? "-" : "+")\(power)"
    }
    if exponent < 0 { return sign + "0." + String(repeating: "0", count: -exponent - 1) + digits }
    if digits.count <= exponent + 1 {
        return sign + digits + String(repeating: "0", count: exponent + 1 - digits.count) + ".0"
    }
    return "\(sign)\(digits.prefix(exponent + 1)).\(digits.dropFirst(exponent + 1))"
}

/// Significant digits without trailing zeros, and the power of ten of the first.
private func shortestDigits(_ value: Double) -> (String, Int) {
    let parts = value.description.split(separator: "e")
    var exponent = parts.count > 1 ? Int(parts[1])! : 0
    let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
    exponent += mantissa[0].utf8.count - 1
    var digits = Array(mantissa.joined().utf8)
    while digits.count > 1, digits.first == 0x30 {
        digits.removeFirst()
        exponent -= 1
    }
    while digits.count > 1, digits.last == 0x30 { digits.removeLast() }
    return (String(decoding: digits, as: UTF8.self), exponent)
}
