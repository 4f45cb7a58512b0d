// Strict JSON (RFC 8259) with limits: depth, duplicate keys, UTF-8 and trailing bytes are all checked.

/// Why a text is not JSON.
public struct JSONError: Error, Equatable, CustomStringConvertible {
    public let reason: String
    /// Offset of the byte at fault.
    public let offset: Int
    /// Line and column (in bytes) of that byte, from 1.
    public let line: Int, column: Int

    public var description: String { "not JSON at line \(line), column \(column): \(reason)" }
}

extension JSONValue {
    /// Reads one JSON text.
    ///
    /// - Parameter maxDepth: nesting allowed; 256 is the limit for files from outside.
    /// - Throws: `JSONError` for anything RFC 8259 does not allow, a duplicate key, invalid UTF-8, a lone surrogate.
    public static func parse(_ bytes: UnsafeRawBufferPointer, maxDepth: Int = 256) throws(JSONError) -> JSONValue {
        var parser = JSONParser(bytes: bytes, maxDepth: maxDepth)
        return try parser.document()
    }

    public static func parse(_ bytes: [UInt8], maxDepth: Int = 256) throws(JSONError) -> JSONValue {
        let result: Result<JSONValue, JSONError> = bytes.withUnsafeBytes { buffer in
            do throws(JSONError) {
                return .success(try parse(buffer, maxDepth: maxDepth))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    public static func parse(_ text: String, maxDepth: Int = 256) throws(JSONError) -> JSONValue {
        var text = text
        let result: Result<JSONValue, JSONError> = text.withUTF8 { buffer in
            do throws(JSONError) {
                return .success(try parse(UnsafeRawBufferPointer(buffer), maxDepth: maxDepth))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}

private struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    let maxDepth: Int
    var at = 0
    /// A string while its escapes are read.
    var unescaped: [UInt8] = []

    init(bytes: UnsafeRawBufferPointer, maxDepth: Int) {
        self.bytes = bytes.assumingMemoryBound(to: UInt8.self)
        self.maxDepth = maxDepth
    }

    mutating func document() throws(JSONError) -> JSONValue {
        if bytes.count >= 3, bytes[0] == 0xEF, bytes[1] == 0xBB, bytes[2] == 0xBF {
            throw failure("begins with a byte order mark; save the file as UTF-8 without one")
        }
        skipSpace()
        let result = try value(depth: 0)
        skipSpace()
        if at < bytes.count { throw failure("something follows the value") }
        return result
    }

    func failure(_ reason: String, at offset: Int? = nil) -> JSONError {
        let offset = min(offset ?? at, bytes.count)
        var line = 1, lineStart = 0
        for i in 0..<offset where bytes[i] == 0x0A { (line, lineStart) = (line + 1, i + 1) }
        return JSONError(reason: reason, offset: offset, line: line, column: offset - lineStart + 1)
    }

    mutating func skipSpace() {
        while at < bytes.count {
            switch bytes[at] {
            case 0x20, 0x0A, 0x0D, 0x09: at += 1
            default: return
            }
        }
    }

    mutating func value(depth: Int) throws(JSONError) -> JSONValue {
        guard at < bytes.count else { throw failure("the text ends where a value should be") }
        switch bytes[at] {
        case UInt8(ascii: "{"): return try object(depth: depth + 1)
        case UInt8(ascii: "["): return try array(depth: depth + 1)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try number())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: throw failure("unexpected character")
        }
    }

    mutating func word(_ text: StaticString, _ value: JSONValue) throws(JSONError) -> JSONValue {
        let n = text.utf8CodeUnitCount
        for i in 0..<n where at + i >= bytes.count || bytes[at + i] != text.utf8Start[i] {
            throw failure("unknown word")
        }
        at += n
        return value
    }

    mutating func object(depth: Int) throws(JSONError) -> JSONValue {
        guard depth <= maxDepth else { throw failure("nested deeper than \(maxDepth)") }
        var object = JSONObject()
        at += 1
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(object) }
        while true {
            guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else {
                throw failure("a key in quotes should be here")
            }
            let keyStart = at
            let key = try string()
            if object.position(of: key) != nil {
                throw failure("key \"\(key.prefix(40))\" appears twice", at: keyStart)
            }
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw failure("a colon should be here") }
            skipSpace()
            object.append(key, try value(depth: depth))
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(object) }
            guard take(UInt8(ascii: ",")) else { throw failure("a comma or } should be here") }
            skipSpace()
        }
    }

    mutating func array(depth: Int) throws(JSONError) -> JSONValue {
        guard depth <= maxDepth else { throw failure("nested deeper than \(maxDepth)") }
        var items: [JSONValue] = []
        at += 1
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(items) }
        while true {
            items.append(try value(depth: depth))
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(items) }
            guard take(UInt8(ascii: ",")) else { throw failure("a comma or ] should be here") }
            skipSpace()
        }
    }

    mutating func take(_ byte: UInt8) -> Bool {
        guard at < bytes.count, bytes[at] == byte else { return false }
        at += 1
        return true
    }

    mutating func number() throws(JSONError) -> JSONNumber {
        let start = at
        _ = take(UInt8(ascii: "-"))
        if !take(UInt8(ascii: "0")) { try digits() }
        var isPlain = at - start <= 18
        if take(UInt8(ascii: ".")) {
            isPlain = false
            try digits()
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            isPlain = false
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try digits()
        }
        let literal = String(decoding: UnsafeBufferPointer(rebasing: bytes[start..<at]), as: UTF8.self)
        guard isPlain || Double(literal)?.isFinite == true else { throw failure("number out of range", at: start) }
        return JSONNumber(validatedLiteral: literal)
    }

    mutating func digits() throws(JSONError) {
        let start = at
        while at < bytes.count, bytes[at] &- 0x30 < 10 { at += 1 }
        if at == start { throw failure("a digit should be here") }
    }

    mutating func string() throws(JSONError) -> String {
        let start = at + 1
        at = start
        var isASCII = plainRun()
        guard at < bytes.count else { throw failure("the text ends inside a string", at: start - 1) }
        if bytes[at] == UInt8(ascii: "\"") {  // the common case: nothing to unescape
            defer { at += 1 }
            return try text(UnsafeBufferPointer(rebasing: bytes[start..<at]), isASCII: isASCII, start)
        }
        unescaped.removeAll(keepingCapacity: true)
        var runStart = start
        while true {
            unescaped.append(contentsOf: UnsafeBufferPointer(rebasing: bytes[runStart..<at]))
            guard at < bytes.count else { throw failure("the text ends inside a string", at: start - 1) }
            let byte = bytes[at]
            at += 1
            if byte == UInt8(ascii: "\"") { break }
            if byte < 0x20 { throw failure("control character in a string must be escaped", at: at - 1) }
            try escape()
            runStart = at
            isASCII = plainRun() && isASCII
        }
        let result: Result<String, JSONError> = unescaped.withUnsafeBufferPointer { buffer in
            do throws(JSONError) {
                // Escapes may have added what is not ASCII, but never invalid UTF-8.
                return .success(try text(buffer, isASCII: isASCII, start))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// Moves over what stands for itself in a string; whether all of it was ASCII.
    mutating func plainRun() -> Bool {
        var seen: UInt8 = 0, i = at
        while i < bytes.count {
            let byte = bytes[i]
            if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") || byte < 0x20 { break }
            seen |= byte
            i += 1
        }
        at = i
        return seen < 0x80
    }

    func text(_ buffer: UnsafeBufferPointer<UInt8>, isASCII: Bool, _ start: Int) throws(JSONError) -> String {
        guard isASCII || isValidUTF8(buffer) else { throw failure("invalid UTF-8 in a string", at: start) }
        return String(decoding: buffer, as: UTF8.self)
    }

    mutating func escape() throws(JSONError) {
        guard at < bytes.count else { throw failure("the text ends inside a string") }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): unescaped.append(byte)
        case UInt8(ascii: "b"): unescaped.append(0x08)
        case UInt8(ascii: "f"): unescaped.append(0x0C)
        case UInt8(ascii: "n"): unescaped.append(0x0A)
        case UInt8(ascii: "r"): unescaped.append(0x0D)
        case UInt8(ascii: "t"): unescaped.append(0x09)
        case UInt8(ascii: "u"):
            let start = at - 2
            var code = try hex4()
            if (0xD800..<0xDC00).contains(code), at + 1 < bytes.count, bytes[at] == UInt8(ascii: "\\"),
                bytes[at + 1] == UInt8(ascii: "u")
            {
                at += 2
                let low = try hex4()
                guard (0xDC00..<0xE000).contains(low) else { throw failure("lone surrogate", at: start) }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw failure("lone surrogate", at: start) }
            appendUTF8(scalar, to: &unescaped)
        default: throw failure("unknown escape", at: at - 1)
        }
    }

    mutating func hex4() throws(JSONError) -> UInt32 {
        var code: UInt32 = 0
        for _ in 0..<4 {
            let byte = at < bytes.count ? bytes[at] : 0
            let digit: UInt8
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = byte - 0x30
            case UInt8(ascii: "a")...UInt8(ascii: "f"): digit = byte - 0x57
            case UInt8(ascii: "A")...UInt8(ascii: "F"): digit = byte - 0x37
            default: throw failure("four hexadecimal digits should be here")
            }
            code = code << 4 | UInt32(digit)
            at += 1
        }
        return code
    }
}

private func appendUTF8(_ scalar: Unicode.Scalar, to output: inout [UInt8]) {
    let value = scalar.value
    func tail(_ shift: UInt32) -> UInt8 { UInt8(0x80 | value >> shift & 0x3F) }
    switch value {
    case ..<0x80: output.append(UInt8(value))
    case ..<0x800:
        output.append(UInt8(0xC0 | value >> 6))
        output.append(tail(0))
    case ..<0x10000:
        output.append(UInt8(0xE0 | value >> 12))
        output.append(tail(6))
        output.append(tail(0))
    default:
        output.append(UInt8(0xF0 | value >> 18))
        output.append(tail(12))
        output.append(tail(6))
        output.append(tail(0))
    }
}
