// JSON out: compact rows, indented files, and the spellings other tools compare bytes with.

/// How a value is spelled.
public struct JSONStyle: Sendable {
    /// Spaces a level; nil puts everything on one line.
    public var indent: Int?
    public var itemSeparator: String
    public var keySeparator: String
    /// `\u` escapes for everything outside ASCII, as Python's `json.dumps` does by default.
    public var escapesNonASCII: Bool
    public var sortsKeys: Bool

    public init(
        indent: Int? = nil, itemSeparator: String = ",", keySeparator: String = ":", escapesNonASCII: Bool = false,
        sortsKeys: Bool = false
    ) {
        (self.indent, self.itemSeparator, self.keySeparator) = (indent, itemSeparator, keySeparator)
        (self.escapesNonASCII, self.sortsKeys) = (escapesNonASCII, sortsKeys)
    }

    /// `{"a":1}`: rows of JSONL files.
    public static let compact = JSONStyle()
    /// Two spaces a level, as Hugging Face writes its files.
    public static let pretty = JSONStyle(indent: 2, keySeparator: ": ")
    /// `{"a": 1, "b": 2}`: Python's `json.dumps(x, ensure_ascii=False)`.
    public static let python = JSONStyle(itemSeparator: ", ", keySeparator: ": ")
}

extension JSONValue {
    public func serialized(_ style: JSONStyle = .compact) -> String {
        var output: [UInt8] = []
        write(to: &output, style, level: 0)
        return String(decoding: output, as: UTF8.self)
    }

    func write(to output: inout [UInt8], _ style: JSONStyle, level: Int) {
        switch self {
        case .null: output.append(contentsOf: "null".utf8)
        case .bool(let value): output.append(contentsOf: (value ? "true" : "false").utf8)
        case .number(let value): output.append(contentsOf: value.literal.utf8)
        case .string(let value): writeJSONString(value, to: &output, style)
        case .array(let items):
            writeList(items, "[", "]", to: &output, style, level) { $0.write(to: &$1, style, level: level + 1) }
        case .object(let object):
            let pairs =
                style.sortsKeys
                ? object.sorted { $0.0.unicodeScalars.lexicographicallyPrecedes($1.0.unicodeScalars) } : Array(object)
            writeList(pairs, "{", "}", to: &output, style, level) { pair, output in
                writeJSONString(pair.0, to: &output, style)
                output.append(contentsOf: style.keySeparator.utf8)
                pair.1.write(to: &output, style, level: level + 1)
            }
        }
    }
}

private func writeList<Item>(
    _ items: [Item], _ open: String, _ close: String, to output: inout [UInt8], _ style: JSONStyle, _ level: Int,
    _ writeItem: (Item, inout [UInt8]) -> Void
) {
    output.append(contentsOf: open.utf8)
    for (i, item) in items.enumerated() {
        if i > 0 { output.append(contentsOf: style.itemSeparator.utf8) }
        if let indent = style.indent { newLine(&output, (level + 1) * indent) }
        writeItem(item, &output)
    }
    if let indent = style.indent, !items.isEmpty { newLine(&output, level * indent) }
    output.append(contentsOf: close.utf8)
}

private func newLine(_ output: inout [UInt8], _ spaces: Int) {
    output.append(0x0A)
    output.append(contentsOf: repeatElement(0x20, count: spaces))
}

/// Appends a text as a JSON string, in quotes.
private func writeJSONString(_ text: String, to output: inout [UInt8], _ style: JSONStyle) {
    var text = text
    output.append(UInt8(ascii: "\""))
    text.withUTF8 { bytes in
        var runStart = 0, at = 0
        while at < bytes.count {
            let byte = bytes[at]
            let isPlain =
                byte >= 0x20 && byte != UInt8(ascii: "\"") && byte != UInt8(ascii: "\\")
                && (byte < 0x7F || !style.escapesNonASCII)
            if isPlain {
                at += 1
                continue
            }
            output.append(contentsOf: UnsafeBufferPointer(rebasing: bytes[runStart..<at]))
            at += writeEscape(bytes, at, to: &output)
            runStart = at
        }
        output.append(contentsOf: UnsafeBufferPointer(rebasing: bytes[runStart...]))
    }
    output.append(UInt8(ascii: "\""))
}

/// Appends the escape of the character at `at`; returns its number of bytes.
private func writeEscape(_ bytes: UnsafeBufferPointer<UInt8>, _ at: Int, to output: inout [UInt8]) -> Int {
    switch bytes[at] {
    case UInt8(ascii: "\""): output.append(contentsOf: "\\\"".utf8)
    case UInt8(ascii: "\\"): output.append(contentsOf: "\\\\".utf8)
    case 0x0A: output.append(contentsOf: "\\n".utf8)
    case 0x0D: output.append(contentsOf: "\\r".utf8)
    case 0x09: output.append(contentsOf: "\\t".utf8)
    case 0x08: output.append(contentsOf: "\\b".utf8)
    case 0x0C: output.append(contentsOf: "\\f".utf8)
    default:
        let length = bytes[at] < 0x80 ? 1 : bytes[at] < 0xE0 ? 2 : bytes[at] < 0xF0 ? 3 : 4
        let character = String(decoding: UnsafeBufferPointer(rebasing: bytes[at..<at + length]), as: UTF8.self)
        for unit in character.utf16 {
            let hex = String(unit, radix: 16)
            output.append(contentsOf: ("\\u" + String(repeating: "0", count: 4 - hex.count) + hex).utf8)
        }
        return length
    }
    return 1
}

extension JSONValue {
    /// Appends the compact form.
    public func write(to output: inout [UInt8]) { write(to: &output, .compact, level: 0) }
}
