// `tojson` as `transformers` defines it: Python's `json.dumps`, without HTML escapes.

struct JSONText {
    var indent: String?
    var itemSeparator = ", "
    var keySeparator = ": "
    var escapesNonASCII = false
    var sortsKeys = false

    mutating func setIndent(_ value: Value, _ run: Run) throws {
        if value.isNone { return }
        if let text = value.text {
            indent = text
        } else {
            let width = max(0, try integerArgument(value))
            try run.charge(text: width)
            indent = String(repeating: " ", count: width)
        }
        itemSeparator = ","
    }

    func text(of value: Value, _ run: Run) throws -> String {
        var output = ""
        try write(value, to: &output, level: 0, run)
        try run.charge(text: output.utf8.count)
        return output
    }

    private func write(_ value: Value, to output: inout String, level: Int, _ run: Run) throws {
        try run.step()
        if output.utf8.count > run.limits.outputBytes { try run.charge(text: output.utf8.count) }
        switch value {
        case .null: output += "null"
        case .bool(let flag): output += flag ? "true" : "false"
        case .int(let number): output += String(number)
        case .float(let number): output += spelled(number)
        case .string(let text), .markup(let text):
            try run.work(text.utf8.count)
            writeString(text, to: &output)
        case .list(let list), .tuple(let list):
            try writeItems(list.items, "[", "]", to: &output, level, run) { item, output in
                try write(item, to: &output, level: level + 1, run)
            }
        case .dict(let dict): try writeDict(dict, to: &output, level, run)
        case .object(let group as Group):
            try write(.list(try List(try group.items(run)!)), to: &output, level: level, run)
        case .undefined, .object:
            try value.checkDefined()
            throw TemplateFailure("an object of type \(value.typeName) is not JSON serializable")
        }
    }

    private func spelled(_ number: Double) -> String {
        number.isNaN ? "NaN" : number.isInfinite ? (number < 0 ? "-Infinity" : "Infinity") : pythonFloat(number)
    }

    private func writeDict(_ dict: Dict, to output: inout String, _ level: Int, _ run: Run) throws {
        var pairs = Array(try dict.pairs())
        if sortsKeys { pairs = try pairs.sorted { try less($0.0, $1.0, run) } }
        try writeItems(pairs, "{", "}", to: &output, level, run) { pair, output in
            writeString(try keyText(pair.0), to: &output)
            output += keySeparator
            try write(pair.1, to: &output, level: level + 1, run)
        }
    }

    private func keyText(_ key: Value) throws -> String {
        switch key {
        case .string(let text), .markup(let text): text
        case .null: "null"
        case .bool(let flag): flag ? "true" : "false"
        case .int(let number): String(number)
        case .float(let number): spelled(number)
        default: throw TemplateFailure("keys must be text, numbers, booleans or none, not \(key.typeName)")
        }
    }

    private func writeItems<Item>(
        _ items: [Item], _ open: String, _ close: String, to output: inout String, _ level: Int, _ run: Run,
        _ writeItem: (Item, inout String) throws -> Void
    ) throws {
        output += open
        for (i, item) in items.enumerated() {
            if i > 0 { output += itemSeparator }
            try startLine(&output, level + 1, run)
            try writeItem(item, &output)
        }
        if !items.isEmpty { try startLine(&output, level, run) }
        output += close
    }

    private func startLine(_ output: inout String, _ level: Int, _ run: Run) throws {
        guard let indent else { return }
        try run.charge(text: output.utf8.count + indent.utf8.count * level)
        output += "\n" + String(repeating: indent, count: level)
    }

    private func writeString(_ text: String, to output: inout String) {
        output += "\""
        if !text.utf8.contains(where: { $0 < 0x20 || $0 == 0x22 || $0 == 0x5C || (escapesNonASCII && $0 > 0x7E) }) {
            output += text
        } else {
            for scalar in text.unicodeScalars { writeScalar(scalar, to: &output) }
        }
        output += "\""
    }

    private func writeScalar(_ scalar: Unicode.Scalar, to output: inout String) {
        switch scalar {
        case "\"": output += "\\\""
        case "\\": output += "\\\\"
        case "\n": output += "\\n"
        case "\r": output += "\\r"
        case "\t": output += "\\t"
        case "\u{8}": output += "\\b"
        case "\u{C}": output += "\\f"
        default:
            if scalar.value < 0x20 || (escapesNonASCII && scalar.value > 0x7E) {
                for unit in String(scalar).utf16 { output += "\\u" + hex(UInt32(unit), width: 4) }
            } else {
                output.unicodeScalars.append(scalar)
            }
        }
    }
}
