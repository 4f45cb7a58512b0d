// The `chat_template` setting of a merge.
internal import ChatTemplates
internal import Diagnostics
internal import Formats
internal import Tokenizers

/// What the `chat_template` setting stands for: `auto` is the most common template among `tokenizerFolders` (nil when none
/// has one; the first of equally common ones), a name is a template that comes with the program, anything else is Jinja
/// source.
///
/// - Throws: `UserError` for a name that is none, or source that does not parse.
public func resolveChatTemplate(_ setting: String, tokenizerFolders: [String]) throws -> String? {
    if setting == "auto" { return try mostCommonTemplate(tokenizerFolders) }
    if let source = mergeTemplates[setting] { return source }
    guard setting.utf8.count >= 20, setting.utf8.contains(UInt8(ascii: "{")) else {
        let names = ["auto"] + mergeTemplates.keys.sorted()
        let hint = nearestName(to: setting, among: names).map { "; did you mean \($0)?" } ?? ""
        throw UserError(
            "chat_template: \(shown(setting)) is neither Jinja source nor one of \(names.joined(separator: ", "))\(hint)"
        )
    }
    _ = try ChatTemplate(setting)
    return setting
}

private func mostCommonTemplate(_ folders: [String]) throws -> String? {
    var counts: [(template: String, count: Int)] = []
    for folder in folders where fileExists(joinPath(folder, "tokenizer.json")) {
        guard let template = try TokenizerVocabulary(folder: folder).chatTemplate?.trimmed, !template.isEmpty else {
            continue
        }
        if let i = counts.firstIndex(where: { ExactString($0.template) == ExactString(template) }) {
            counts[i].count += 1
        } else {
            counts.append((template, 1))
        }
    }
    let most = counts.map(\.count).max()
    return counts.first { $0.count == most }?.template
}

extension String {
    /// Without white space at its ends.
    fileprivate var trimmed: String {
        let isBlank: (Unicode.Scalar) -> Bool = { $0.properties.isWhitespace }
        let body = unicodeScalars.drop(while: isBlank)
        guard let last = body.lastIndex(where: { !isBlank($0) }) else { return "" }
        return String(String.UnicodeScalarView(body[...last]))
    }
}

/// The templates that merge configurations may name.
let mergeTemplates: [String: String] = [
    "chatml": ChatTemplate.builtIn["chatml"]!,
    "llama3": ChatTemplate.builtIn["llama3"]!,
    "alpaca": """
    {%- for message in messages %}
    {%- if message['role'] == 'system' %}
    {{- message['content'] + '\\n\\n' }}
    {%- elif message['role'] == 'user' %}
    {{- '### Instruction:\\n' + message['content'] | trim + '\\n\\n' }}
    {%- elif message['role'] == 'assistant' %}
    {{- '### Response:\\n' + message['content'] | trim + eos_token + '\\n\\n' }}
    {%- endif %}
    {%- endfor %}
    {%- if add_generation_prompt %}
    {{- '### Response:\\n' }}
    {%- endif %}
    """,
    "mistral": """
    {{- bos_token }}
    {%- set ns = namespace(system='') %}
    {%- for message in messages %}
    {%- if message['role'] == 'system' %}
    {%- set ns.system = message['content'] + '\\n\\n' %}
    {%- elif message['role'] == 'user' %}
    {{- ' [INST] ' + ns.system + message['content'] + ' [/INST]' }}
    {%- set ns.system = '' %}
    {%- else %}
    {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
    {%- endfor %}
    """,
    "exaone": """
    {%- if messages and messages[0]['role'] != 'system' %}
    {{- '[|system|][|endofturn|]\\n' }}
    {%- endif %}
    {%- for message in messages %}
    {{- '[|' + message['role'] + '|]' + message['content'] }}
    {{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}
    {%- endfor %}
    {%- if add_generation_prompt %}
    {{- '[|assistant|]' }}
    {%- endif %}
    """,
]
