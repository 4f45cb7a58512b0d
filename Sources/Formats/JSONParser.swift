// Strict JSON (RFC 8259) with limits: depth, duplicate keys, UTF-8 and trailing bytes are all checked.

/// Why a text is not JSON.
public struct JSONError: Error, Equatable, CustomStringConvertible {
    public let reason: String
    /// Offset of the byte at fault.
    public let offset: Int
    /// The key at fault, where an object has it twice.
    public var repeatedKey: String?
    /// Line and column (in bytes) of that byte, from 1.
    public let line: Int, column: Int

    public var description: String { "not JSON at line \(line), column \(column): \(reason)" }
}

extension JSONValue {
    /// Reads one JSON text.
    ///
    /// - Parameters:
    ///   - maxDepth: nesting allowed; 256 is the limit for files from outside.
    ///   - takesRepeatedKeys: of a key that an object has twice the last value counts, as in Python; else it is refused.
    /// - Throws: `JSONError` for anything RFC 8259 does not allow, a repeated key, invalid UTF-8, a lone surrogate.
    public static func parse(
        _ bytes: UnsafeRawBufferPointer, maxDepth: Int = 256, takesRepeatedKeys: Bool = false
    ) throws(JSONError) -> JSONValue {
        var reader = JSONReader(bytes.assumingMemoryBound(to: UInt8.self), maxDepth: maxDepth)
        reader.takesRepeatedKeys = takesRepeatedKeys
        do {
            return try reader.document { try $0.value() }
        } catch let error as JSONError {
            throw error
        } catch {
            preconditionFailure("reading a value throws nothing else: \(error)")
        }
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

/// Reads a JSON text from its beginning to its end, value by value, for those who do not want all of it as `JSONValue`.
package struct JSONReader {
    private let bytes: UnsafeBufferPointer<UInt8>
    private let maxDepth: Int
    /// Offset of the byte to be read next.
    package private(set) var at = 0
    private var depth = 0
    fileprivate var takesRepeatedKeys = false
    /// A string while its escapes are read.
    private var unescaped: [UInt8] = []

    /// - Parameter start: where a value begins.
    package init(_ bytes: UnsafeBufferPointer<UInt8>, maxDepth: Int, from start: Int = 0) {
        (self.bytes, self.maxDepth, at) = (bytes, maxDepth, start)
    }

    /// The whole text, whose only value `read` reads.
    package mutating func document<R>(_ read: (inout JSONReader) throws -> R) throws -> R {
        if bytes.count >= 3, bytes[0] == 0xEF, bytes[1] == 0xBB, bytes[2] == 0xBF {
            throw failure("begins with a byte order mark; save the file as UTF-8 without one")
        }
        skipSpace()
        let result = try read(&self)
        skipSpace()
        if at < bytes.count {
            let place = at
            if take(UInt8(ascii: ",")) { skipSpace() }
            let isObject = at < bytes.count && bytes[at] == UInt8(ascii: "{")
            at = place
            throw failure(
                "something follows the value; "
                    + (isObject ? "objects stand one a line, or in [ ] with commas between them" : "remove it"))
        }
        return result
    }

    package func failure(_ reason: String, at offset: Int? = nil) -> JSONError {
        let offset = min(offset ?? at, bytes.count)
        var line = 1, lineStart = 0
        for i in 0..<offset where bytes[i] == 0x0A { (line, lineStart) = (line + 1, i + 1) }
        return JSONError(reason: reason, offset: offset, line: line, column: offset - lineStart + 1)
    }

    /// What to say of an object with a key that it had before.
    package func repeated(_ key: String, at offset: Int) -> JSONError {
        var error = failure("key \"\(printable(key, limit: 40))\" appears twice", at: offset)
        error.repeatedKey = key
        return error
    }

    private mutating func skipSpace() {
        while at < bytes.count {
            switch bytes[at] {
            case 0x20:
                // Files that are indented are half spaces.
                let areEight =
                    at + 8 <= bytes.count
                    && UnsafeRawPointer(bytes.baseAddress! + at).loadUnaligned(as: UInt64.self)
                        == 0x2020_2020_2020_2020
                at += areEight ? 8 : 1
            case 0x0A, 0x0D, 0x09: at += 1
            default: return
            }
        }
    }

    package mutating func value() throws -> JSONValue {
        guard at < bytes.count else { throw failure("the text ends where a value should be") }
        switch bytes[at] {
        case UInt8(ascii: "{"):
            return .object(try object { _, reader in try reader.value() })
        case UInt8(ascii: "["):
            var items: [JSONValue] = []
            try list { reader in items.append(try reader.value()) }
            return .array(items)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try number())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: throw foreignWord() ?? failure("unexpected character")
        }
    }

    private mutating func word(_ text: StaticString, _ value: JSONValue) throws -> JSONValue {
        let n = text.utf8CodeUnitCount
        for i in 0..<n where at + i >= bytes.count || bytes[at + i] != text.utf8Start[i] {
            throw foreignWord() ?? failure("unknown word")
        }
        at += n
        return value
    }

    /// What to say of a word that other programs write for a value; nil for anything else.
    private func foreignWord() -> JSONError? {
        let word = String(decoding: bytes[at...].prefix(10).prefix { ($0 | 0x20) &- 0x61 < 26 }, as: UTF8.self)
        let instead: String? =
            switch word {
            case "NaN", "nan", "Infinity", "inf": "null or a number"
            case "None", "undefined": "null"
            case "True", "False": word.lowercased()
            default: nil
            }
        return instead.map { failure("\(word) is no value of JSON; write \($0)") }
    }

    /// Reads an object; `member` reads a key (`string` or `text`), `colon`, and a value.
    package mutating func members(_ member: (inout JSONReader) throws -> Void) throws {
        guard take(UInt8(ascii: "{")) else { throw failure("an object should be here") }
        try items(UInt8(ascii: "}"), "a comma or } should be here") { reader in
            guard reader.at < reader.bytes.count, reader.bytes[reader.at] == UInt8(ascii: "\"") else {
                throw reader.failure("a key in quotes should be here")
            }
            try member(&reader)
        }
    }

    /// Reads an object whose values, given their keys, `value` reads.
    package mutating func object(_ value: (String, inout JSONReader) throws -> JSONValue) throws -> JSONObject {
        var object = JSONObject()
        try members { reader in
            let keyStart = reader.at
            let key = try reader.string()
            let isRepeated = object.position(of: key) != nil
            if isRepeated, !reader.takesRepeatedKeys { throw reader.repeated(key, at: keyStart) }
            try reader.colon()
            let value = try value(key, &reader)
            if isRepeated { object[key] = value } else { object.append(key, value) }
        }
        return object
    }

    /// Moves on from a key to its value.
    package mutating func colon() throws {
        skipSpace()
        guard take(UInt8(ascii: ":")) else { throw failure("a colon should be here") }
        skipSpace()
    }

    /// Reads a list; `item` reads a value.
    package mutating func list(_ item: (inout JSONReader) throws -> Void) throws {
        guard take(UInt8(ascii: "[")) else { throw failure("a list should be here") }
        try items(UInt8(ascii: "]"), "a comma or ] should be here", item)
    }

    private mutating func items(
        _ end: UInt8, _ expected: String, _ item: (inout JSONReader) throws -> Void
    ) throws {
        depth += 1
        defer { depth -= 1 }
        guard depth <= maxDepth else { throw failure("nested deeper than \(maxDepth)", at: at - 1) }
        skipSpace()
        if take(end) { return }
        while true {
            try item(&self)
            skipSpace()
            if take(end) { return }
            guard take(UInt8(ascii: ",")) else { throw failure(expected) }
            skipSpace()
        }
    }

    /// Reads a value and keeps nothing. Whether the keys of an object are distinct is not seen, unless it is inside.
    package mutating func skip() throws {
        func inner(_ reader: inout JSONReader) throws {
            if reader.next == UInt8(ascii: "{") { _ = try reader.value() } else { try reader.skip() }
        }
        switch next {
        case UInt8(ascii: "{"):
            try members { reader in
                try reader.text { _ in }
                try reader.colon()
                try inner(&reader)
            }
        case UInt8(ascii: "["): try list(inner)
        case UInt8(ascii: "\""): try text { _ in }
        default: if wholeNumber() == nil { _ = try value() }
        }
    }

    /// What kind of value is next: its first byte, 0 at the end of the text.
    package var next: UInt8 { at < bytes.count ? bytes[at] : 0 }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard at < bytes.count, bytes[at] == byte else { return false }
        at += 1
        return true
    }

