// The words that GGUF's names of pre-tokenizers stand for.
import Diagnostics
import Formats

/// What a name in `tokenizer.ggml.pre` stands for.
///
/// Words are cut as llama.cpp 0.3.36 cuts them, also where its patterns fall short of the model's own, since the ids that a
/// GGUF file stands for are those that llama.cpp makes of it. In two things the models' own files are followed: form C, and
/// the long s in a contraction (`'ſ`).
struct GGUFPreTokenizer {
    var normalizer: JSONValue = .null
    var preTokenizer: JSONValue
    /// The pre-tokenizer of the model's own files where llama.cpp's patterns only come near it.
    var original: JSONValue?
    var ignoresMerges = false
    /// Whether a begin token is added when the file does not say.
    var addsBOS = false
    /// A token that takes the blanks before it along.
    var strippingToken: String?

    /// Splits by GPT-2's pattern, no space put before the text.
    static let gpt2: JSONValue = [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    ]
    static let bytesOnly: JSONValue = [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    ]
    private static let digits: JSONValue = ["type": "Digits", "individual_digits": true]

    /// Splits by patterns one after another, then bytes.
    static func split(_ patterns: [String], and others: [JSONValue] = []) -> JSONValue {
        let splits = patterns.map { pattern -> JSONValue in
            ["type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false]
        }
        return ["type": "Sequence", "pretokenizers": .array(splits + others + [bytesOnly])]
    }

    static func template(bos: String, _ id: Int) -> JSONValue {
        let piece: JSONValue = ["SpecialToken": ["id": .string(bos), "type_id": 0]]
        let text: JSONValue = ["Sequence": ["id": "A", "type_id": 0]]
        let token: JSONValue = ["id": .string(bos), "ids": [JSONValue(id)], "tokens": [.string(bos)]]
        return [
            "type": "TemplateProcessing", "single": [piece, text],
            "pair": [piece, text, piece, ["Sequence": ["id": "B", "type_id": 1]]],
            "special_tokens": .object(JSONObject([(bos, token)])),
        ]
    }

    /// One name for each meaning, to be tried in this order when a tokenizer is written.
    static let names = [
        "gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o", "deepseek-llm", "deepseek-coder",
        "deepseek-v3", "falcon", "afmoe", "bailingmoe", "bloom", "chameleon", "exaone-moe", "granite-embed-multi-97m",
        "jais-2", "kimi-k2", "laguna", "minicpm5", "seed-coder", "spark2_5", "superbpe", "tiny_aya", "ufakzeka",
        "viking",
        "youtu", "default",
    ]

    /// Names whose words are spelled in characters, spaces as marks.
    static let marked: Set<String> = ["gemma4", "granite-embed-multi-311m", "sarvam-moe"]

    init(_ name: String, _ path: String) throws {
        let gpt2 = Self.gpt2
        func split(_ pattern: SplitPattern) -> JSONValue { Self.split([pattern.regex]) }
        switch name {
        case "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "roberta-bpe", "jina-v1-en", "jina-es", "jina-de",
            "gigachat",
            "a.x-4.0", "mellum", "modern-bert", "exaone4", "trillion", "granite-docling":
            preTokenizer = gpt2
        case "jina-v2-es", "jina-v2-de", "jina-v2-code":
            preTokenizer = gpt2
            strippingToken = "<mask>"
        case "default":
            preTokenizer = Self.split([
                #"[\p{P}\$\+<=>\^~\|]+"#, SplitPattern.gpt2.regex, #"\p{N}+"#, "[0-9][0-9][0-9]",
            ])
        case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2":
            preTokenizer = ["type": "Sequence", "pretokenizers": [Self.digits, gpt2]]
        case "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano":
            preTokenizer = split(.llama(digits: 3))
            (ignoresMerges, addsBOS) = (true, true)
        case "glm4", "glm5":
            preTokenizer = split(.llama(digits: 3))
            ignoresMerges = true
        case "dbrx", "smaug-bpe", "chatglm-bpe": preTokenizer = split(.llama(digits: 3))
        case "qwen2", "deepseek-r1-qwen":
            preTokenizer = split(.llama(digits: 1))
            normalizer = ["type": "NFC"]
        case "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo", "f2llmv2", "megrez":
            preTokenizer = split(.llama(digits: 1))
        case "qwen35":
            // No normalizer: llama.cpp publishes the ids of texts in other forms under this name.
            preTokenizer = split(.llama(digits: 1, marks: true))
        case "laguna": preTokenizer = Self.split([#"[^\n]+|[\n]+"#, SplitPattern.llama(digits: 1).regex])
        case "tekken":
            preTokenizer = Self.split([Pattern.cased(#"\p{L}"#, contraction: "", numbers: #"\p{N}"#)])
            original = split(.cased(digits: 1, contractions: false))
            (ignoresMerges, addsBOS) = (true, true)
        case "gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2":
            preTokenizer = Self.split([Pattern.cased(#"\p{L}"#)])
            original = split(.cased(digits: 3, contractions: true))
        case "granite-embed-multi-97m":
            preTokenizer = Self.split([Pattern.cased(#"\p{L}\p{M}"#)])
            ignoresMerges = true
        default:
            guard let patterns = Pattern.byName[name] else {
                throw UserError(
                    "\(path): tokenizer.ggml.pre \(quoted(name)) is not supported; those of llama.cpp 0.3.36 for byte-level "
                        + "vocabularies are")
            }
            preTokenizer = Self.split(patterns)
            switch name {
            case "deepseek-llm":
                original = Self.split(
                    [#"[\r\n]"#, Pattern.latin, #"\s?[!-/:-~！-／：-～‘-‟　-。]+"#, #"\s+$"#, Pattern.chinese + "+"],
                    and: [Self.digits])
            case "deepseek-coder":
                original = Self.split(
                    [#"[\r\n]"#, #"\s?\p{L}+"#, #"\s?\p{P}+"#, Pattern.chinese + "+"], and: [Self.digits])
            case "chameleon": addsBOS = true
            case "minicpm5", "youtu": ignoresMerges = true
            default: break
            }
        }
    }

    /// Patterns that no scanner exists for.
    private enum Pattern {
        static let contraction = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
        static let sign = #"[^\r\n\p{L}\p{N}]?"#
        static let signs = #" ?[^\s\p{L}\p{N}]+"#
        static let blanks = #"\s*[\r\n]+|\s+(?!\S)|\s+"#
        static let chinese = "[一-龥ࠀ-一가-퟿]"
        static let kana = "[一-龥぀-ゟ゠-ヿ]+"
        /// Digits in threes from the right, the first of them together with what comes before.
        static let threes = #"\P{N}*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"#
        /// A word with the blank before it in the scripts that have two cases.
        static let latin =
            #"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚ"#
            + "Ḁ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄ"
            + "Ⰰ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
        static let asciiWord = ##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##
        static let deepseekWord = asciiWord + #"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"#
        /// Han by code points, as llama.cpp has it for Kimi K2.
        static let han =
            #"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"#

        /// Words that turn from upper to lower case only where the letters are ASCII: llama.cpp knows the case of no others.
        static func cased(
            _ word: String, contraction: String = contraction + "?", numbers: String = #"\p{N}{1,3}"#
        ) -> String {
            let upper = "[" + word + "&&[^a-z]]", lower = "[" + word + "&&[^A-Z]]"
            return sign + upper + "*" + lower + "+" + contraction + "|" + sign + upper + "+" + lower + "*" + contraction
                + "|" + numbers + "|" + signs + #"[\r\n/]*|"# + blanks
        }

        /// As `cased` of letters and marks where case does not matter at all.
        private static func uncased(numbers: String) -> String {
            sign + #"[\p{L}\p{M}]+"# + contraction + "?|" + numbers + "|" + signs + #"[\r\n/]*|"# + blanks
        }

        private static let deepseek3 = [#"\p{N}{1,3}"#, kana, deepseekWord + #"[\r\n]*|"# + blanks]
        private static let bloom = #" ?[^(\s|.,!?…。，、।۔،)]+"#
        private static let bailing =
            #"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|"# + sign + #"\p{L}+|\p{N}|"# + signs
            + #"[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"#
        private static let aya = [threes, uncased(numbers: #"\p{N}{1,3}"#)]

        static let byName: [String: [String]] = [
            // U+3000 is a blank to llama.cpp before it is anything else, here and in `chinese`.
            "deepseek-llm": [
                #"[\r\n]"#, latin, #"\s?[!-/:-~！-／：-～‘-‟、-。]+"#, #"\s+$"#, "(?:(?!\\s)" + chinese + ")+", #"\p{N}+"#,
            ],
            "deepseek-coder": [
                #"[\r\n]"#, #"\s?\p{L}+"#, #"\s?\p{P}+"#, "(?:(?!\\s)" + chinese + ")+", #"\p{N}"#,
            ],
            "deepseek-v3": deepseek3, "hunyuan-dense": deepseek3, "joyai-llm": deepseek3, "hy_v4": deepseek3,
            "spark2_5": [#"\p{N}{1,3}"#, kana, deepseekWord + #"|[\r\n]|\s+(?!\S)|\s+"#, #"\p{N}"#],
            "afmoe": [
                threes, "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+",
                deepseekWord + #"[\r\n]*|"# + blanks,
            ],
            "tiny_aya": aya, "cohere2moe": aya,
            "youtu": [
                "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + kana, uncased(numbers: #"\p{N}"#),
            ],
            "falcon": [#"[\p{P}\$\+<=>\^~\|`]+"#, SplitPattern.gpt2.regex, "[0-9][0-9][0-9]"],
            "bloom": [bloom], "poro-chat": [bloom], "gpt3-finnish": [bloom], "viking": [bloom, #"\p{N}"#],
            "chameleon": [
                "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", #"([\t\n]|    |  )"#, #"\p{N}"#,
                #"[\p{P}!-/:-@\[-`{-~]"#, SplitPattern.gpt2.regex,
            ],
            "superbpe": [#"\p{N}+"#, "(?=([0-9]{3})+(?![0-9]))"],
            "bailingmoe": [bailing], "bailingmoe2": [bailing], "llada-moe": [bailing],
            "seed-coder": [
                contraction + "|" + sign + #"\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|"# + blanks
            ],
            "ufakzeka": [sign + #"\p{L}+|\p{N}|"# + signs + #"[\r\n]*|"# + blanks],
            "exaone-moe": [
                contraction + "|" + sign + #"(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}|"# + signs
                    + #"[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"#
            ],
            "minicpm5": [
                #"\p{N}{1,3}"#, contraction + "|" + sign + #"\p{L}+|\p{N}+|"# + signs + #"[\r\n]*|"# + blanks,
            ],
            "jais-2": [
                contraction + "|" + sign + #"\p{L}+|\p{N}{1,3}|"# + signs + #"[\r\n]*|\s*[\r\n]+"#
                    + [512, 256, 128, 64, 32, 16, 8, 4].map { #"|\s{\#($0)}(?!\S)"# }.joined()
                    + #"|\s{1,2}(?!\S)|\s{1}"#
            ],
            "kimi-k2": [
                "[" + han + "]+|" + sign + #"[\p{L}&&[^"# + han + "]]+" + contraction + #"?|\p{N}{1,3}|"# + signs
                    + #"[\r\n]*|"# + blanks
            ],
        ]
    }
}
