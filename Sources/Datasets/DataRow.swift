// A row after reading: what it says, free of how its file spelled it.
public import Formats

/// One turn of a chat.
public struct ChatMessage: Sendable, Equatable {
    public enum Role: String, Sendable, CaseIterable {
        case system, developer, user, assistant, tool, ipython, environment, function
    }

    public let role: Role
    /// The text of the turn; empty when there are only tool calls.
    public let content: String
    /// What the chat template sees: `role`, `content` and whatever else the row gave (`name`, `tool_calls`, ...).
    public let fields: JSONObject
    /// The row's own word on training this turn, over the masking strategy; nil when it has none.
    public let trained: Bool?

    public init(role: Role, content: String, extra: JSONObject = JSONObject(), trained: Bool? = nil) {
        var fields = JSONObject([("role", .string(role.rawValue)), ("content", .string(content))])
        for (key, value) in extra where fields.position(of: key) == nil { fields[key] = value }
        (self.role, self.content, self.fields, self.trained) = (role, content, fields, trained)
    }

    /// Instructions to the model, which are never trained.
    var isSystem: Bool { role == .system || role == .developer }
    var hasToolCalls: Bool { fields["tool_calls"]?.array?.isEmpty == false }
    /// Names of the functions that the turn calls.
    var calledNames: [String] {
        (fields["tool_calls"]?.array ?? []).compactMap { ($0["function"] ?? $0)["name"]?.string }
    }

    /// As a row of a file spells it.
    var json: JSONValue {
        var object = fields
        if let trained { object["weight"] = .init(trained ? 1 : 0) }
        return .object(object)
    }
}

/// What a row teaches.
public enum RowContent: Sendable, Equatable {
    case chat([ChatMessage], tools: [JSONValue])
    case instruction(system: String?, instruction: String, input: String, output: String)
    case completion(prompt: String, completion: String)
    case text(String)
    /// What other recipes than imitation learn from.
    case task(TaskRow)

    /// The row in its plainest spelling; reading it gives an equal row.
    public var json: JSONObject {
        switch self {
        case .chat(let messages, let tools):
            var object = JSONObject([("messages", .array(messages.map(\.json)))])
            if !tools.isEmpty { object["tools"] = .array(tools) }
            return object
        case .instruction(let system, let instruction, let input, let output):
            var object = JSONObject()
            if let system { object["system"] = .string(system) }
            object["instruction"] = .string(instruction)
            object["input"] = .string(input)
            object["output"] = .string(output)
            return object
        case .completion(let prompt, let completion):
            return JSONObject([("prompt", .string(prompt)), ("completion", .string(completion))])
        case .text(let text):
            return JSONObject([("text", .string(text))])
        case .task(let task): return task.json
        }
    }
}

/// A valid row and where it came from.
public struct DataRow: Sendable, Equatable {
    public let content: RowContent
    public let location: RowLocation

    /// Reads one row of a known kind.
    ///
    /// - Throws: `BadRow` naming place, field and reason.
    public init(parsing row: JSONValue, as kind: RowKind, location: RowLocation) throws {
        do throws(RowFault) {
            guard let object = row.object else { throw RowFault(.notAnObject, "is \(row.kind); an object is needed") }
            self.init(try RowParser(kind: kind, columns: .identity).parse(object), location: location)
        } catch {
            throw BadRow(error, source: "", location: location)
        }
    }

    public init(_ content: RowContent, location: RowLocation) { (self.content, self.location) = (content, location) }

    /// One line of a JSONL file.
    public var jsonLine: String { JSONValue.object(content.json).serialized(.compact) + "\n" }
}
