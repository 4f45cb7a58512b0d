// Finds where the rows of a mapped file begin and end, without building them: one pass, no copies.
import Formats
import Glibc

/// The longest row that is read.
let maxRowBytes = 64 << 20

/// What of a text file makes one document.
public enum TextUnit: String, Sendable, Codable, CaseIterable {
    case file, line
    /// Parts between blank lines.
    case paragraph
}

/// The extent of one row in its file, or the fault that hides it.
struct ScannedRow: Sendable {
    var bytes: Range<Int>
    /// From 1, in the unit of the file's format.
    var number: Int
    var fault: RowFault?
    /// Whether rows may stand behind this one that cannot be found because of its fault.
    var hidesOthers = false
}

/// Walks over the rows of one file. Faults of the file's structure come out as rows, and the walk ends where it cannot
/// find its way any more.
struct RowScanner {
    private let bytes: UnsafeRawBufferPointer
    private let format: FileFormat
    private let textUnit: TextUnit
    private let separator: UInt8
    private var at: Int
    private var number = 0
    private var ended = false

    init(_ bytes: UnsafeRawBufferPointer, _ format: FileFormat, textUnit: TextUnit, separator: UInt8) {
        (self.bytes, self.format, self.textUnit, self.separator) = (bytes, format, textUnit, separator)
        at = byteOrderMarkLength(bytes)
        if format == .json { enterArray() }
    }

    mutating func next() -> ScannedRow? {
        if ended { return nil }
        var row: ScannedRow? =
            switch format {
            case .jsonl, .parquet, .arrow: nextLine()
            case .json: nextElement()
            case .csv, .tsv: nextRecord()
            case .text: nextDocument()
            }
        if let found = row, found.fault == nil, found.bytes.count > maxRowBytes {
            let hint = format == .text ? "; take lines or paragraphs for rows (text_unit)" : ""
            row?.fault = RowFault(.tooLong, "longer than \(maxRowBytes >> 20) MiB\(hint)")
        }
        return row
    }

    /// The next `count` rows, or all where there are fewer.
    mutating func next(_ count: Int) -> [ScannedRow] {
        var rows: [ScannedRow] = []
        while rows.count < count, let row = next() { rows.append(row) }
        return rows
    }

    // MARK: lines

    /// The next line that is not blank, without its end.
    private mutating func nextLine() -> ScannedRow? {
        while at < bytes.count {
            let line = takeLine()
            number += 1
            if !isBlank(line) { return ScannedRow(bytes: line, number: number) }
        }
        return nil
    }

    private mutating func takeLine() -> Range<Int> {
        let start = at
        let found = memchr(bytes.baseAddress! + start, 0x0A, bytes.count - start)
        let end = found.map { UnsafeRawPointer($0) - bytes.baseAddress! } ?? bytes.count
        at = min(end + 1, bytes.count)
        return start..<(end > start && bytes[end - 1] == 0x0D ? end - 1 : end)
    }

    private func isBlank(_ range: Range<Int>) -> Bool { bytes[range].allSatisfy(isJSONSpace) }

    // MARK: JSON arrays

    private mutating func skipSpace() { while at < bytes.count, isJSONSpace(bytes[at]) { at += 1 } }

    private mutating func enterArray() {
        skipSpace()
        if at < bytes.count, bytes[at] == UInt8(ascii: "[") { at += 1 } else { isArray = false }
        skipSpace()
        if at < bytes.count, bytes[at] == UInt8(ascii: "]") { finishArray() }
    }

    private mutating func finishArray() {
        at += 1
        skipSpace()
        ended = at == bytes.count
    }

    /// Whether a JSON file began as one.
    private var isArray = true

    private mutating func unreadable(_ start: Int, _ detail: String, hidesOthers: Bool) -> ScannedRow {
        ended = true
        return ScannedRow(
            bytes: start..<at, number: number, fault: RowFault(.invalidJSON, detail), hidesOthers: hidesOthers)
    }

    /// One element of the outer array: up to the comma or bracket that stands outside strings and inner brackets.
    private mutating func nextElement() -> ScannedRow? {
        number += 1
        skipSpace()
        let start = at
        guard isArray else {
            return unreadable(start, "a JSON file is an array of rows, [{...}, ...]", hidesOthers: true)
        }
        // What closes the brackets that are open.
        var open: [UInt8] = []
        while at < bytes.count {
            let byte = bytes[at]
            switch byte {
            case UInt8(ascii: "\""): skipString()
            case UInt8(ascii: "{"), UInt8(ascii: "["): open.append(byte + 2)
            case UInt8(ascii: "}"), UInt8(ascii: "]"):
                guard let wanted = open.popLast() else {
                    if byte == UInt8(ascii: "]") { return lastElement(start) }
                    return unreadable(start, "a } closes what was not opened", hidesOthers: true)
                }
                if byte != wanted {
                    let (found, due) = (Character(Unicode.Scalar(byte)), Character(Unicode.Scalar(wanted)))
                    return unreadable(start, "a \(found) where a \(due) should be", hidesOthers: true)
                }
            case UInt8(ascii: ",") where open.isEmpty:
                at += 1
                return ScannedRow(bytes: start..<at - 1, number: number)
            default: break
            }
            at += 1
        }
        at = min(at, bytes.count)
        let what =
            !open.isEmpty ? "inside this row; a } or ] of it is missing" : "inside its JSON array; a ] is missing"
        return unreadable(start, "the file ends \(what)", hidesOthers: !open.isEmpty)
    }

