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

private func writeJSONString(_ text: String, to output: inout [UInt8], _ style: JSONStyle) {
    output.append(UInt8(ascii: "\""))
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": output.append(contentsOf: "\\\"".utf8)
        case "\\": output.append(contentsOf: "\\\\".utf8)
        case "\n": output.append(contentsOf: "\\n".utf8)
        case "\r": output.append(contentsOf: "\\r".utf8)
        case "\t": output.append(contentsOf: "\\t".utf8)
        case "\u{8}": output.append(contentsOf: "\\b".utf8)
        case "\u{C}": output.append(contentsOf: "\\f".utf8)
        default:
            if scalar.value < 0x20 || (style.escapesNonASCII && scalar.value > 0x7E) {
                for unit in UTF16.encode(scalar)! {
                    let hex = String(unit, radix: 16)
                    output.append(contentsOf: ("\\u" + String(repeating: "0", count: 4 - hex.count) + hex).utf8)
                }
            } else {
                output.append(contentsOf: UTF8.encode(scalar)!)
            }
        }
    }
    output.append(UInt8(ascii: "\""))
}
