// JSON by RFC 8259: what every parser must take, what it must refuse, and what this one decided where it may choose.
import Formats
import Testing

@Suite struct JSONConformanceTests {
    static let accepted: [String] = [
        "null", "true", "false", "0", "-0", "1", "-1", "123456789", "0.5", "-0.0", "1e5", "1E5", "1e+5", "1e-5",
        "0e0", "0E+1", "1.0e10", "123.456e-7", "1e-400", "0.00000000000000000000000000000000000000001",
        "-123123123123123123123123", "\"\"", "\" \"", "\"abc\"", "\"\\\"\"", "\"\\\\\"", "\"\\/\"", "\"/\"",
        "\"\\b\\f\\n\\r\\t\"", "\"\\u0000\"", "\"\\u0041\"", "\"\\u00e9\"", "\"\\uD83D\\uDE00\"",
        "\"\\ud83d\\ude00\"", "\"\\uFFFF\"", "\"\\uFFFE\"", "\"\\uDBFF\\uDFFF\"", "\"\u{7F}\"",
        "\"\u{2028}\u{2029}\"", "\"\u{FEFF}\"", "\"\u{10FFFF}\"", "\"é\"", "\"\\\\u0041\"", "\"a\\u0020b\"", "[]",
        "[ ]", "[\n]", "[1]", "[1,2]", "[ 1 , 2 ]", "[[]]", "[[],[]]", "[null,true,\"\",{}]", "[\"a\" ]", "[1\n,2]",
        "{}", "{ }", "{\"a\":1}", "{\"\":0}", "{\"a\":{}}", "{ \"a\" : 1 , \"b\" : 2 }", "{\"a\":[]}",
        "{\"\\u0000\":1}", "{\"a\":1,\"A\":2}", "{\"\u{E9}\":1,\"e\u{301}\":2}", " 1 ", "\t1", "\r\n1\r\n", "\n{}\n",
        "{\"a\\nb\":\"\\n\"}", "[1,2,3,4,5,6,7,8,9,10]", "[-1e-1,-1E+1]",
        "{\"x\":[{\"id\":\"xxxxxxxxxxxxxxxxxxxxxxxx\"}]}",
    ]

    @Test(arguments: accepted) func accepts(_ text: String) throws {
        let value = try JSONValue.parse(text)
        // What is written back is the same value, and writing is stable.
        let written = value.serialized()
        #expect(try JSONValue.parse(written) == value)
        let again = try JSONValue.parse(value.serialized(.pretty)).serialized()
        #expect(again == written)
    }