    /// `at` is on the closing bracket; what stands behind it is a fault of its own.
    private mutating func lastElement(_ start: Int) -> ScannedRow {
        let range = start..<at
        finishArray()
        if ended { return ScannedRow(bytes: range, number: number) }
        return unreadable(start, "something follows the end of the JSON array; one array per file", hidesOthers: true)
    }

    /// Leaves `at` on the closing quote, or at the end of the file.
    private mutating func skipString() {
        at += 1
        while at < bytes.count, bytes[at] != UInt8(ascii: "\"") { at += bytes[at] == UInt8(ascii: "\\") ? 2 : 1 }
    }

    // MARK: CSV

    /// One record: up to a line end outside quotes. Blank lines are skipped.
    private mutating func nextRecord() -> ScannedRow? {
        while at < bytes.count, bytes[at] == 0x0A || bytes[at] == 0x0D {
            if bytes[at] == 0x0A { line += 1 }
            at += 1
        }
        guard at < bytes.count else { return nil }
        let start = at
        number = line
        var fieldStart = true, inQuotes = false
        while at < bytes.count {
            let byte = bytes[at]
            if inQuotes {
                if byte == UInt8(ascii: "\"") { inQuotes = false }  // a doubled quote opens again at the next byte
            } else if byte == UInt8(ascii: "\"") {
                inQuotes = fieldStart || bytes[at - 1] == UInt8(ascii: "\"") && quoteOpened
            } else if byte == 0x0A {
                break
            }
            if byte == UInt8(ascii: "\""), fieldStart { quoteOpened = true }
            fieldStart = !inQuotes && byte == separator
            if fieldStart { quoteOpened = false }
            if byte == 0x0A { line += 1 }
            at += 1
        }
        quoteOpened = false
        let end = at > start && bytes[at - 1] == 0x0D ? at - 1 : at
        at = min(at + 1, bytes.count)
        var row = ScannedRow(bytes: start..<end, number: number)
        if inQuotes {
            row.fault = RowFault(.unterminatedQuote, "a quote opened in this record is never closed")
            row.hidesOthers = line > number
            ended = true
        } else {
            line += 1
        }
        return row
    }

    /// Of `at` in a table, from 1.
    private var line = 1

    /// Whether the field at hand began with a quote.
    private var quoteOpened = false

    // MARK: text

    private mutating func nextDocument() -> ScannedRow? {
        switch textUnit {
        case .file:
            ended = true
            return ScannedRow(bytes: at..<bytes.count, number: 1)
        case .line:
            while at < bytes.count {
                let line = takeLine()
                if isBlank(line) { continue }
                number += 1
                return ScannedRow(bytes: line, number: number)
            }
            return nil
        case .paragraph:
            var paragraph: Range<Int>?
            while at < bytes.count {
                let line = takeLine()
                if !isBlank(line) {
                    paragraph = (paragraph?.lowerBound ?? line.lowerBound)..<line.upperBound
                } else if paragraph != nil {
                    break
                }
            }
            number += 1
            return paragraph.map { ScannedRow(bytes: $0, number: number) }
        }
    }
}

/// The fields of one CSV record (RFC 4180); a quote inside an unquoted field stands for itself.
func csvFields(_ record: UnsafeRawBufferPointer, separator: UInt8) throws(RowFault) -> [String] {
    var fields: [String] = []
    var at = 0
    while true {
        var field: [UInt8] = []
        if at < record.count, record[at] == UInt8(ascii: "\"") {
            at = try quotedField(record, from: at + 1, into: &field)
            if at < record.count, record[at] != separator {
                let place = "column \(fields.count + 1)"
                throw RowFault(
                    .strayQuote, "\(place): text after the closing quote; double the quotes inside a quoted field")
            }
        } else {
            let end = record[at...].firstIndex(of: separator) ?? record.count
            field.append(contentsOf: record[at..<end])
            at = end
        }
        do {
            fields.append(try validText(field))
        } catch {
            throw RowFault(error.reason, "column \(fields.count + 1): \(error.detail)")
        }
        if at >= record.count { return fields }
        at += 1
    }
}

/// Reads up to the closing quote; returns the offset behind it.
private func quotedField(_ record: UnsafeRawBufferPointer, from start: Int, into field: inout [UInt8]) throws(RowFault)
    -> Int
{
    var at = start
    while at < record.count {
        if record[at] != UInt8(ascii: "\"") {
            field.append(record[at])
            at += 1
        } else if at + 1 < record.count, record[at + 1] == UInt8(ascii: "\"") {
            field.append(UInt8(ascii: "\""))
            at += 2
        } else {
            return at + 1
        }
    }
    throw RowFault(.unterminatedQuote, "a quote opened in this record is never closed")
}

/// UTF-8 without NUL, else the fault.
func validText(_ bytes: some Collection<UInt8>) throws(RowFault) -> String {
    guard !bytes.contains(0) else { throw RowFault(.nulByte, "contains a NUL byte; is this a text file?") }
    guard let text = String(validating: bytes, as: UTF8.self) else {
        throw RowFault(.invalidUTF8, "not valid UTF-8; save the file as UTF-8")
    }
    return text
}
