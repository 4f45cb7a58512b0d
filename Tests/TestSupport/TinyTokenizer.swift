// A byte-level tokenizer with a chat template, and folders that live as long as a test.
public import Formats
internal import Glibc
public import Tokenizers

/// tokenizer.json: `<s>` 0, `</s>` 1, `<|turn|>` 2, bytes from 3, then a few merges.
public let tinyTokenizerJSON = byteTokenizerJSON(
    special: ["<s>", "</s>", "<|turn|>"], merges: ["t h", "th e", "Ġ the", "o n", "e r", "i n", "s t", "u s", "us er"])

public let tinyChatTemplate =
    "{{ bos_token }}{% for message in messages %}{{ '<|turn|>' + message['role'] + '\\n' }}"
    + "{{ message['content'] + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\\n' }}{% endif %}"

/// - Parameter eos: the token that `tokenizer_config.json` names as the end.
public func tinyTokenizer(eos: String = "</s>") throws -> Tokenizer {
    try Tokenizer(
        tokenizerJSON: tinyTokenizerJSON,
        config: [
            "bos_token": "<s>", "eos_token": .string(eos), "chat_template": .string(tinyChatTemplate),
            "clean_up_tokenization_spaces": false, "tokenizer_class": "PreTrainedTokenizerFast",
        ])
}

/// A new folder, removed with the value.
public final class TemporaryFolder {
    public let path: String

    public init() throws {
        // In memory where there is such a place: runs wait for the disk at every save.
        let usual = folderExists("/dev/shm") ? "/dev/shm" : "/tmp",
            base = getenv("TMPDIR").map { String(cString: $0) } ?? usual
        path = joinPath(base, "needletail-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
        try createDirectories(path)
    }

    public subscript(name: String) -> String { joinPath(path, name) }

    deinit { try? removeTree(path) }  // nothing depends on it
}
