// Turns of a chat as rows spell them: {role, content}, ShareGPT's {from, value}, content in parts, weights.
import Diagnostics
import Formats

struct MessageParser {
    /// The column that the list stands in, for messages.
    let column: String
    var isShareGPT = false
    /// False for turns that only set the scene: they are not trained unless the row says so.
    var trainedByDefault = true

    func messages(_ items: [JSONValue]) throws(RowFault) -> [ChatMessage] {
        if items.isEmpty { throw RowFault(.emptyMessages, "\(quoted(column)) is an empty list") }
        var result: [ChatMessage] = []
        for (i, item) in items.enumerated() { result.append(try message(item, "\(escapedForDisplay(column))[\(i)]")) }
        return result
    }

    private func message(_ item: JSONValue, _ place: String) throws(RowFault) -> ChatMessage {
        guard let object = item.object else { throw RowFault(.wrongType, "\(place) is \(item.kind), not an object") }
        let (roleKey, contentKey) = isShareGPT ? ("from", "value") : ("role", "content")
        let role = try role(object, roleKey, place)
        var extra = object
        for key in [roleKey, contentKey, "weight", "masked", "role", "content"] { extra[key] = nil }
        let trained = try override(object, place) ?? (trainedByDefault ? nil : false)
        if isShareGPT, isFunctionCall(object), let calls = toolCalls(object[contentKey]) {
            extra["tool_calls"] = .array(calls)
            return ChatMessage(role: .assistant, content: "", extra: extra, trained: trained)
        }
        let callsTools = role == .assistant && object["tool_calls"]?.array?.isEmpty == false
        let content = try content(object, contentKey, place, mayBeMissing: callsTools)
        if role == .assistant, !callsTools, isBlank(content) {
            throw RowFault(.badContent, "\(place).\(contentKey): the assistant says nothing")
        }
        return ChatMessage(role: role, content: content, extra: extra, trained: trained)
    }

    // MARK: role

    private static let shareGPTRoles: [String: ChatMessage.Role] = [
        "system": .system, "human": .user, "user": .user, "gpt": .assistant, "assistant": .assistant,
        "function": .assistant, "function_call": .assistant, "observation": .tool, "tool": .tool,
    ]

    private func role(_ object: JSONObject, _ key: String, _ place: String) throws(RowFault) -> ChatMessage.Role {
        guard let value = object[key] else {
            throw RowFault(.missingKey, "\(place): \(missingColumn(key, in: object))")
        }
        guard let name = value.string else {
            throw RowFault(.wrongType, "\(place).\(key) is \(value.kind), not a string")
        }
        if let role = isShareGPT ? Self.shareGPTRoles[name] : ChatMessage.Role(rawValue: name) { return role }
        let known = isShareGPT ? Self.shareGPTRoles.keys.sorted() : ChatMessage.Role.allCases.map(\.rawValue)
        let hint = nearestName(to: name, among: known).map { "did you mean \($0)?" }
        let names = "known are \(known.joined(separator: ", "))"
        throw RowFault(.unknownRole, "\(place).\(key): unknown role \(quoted(name)); \(hint ?? names)")
    }

    // MARK: content

    /// A string, or the texts of a list of `{"type":"text","text":...}` parts put together.
    private func content(
        _ object: JSONObject, _ key: String, _ place: String, mayBeMissing: Bool
    ) throws(RowFault) -> String {
        switch object[key] {
        case .string(let text)?: return text
        case nil where mayBeMissing, .null? where mayBeMissing: return ""
        case nil: throw RowFault(.missingKey, "\(place): \(missingColumn(key, in: object))")
        case .array(let parts)?:
            var text = ""
            for (i, part) in parts.enumerated() {
                if let type = part["type"]?.string, type != "text" {
                    throw RowFault(
                        .badContent, "\(place).\(key)[\(i)] is of type \(quoted(type)); only text is trained")
                }
                guard let piece = part.string ?? part["text"]?.string else {
                    throw RowFault(.badContent, "\(place).\(key)[\(i)] is \(part.kind) without text")
                }
                text += piece
            }
            return text
        case let other?:
            throw RowFault(.badContent, "\(place).\(key) is \(other.kind), not a string or a list of parts")
        }
    }

    /// `weight`: 0 or 1 (also true, false); `masked`: true means not trained.
    private func override(_ object: JSONObject, _ place: String) throws(RowFault) -> Bool? {
        func flag(_ key: String) throws(RowFault) -> Bool? {
            switch object[key] {
            case nil, .null?: return nil
            case .bool(let value)?: return value
            case .number(let number)? where number.double == 0 || number.double == 1: return number.double == 1
            default: throw RowFault(.badWeight, "\(place).\(key) must be 0 or 1 (a turn is trained or it is not)")
            }
        }
        let weight = try flag("weight"), unmasked = try flag("masked").map { !$0 }
        if let weight, let unmasked, weight != unmasked {
            throw RowFault(.badWeight, "\(place): weight and masked contradict each other")
        }
        return weight ?? unmasked
    }

    // MARK: tool calls of ShareGPT

    private func isFunctionCall(_ object: JSONObject) -> Bool {
        object["from"]?.string == "function_call" || object["from"]?.string == "function"
    }

    /// `{"name","arguments"}`, or a list of such, as tool calls; nil when the value is something else and stays text.
    private func toolCalls(_ value: JSONValue?) -> [JSONValue]? {
        var value = value
        if let text = value?.string {
            // Not JSON: the turn is ordinary text, which is what the caller then takes it for.
            guard let parsed = try? JSONValue.parse(text) else { return nil }
            value = parsed
        }
        let calls = value?.array ?? (value?.object).map { [.object($0)] } ?? []
        guard !calls.isEmpty, calls.allSatisfy({ $0["name"]?.string != nil }) else { return nil }
        return calls.map { call in
            var function = JSONObject([("name", call["name"]!)])
            function["arguments"] = call["arguments"] ?? .object(JSONObject())
            return .object(JSONObject([("type", "function"), ("function", .object(function))]))
        }
    }
}