    static let refused: [String] = [
        "", " ", "\n", "n", "nul", "nulll", "Null", "NULL", "tru", "True", "fals", "undefined", "NaN", "Infinity",
        "-Infinity", "+Infinity", "-", "+1", "--1", "-+1", "01", "-01", "00", "1.", ".1", "-.1", "1.e1", "1e", "1e+",
        "1E-", "1ee2", "1e1.5", "0x1", "0x", "1_000", "1,000", "1 000", "1a", "1.2.3", "1e2e3", "0e", "0.e1", "-2.",
        "2.e+3", "1+2", "０", "１", "'a'", "a", "\"", "\"a", "a\"", "\"\\\"", "\"\\", "\"\\a\"", "\"\\x41\"", "\"\\0\"",
        "\"\\'\"", "\"\\u\"", "\"\\u1\"", "\"\\u12\"", "\"\\u123\"", "\"\\u123g\"", "\"\\u 123\"", "\"\\U0041\"",
        "\"\\u+123\"", "\"\\u１２３４\"", "\"\\é\"", "\"\\\u{0}\"", "\"\u{0}\"", "\"\u{1F}\"", "\"\n\"", "\"\t\"",
        "\"\r\"", "\"\\uD800\"", "\"\\uDC00\"", "\"\\uD800\\n\"", "\"\\uD800\\uD800\"", "\"\\uD800a\"",
        "\"\\uDC00\\uD800\"", "\"\\uD800\\u0041\"", "\"\\uD83D\\\"", "\"a\" \"b\"", "\"\"x", "\\u0022a\\u0022", "[",
        "]", "[1", "[1,", "[1,]", "[,1]", "[,]", "[1,,2]", "[1 2]", "[1:2]", "[1;2]", "[\"a\"", "[\"a\",", "[]]",
        "[][]", "[1}", "[a]", "['a']", "[1,\n", "[-]", "[*]", "[\"\": 1]", "[x", "[1]x", "[ , \"\"]", "[1,[2]", "[}",
        "[//\n1]", "{", "}", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1,}", "{,}", "{\"a\"}",
        "{\"a\",1}", "{a:1}", "{'a':1}", "{1:1}", "{\"a\":1 \"b\":2}", "{\"a\":1,,\"b\":2}", "{\"a\"::1}",
        "{\"a\":1}}", "{}{}", "{[}", "{\"a\":1]", "{\"a\":a}", "{null:1}", "{\"a\" 1}", "{:1}", "{\"a\":}",
        "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "{\"a\":1,b}", "{\"a\":1}#", "1 2", "1,", "{} 1",
        "true false", "nulltrue", "/**/1", "1//", "#1", "<null>", "\u{FEFF}{}", "\u{A0}1", "\u{2028}1", "\u{B}1",
        "\u{C}1", "1\u{0}", "\u{0}", "1e400", "-1e400", "[1e309]", "⍂", "{\"a\":\"b\"}/", "[\u{B}1]", "{\u{2060}}",
    ]

    @Test(arguments: refused) func refuses(_ text: String) {
        #expect(throws: JSONError.self) { try JSONValue.parse(text) }
    }

    static let invalidUTF8: [[UInt8]] = [
        [0xFF], [0x80], [0xC3], [0xC0, 0x80], [0xC1, 0xBF], [0xE0, 0x80, 0x80], [0xED, 0xA0, 0x80], [0xED, 0xBF, 0xBF],
        [0xF0, 0x80, 0x80, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5, 0x80, 0x80, 0x80], [0xE2, 0x82], [0xF0, 0x9F, 0x98],
        [0xFE], [0xFC, 0x83, 0xBF, 0xBF, 0xBF, 0xBF], [0xC3, 0x28], [0xE9], [0xEF, 0xBF],
    ]

    @Test(arguments: invalidUTF8) func refusesInvalidUTF8(_ bytes: [UInt8]) {
        for before in ["", "a", "\\n"] {  // also in a string that is unescaped
            #expect(throws: JSONError.self) { try JSONValue.parse([0x22] + Array(before.utf8) + bytes + [0x22]) }
            let key = [0x7B, 0x22] + Array(before.utf8) + bytes + Array("\":1}".utf8)
            #expect(throws: JSONError.self) { try JSONValue.parse(key) }
        }
        #expect(throws: JSONError.self) { try JSONValue.parse(bytes) }
    }

    @Test func escapesBecomeTheirCharacters() throws {
        let text = #""\u0041\u00e9\u20AC\ud83d\uDE00\b\f\n\r\t\/\\\"""#
        #expect(try JSONValue.parse(text).string == "Aé€😀\u{8}\u{C}\n\r\t/\\\"")
    }

    @Test(arguments: [(255, true), (256, true), (257, false), (100_000, false)])
    func depthIsLimited(_ depth: Int, _ fits: Bool) {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let inner = open == "[" ? "" : "1"
            let text = String(repeating: open, count: depth) + inner + String(repeating: close, count: depth)
            let parsed = try? JSONValue.parse(text)
            #expect((parsed != nil) == fits)
        }
        #expect(throws: JSONError.self) { try JSONValue.parse(String(repeating: "[{\"a\":", count: depth)) }
    }

    @Test func numbersKeepTheirSpelling() throws {
        #expect(try JSONValue.parse("-0").int == 0)
        #expect(try JSONValue.parse("9223372036854775807").int == .max)
        #expect(try JSONValue.parse("9223372036854775808").int == nil)
        #expect(try JSONValue.parse("1.0").int == nil)
        #expect(try JSONValue.parse("1e2").double == 100)
        #expect(try JSONValue.parse("0.1").double == 0.1)
        #expect(try JSONValue.parse("5e-324").double == .leastNonzeroMagnitude)
    }
}
