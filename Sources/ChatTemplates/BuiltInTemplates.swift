// Chat templates for models that bring none, by the names that configs use.

extension ChatTemplate {
    /// Jinja sources by name; all but `chatml` and `boxed_math` read `eos_token`, `llama3` also `bos_token`.
    public static let builtIn: [String: String] = [
        "chatml": """
        {%- for message in messages %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '<|im_start|>assistant\\n' }}
        {%- endif %}
        """,
        "llama3": """
        {{- bos_token }}
        {%- for message in messages %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + \
        message['content'] | trim + '<|eot_id|>' }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- endif %}
        """,
        "zephyr": """
        {%- for message in messages %}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '<|assistant|>\\n' }}
        {%- endif %}
        """,
        "tulu": tulu(generationPrompt: "<|assistant|>\\n"),
        "tulu_thinker": tulu(generationPrompt: "<|assistant|>\\n<think>"),
        "simple_chat": """
        {%- for message in messages %}
        {{- ('' if loop.first else '\\n\\n') + message['role'] | capitalize + ': ' + message['content'] }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '\\n\\nAssistant:' }}
        {%- elif messages and messages[-1]['role'] == 'assistant' %}
        {{- eos_token }}
        {%- endif %}
        """,
        "simple_concat_space": concatenation(separator: " "),
        "simple_concat_newline": concatenation(separator: "\\n"),
        "r1_think_answer": """
        {{- 'A conversation between a user and an assistant. The assistant first thinks about the question, \
        then answers it. \
        The thinking stands between <think> and </think>, the answer between <answer> and </answer>.\\n\\n' }}
        {%- for message in messages %}
        {{- ('\\n\\n' if not loop.first else '') + message['role'] | capitalize + ': ' + message['content'] }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '\\n\\nAssistant: <think>' }}
        {%- elif messages and messages[-1]['role'] == 'assistant' %}
        {{- eos_token }}
        {%- endif %}
        """,
        "boxed_math": """
        {%- if not messages or messages[0]['role'] != 'system' %}
        {{- '<|im_start|>system\\nReason step by step and put the final answer within \\\\\\\\boxed{}.<|im_end|>\\n' }}
        {%- endif %}
        {%- for message in messages %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '<|im_start|>assistant\\n' }}
        {%- endif %}
        """,
    ]

    /// Role headers on lines of their own; the end token after every answer, a line end between turns.
    private static func tulu(generationPrompt: String) -> String {
        """
        {%- for message in messages %}
        {%- if message['role'] == 'assistant' %}
        {{- '<|assistant|>\\n' + message['content'] + eos_token + ('' if loop.last else '\\n') }}
        {%- else %}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}
        {%- endif %}
        {%- endfor %}
        {%- if add_generation_prompt %}
        {{- '\(generationPrompt)' }}
        {%- endif %}
        """
    }

    private static func concatenation(separator: String) -> String {
        """
        {{- messages | map(attribute='content') | join('\(separator)') }}
        {%- if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt %}\
        {{ eos_token }}{% endif %}
        """
    }
}
