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
            do throws(JSONError) { return .success(try parse(buffer, maxDepth: maxDepth)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    public static func parse(_ text: String, maxDepth: Int = 256) throws(JSONError) -> JSONValue {
        try parse(Array(text.utf8), maxDepth: maxDepth)
    }
}

private struct JSONParser {
    let bytes: UnsafeRawBufferPointer
    let maxDepth: Int
    var at = 0

    init(bytes: UnsafeRawBufferPointer, maxDepth: Int) {
        self.bytes = bytes
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
        for i in 0..<n where at + i >= bytes.count || bytes[at + i] != text.utf8Start[i] { throw failure("unknown word") }
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
            guard at < bytes.count, bytes[at] == UInt8(ascii: "\"") else { throw failure("a key in quotes should be here") }
            let keyStart = at
            let key = try string()
            if object.position(of: key) != nil { throw failure("key \"\(key.prefix(40))\" appears twice", at: keyStart) }
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
        if take(UInt8(ascii: ".")) { try digits() }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try digits()
        }
        let literal = String(decoding: bytes[start..<at], as: UTF8.self)
        guard Double(literal)?.isFinite == true else { throw failure("number out of range", at: start) }
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
        while at < bytes.count, bytes[at] != UInt8(ascii: "\""), bytes[at] != UInt8(ascii: "\\"), bytes[at] >= 0x20 { at += 1 }
        guard at < bytes.count else { throw failure("the text ends inside a string", at: start - 1) }
        if bytes[at] == UInt8(ascii: "\"") {  // the common case: nothing to unescape
            defer { at += 1 }
            return try utf8(UnsafeRawBufferPointer(rebasing: bytes[start..<at]), start)
        }
        var unescaped = Array(bytes[start..<at])
        while true {
            guard at < bytes.count else { throw failure("the text ends inside a string", at: start - 1) }
            let byte = bytes[at]
            at += 1
            if byte == UInt8(ascii: "\"") { break }
            if byte < 0x20 { throw failure("control character in a string must be escaped", at: at - 1) }
            if byte == UInt8(ascii: "\\") { try escape(into: &unescaped) } else { unescaped.append(byte) }
        }
        let result: Result<String, JSONError> = unescaped.withUnsafeBytes { buffer in
            do throws(JSONError) { return .success(try utf8(buffer, start)) } catch { return .failure(error) }
        }
        return try result.get()
    }

    func utf8(_ buffer: UnsafeRawBufferPointer, _ start: Int) throws(JSONError) -> String {
        guard let text = String(validating: buffer, as: UTF8.self) else { throw failure("invalid UTF-8 in a string", at: start) }
        return text
    }

    mutating func escape(into output: inout [UInt8]) throws(JSONError) {
        guard at < bytes.count else { throw failure("the text ends inside a string") }
        let byte = bytes[at]
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): output.append(byte)
        case UInt8(ascii: "b"): output.append(0x08)
        case UInt8(ascii: "f"): output.append(0x0C)
        case UInt8(ascii: "n"): output.append(0x0A)
        case UInt8(ascii: "r"): output.append(0x0D)
        case UInt8(ascii: "t"): output.append(0x09)
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
            output.append(contentsOf: UTF8.encode(scalar)!)
        default: throw failure("unknown escape", at: at - 1)
        }
    }

    mutating func hex4() throws(JSONError) -> UInt32 {
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard at < bytes.count, let digit = Character(Unicode.Scalar(bytes[at])).hexDigitValue else {
                throw failure("four hexadecimal digits should be here")
            }
            code = code << 4 | UInt32(digit)
            at += 1
        }
        return code
    }
}
