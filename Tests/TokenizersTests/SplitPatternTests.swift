// The hand-written scanners against the regular expressions that they stand for.
import Formats
import Testing
import Tokenizers

@Suite struct SplitPatternTests {
    /// Where a pattern cuts a text: a model that knows no word gives one token for each piece.
    private func tokenizer(_ regex: String) throws -> Tokenizer {
        try Tokenizer(tokenizerJSON: [
            "pre_tokenizer": [
                "type": "Split", "pattern": ["Regex": .string(regex)], "behavior": "Isolated", "invert": false,
            ],
            "model": ["type": "WordLevel", "vocab": ["<unk>": 0], "unk_token": "<unk>"],
        ])
    }

    private static let pieces = [
        "'s", "'S", "'t", "'ll", "'LL", "'Ll", "'re", "'RE", "'vE", "'m", "'d", "'\u{17F}", "'l", "'r", "'",
        "\u{2019}s",
        "\r\n", "\n\n", "\r", "/\n", "//", "  ", "   ", "\t", "\u{A0}", "\u{3000}", "\u{2028}", "\u{85}", "\u{B}", "1",
        "12345", "\u{661}\u{662}\u{663}\u{664}", "\u{B2}", "\u{2167}", "\u{BD}", "Hello", "WORLD", "camelCase",
        "HTMLParser",
        "\u{1C5}", "\u{2B0}", "\u{4E2D}\u{6587}", "\u{5E9}", "\u{301}", "e\u{301}", "\u{903}", "\u{20DD}", "\u{1F600}",
        "\u{1F468}\u{200D}\u{1F469}", "\u{0}", "\u{378}", "\u{E000}", "\u{130}", "\u{DF}", "\u{FB01}", "...", "!?", "_",
        "$", "<|x|>",
    ]
    private static let blocks: [ClosedRange<UInt32>] = [
        0x20...0x7E, 0x20...0x7E, 0xA0...0x24F, 0x300...0x36F, 0x370...0x52F, 0x590...0x6FF, 0x900...0x9FF,
        0xE00...0xE7F,
        0x1100...0x11FF, 0x1E00...0x1FFF, 0x2000...0x206F, 0x2150...0x218F, 0x2460...0x24FF, 0x3040...0x30FF,
        0x4E00...0x4FFF,
        0xAC00...0xACFF, 0xFB00...0xFB4F, 0x1D400...0x1D7FF, 0x1F300...0x1F64F,
    ]

    private func text(_ random: inout SeededNumbers) -> String {
        var text = ""
        for _ in 0...random.below(12) {
            if random.below(2) == 0 {
                text += Self.pieces[random.below(Self.pieces.count)]
            } else if random.below(3) == 0 {
                text += " "
            } else {
                let block = Self.blocks[random.below(Self.blocks.count)]
                for _ in 0...random.below(4) {
                    let scalar = block.lowerBound + UInt32(random.below(block.count))
                    text.unicodeScalars.append(Unicode.Scalar(scalar)!)
                }
            }
        }
        return text
    }

    @Test(arguments: SplitPattern.all.indices)
    func scannersCutAsTheirPatterns(_ index: Int) throws {
        let pattern = SplitPattern.all[index], other = "(?:\(pattern.regex))"
        #expect(SplitPattern(regex: pattern.regex) == pattern && SplitPattern(regex: other) == nil)
        let scanner = try tokenizer(pattern.regex), regex = try tokenizer(other)
        var random = SeededNumbers(state: 11 + UInt64(index)), pieces = 0
        for _ in 0..<3000 {
            let text = text(&random), expected = regex.encoding(of: text).offsets
            #expect(scanner.encoding(of: text).offsets == expected, "\(text.debugDescription)")
            pieces += expected.count
        }
        #expect(pieces > 15_000)  // else hardly anything has been cut
    }
}