    package mutating func number() throws -> JSONNumber {
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

    /// Reads a whole number of at most 18 digits; nil, and nothing read, where anything else is next.
    package mutating func wholeNumber() -> Int? {
        var value = 0, end = at
        while end < bytes.count, end - at < 18, bytes[end] &- 0x30 < 10 {
            value = value * 10 + Int(bytes[end] &- 0x30)
            end += 1
        }
        guard end > at, end == at + 1 || bytes[at] != 0x30, end < bytes.count, bytes[end] &- 0x30 >= 10,
            bytes[end] != UInt8(ascii: "."), bytes[end] | 0x20 != UInt8(ascii: "e")
        else { return nil }
        at = end
        return value
    }

    private mutating func digits() throws {
        let start = at
        while at < bytes.count, bytes[at] &- 0x30 < 10 { at += 1 }
        if at == start { throw foreignWord() ?? failure("a digit should be here") }
    }

    package mutating func string() throws -> String {
        try text { String(decoding: $0, as: UTF8.self) }
    }

    /// Reads a string whose bytes `body` takes.
    package mutating func text<R>(_ body: (UnsafeBufferPointer<UInt8>) -> R) throws -> R {
        guard take(UInt8(ascii: "\"")) else { throw failure("a string should be here") }
        let start = at
        var isASCII = plainRun()
        guard at < bytes.count else { throw failure("the text ends inside a string", at: start - 1) }
        if bytes[at] == UInt8(ascii: "\"") {  // the common case: nothing to unescape
            let text = UnsafeBufferPointer(rebasing: bytes[start..<at])
            guard isASCII || isValidUTF8(text) else { throw failure("invalid UTF-8 in a string", at: start) }
            at += 1
            return body(text)
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
        // Escapes may have added what is not ASCII, but never invalid UTF-8.
        guard isASCII || unescaped.withUnsafeBufferPointer({ isValidUTF8($0) }) else {
            throw failure("invalid UTF-8 in a string", at: start)
        }
        return unescaped.withUnsafeBufferPointer { body($0) }
    }

    /// Moves over what stands for itself in a string, eight bytes at a time; whether all of it was ASCII.
    private mutating func plainRun() -> Bool {
        let ones: UInt64 = 0x0101_0101_0101_0101, high = ones << 7
        var seen: UInt64 = 0
        while at + 8 <= bytes.count {
            let word = UnsafeRawPointer(bytes.baseAddress! + at).loadUnaligned(as: UInt64.self).littleEndian
            let quote = word ^ ones * 0x22, backslash = word ^ ones * 0x5C
            // The highest bit of a byte that ends the run, and perhaps of some after it.
            let ends =
                ((quote &- ones) & ~quote | (backslash &- ones) & ~backslash | (word &- ones * 0x20) & ~word) & high
            guard ends == 0 else {
                let count = ends.trailingZeroBitCount / 8
                at += count
                return (seen | word & ((1 << (8 * UInt64(count))) - 1)) & high == 0
            }
            seen |= word
            at += 8
        }
        while at < bytes.count {
            let byte = bytes[at]
            if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") || byte < 0x20 { break }
            seen |= UInt64(byte)
            at += 1
        }
        return seen & high == 0
    }

    private mutating func escape() throws {
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

    private mutating func hex4() throws -> UInt32 {
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
