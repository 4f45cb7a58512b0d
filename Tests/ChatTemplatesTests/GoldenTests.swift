// What jinja2 renders with the settings of transformers (Fixtures/make_goldens.py), byte for byte.

import ChatTemplates
import Formats
import Foundation
import Testing

let fixtures = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures")

func fixture(_ name: String) throws -> JSONValue {
    try JSONValue.parse(String(contentsOf: fixtures.appending(path: name), encoding: .utf8))
}

let fixedTime = TemplateTime(year: 2026, month: 7, day: 4, hour: 9, minute: 5, second: 3)

/// The rendered text, nil when the template or the rendering is refused.
func rendered(
    _ source: String, _ messages: [JSONValue] = [], tools: [JSONValue]? = nil, addGenerationPrompt: Bool = false,
    variables: JSONObject = JSONObject(), limits: TemplateLimits = .init()
) -> String? {
    do {
        return try ChatTemplate(source).render(
            messages: messages, tools: tools, addGenerationPrompt: addGenerationPrompt, variables: variables,
            limits: limits, now: { _ in fixedTime })
    } catch {
        return nil
    }
}

/// Compared by bytes: Swift's `==` on strings would let canonically equivalent texts pass.
func exact(_ text: String?) -> ExactString? { text.map { ExactString($0) } }

@Test func microCasesEqualJinja() throws {
    let golden = try fixture("micro.json")
    var variables = try #require(golden["variables"]?.object)
    let messages = try #require(variables["messages"]?.array)
    variables["messages"] = nil
    let cases = try #require(golden["cases"]?.array)
    #expect(cases.count > 800)
    for one in cases {
        let source = try #require(one["template"]?.string)
        let text = rendered(source, messages, variables: variables)
        #expect(exact(text) == exact(one["text"]?.string), "\(source)")
    }
}

@Test func familiesEqualTransformers() throws {
    let conversations = try #require(try fixture("conversations.json").array)
    let cases = try #require(try fixture("families.json").array)
    #expect(cases.count == 30)
    for one in cases {
        let name = try #require(one["template"]?.string)
        let conversation = conversations[try #require(one["conversation"]?.int)]
        let source = try String(contentsOf: fixtures.appending(path: name), encoding: .utf8)
        let text = rendered(
            source, try #require(conversation["messages"]?.array), tools: conversation["tools"]?.array,
            addGenerationPrompt: conversation["add_generation_prompt"]?.bool ?? false,
            variables: JSONObject([("bos_token", "<s>"), ("eos_token", "</s>")]))
        #expect(
            exact(text) == exact(one["text"]?.string),
            "\(name), conversation \(one["conversation"]?.int ?? -1)")
    }
}

@Test func renderingIsDeterministic() throws {
    let source = try String(contentsOf: fixtures.appending(path: "tools_and_reasoning.jinja"), encoding: .utf8)
    let conversation = try #require(try fixture("conversations.json").array)[6]
    let template = try ChatTemplate(source)
    let texts = try (0..<20).map { _ in
        try template.render(messages: conversation["messages"]!.array!, tools: conversation["tools"]?.array)
    }
    #expect(Set(texts).count == 1)
}

@Test func generatedRangesCoverTheAnswers() throws {
    let source =
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        + "{% endgeneration %}{% endif %}{% endfor %}"
    let messages: [JSONValue] = [
        ["role": "user", "content": "é"], ["role": "assistant", "content": "yés"],
        ["role": "assistant", "content": "no"],
    ]
    let (text, ranges) = try ChatTemplate(source).renderMarkingGenerated(messages: messages)
    #expect(ranges.map { String(text.utf8.dropFirst($0.lowerBound).prefix($0.count)) } == ["yés", "no"])
}

@Test(arguments: [
    ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>assistant\n"),
    (
        "llama3",
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            + "Yo<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    ("zephyr", "<|user|>\nHi</s>\n<|assistant|>\nYo</s>\n<|assistant|>\n"),
    ("tulu", "<|user|>\nHi\n<|assistant|>\nYo</s><|assistant|>\n"),
    ("simple_chat", "User: Hi\n\nAssistant: Yo\n\nAssistant:"),
    ("simple_concat_space", "Hi Yo"), ("simple_concat_newline", "Hi\nYo"),
])
func builtInTemplates(name: String, expected: String) throws {
    let messages: [JSONValue] = [["role": "user", "content": "Hi"], ["role": "assistant", "content": "Yo"]]
    let text = try ChatTemplate(try #require(ChatTemplate.builtIn[name])).render(
        messages: messages, addGenerationPrompt: true,
        variables: JSONObject([("bos_token", "<s>"), ("eos_token", "</s>")]))
    #expect(text == expected)
}

@Test func builtInTemplatesEqualJinja() throws {
    let cases = try #require(try fixture("builtins.json").array)
    #expect(Set(cases.compactMap { $0["template"]?.string }) == Set(ChatTemplate.builtIn.keys))
    for one in cases {
        let name = try #require(one["template"]?.string), prompts = one["add_generation_prompt"]?.bool ?? false
        let text = rendered(
            try #require(ChatTemplate.builtIn[name]), try #require(one["messages"]?.array),
            addGenerationPrompt: prompts,
            variables: JSONObject([("bos_token", "<s>"), ("eos_token", "</s>")]))
        #expect(exact(text) == exact(one["text"]?.string), "\(name): \(one["messages"]!.serialized())")
    }
}

@Test func everyBuiltInTemplateRenders() throws {
    for (name, source) in ChatTemplate.builtIn {
        let text = rendered(
            source, [["role": "user", "content": "Hi"]], addGenerationPrompt: true,
            variables: JSONObject([("bos_token", "<s>"), ("eos_token", "</s>")]))
        #expect(text?.contains("Hi") == true, "\(name)")
    }
    #expect(rendered(ChatTemplate.builtIn["boxed_math"]!)?.contains("\\boxed{}") == true)
}
