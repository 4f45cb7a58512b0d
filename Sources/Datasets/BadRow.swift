// What is wrong with a row: a reason to count it under, and a line for the person who wrote it.
public import Diagnostics
import Formats

/// Why a row is not used. The raw values are the names in statistics and logs.
public enum BadRowReason: String, Sendable, CaseIterable, Codable {
    // The bytes of the file.
    case invalidUTF8 = "invalid_utf8"
    case nulByte = "nul_byte"
    case invalidJSON = "invalid_json"
    case duplicateKey = "duplicate_key"
    case tooLong = "row_too_long"
    case unevenColumns = "uneven_columns"
    case unterminatedQuote = "unterminated_quote"
    case strayQuote = "stray_quote"
    // The shape of the row.
    case notAnObject = "not_an_object"
    case missingKey = "missing_key"
    case mixedKinds = "mixed_kinds"
    case wrongType = "wrong_type"
    case empty = "empty_field"
    case emptyMessages = "empty_messages"
    case unknownRole = "unknown_role"
    case badContent = "bad_content"
    case badWeight = "bad_weight"
    case noAssistant = "no_assistant_turn"
    case endsWithoutAssistant = "ends_without_assistant_turn"
    case noPrompt = "no_prompt"
    case sameAnswers = "same_answers"
    case badLabel = "bad_label"
    case badScore = "bad_score"
    case unevenLists = "uneven_lists"
    case notInContext = "answer_not_in_context"
    /// Left out by a transform, which is no fault.
    case filtered
    case notConvertible = "not_convertible"
    // Found while the row is rendered and tokenised.
    case templateRefused = "template_refused"
    case spanUnproven = "span_unproven"
    case noTrainedTokens = "no_trained_tokens"
    case longerThanMaxLength = "longer_than_max_length"
}

/// Where a row stands in its file.
public struct RowLocation: Sendable, Hashable {
    /// How rows of this file are counted, all from 1.
    public enum Unit: String, Sendable, Codable {
        /// Lines of the file, as an editor counts them: the first of a CSV record.
        case line
        /// Elements of a JSON array, rows of a Parquet or Arrow file.
        case row
        /// Parts of a text file.
        case document
    }

    public let file: String
    public let unit: Unit
    public let number: Int

    public init(file: String, unit: Unit, number: Int) { (self.file, self.unit, self.number) = (file, unit, number) }
}

extension RowLocation: CustomStringConvertible {
    public var description: String { "\(escapedForDisplay(file)) \(unit.rawValue) \(number)" }
}

/// A row that cannot be used, told in one line:
/// `data.train[1]: chat.jsonl line 812: no "messages" key; found "message"`.
public struct BadRow: UserFacing, Equatable {
    public let reason: BadRowReason
    /// The name of the source in the configuration; empty when there is none.
    public let source: String
    public let location: RowLocation
    /// What is wrong, without the place.
    public let detail: String

    public var message: String { (source.isEmpty ? "" : "\(source): ") + "\(location): \(detail)" }
    public var exitStatus: ExitStatus { .badData }

    init(_ fault: RowFault, source: String, location: RowLocation) {
        (reason, detail, self.source, self.location) = (fault.reason, fault.detail, source, location)
    }
}

/// A `BadRow` before its place is known.
struct RowFault: Error, Equatable {
    let reason: BadRowReason
    let detail: String
    /// The transform that left the row out.
    let stage: String?

    init(_ reason: BadRowReason, _ detail: String, stage: String? = nil) {
        (self.reason, self.detail, self.stage) = (reason, detail, stage)
    }
}

/// Text from a data file in a message: quoted, escaped, and cut so that the message stays one readable line.
func quoted(_ text: String, limit: Int = 40) -> String {
    let scalars = text.unicodeScalars
    let cut = String(String.UnicodeScalarView(scalars.prefix(limit)))
    return "\"\(escapedForDisplay(cut))\(scalars.dropFirst(limit).isEmpty ? "" : "...")\""
}
