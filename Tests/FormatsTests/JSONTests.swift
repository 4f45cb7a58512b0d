// JSON in and out: what is kept, what is refused.
import Formats
import Testing

@Suite struct JSONTests {
    @Test func keepsOrderAndSpelling() throws {
        let text = #"{"z":1e-05,"a":100000.0,"m":[1,-0,{"k":"é\n\u0001"}],"big":123456789012345678901234567890}"#
        #expect(try JSONValue.parse(text).serialized() == text)
    }

    @Test(arguments: [
        ("{\"a\":1,\"a\":2}", "appears twice"), (#"{"\n":1,"\n":2}"#, #"key "\n" appears twice"#),
        ("[1,]", "unexpected character"), ("[1 2]", "comma or ]"),
        ("\"\\ud800\"", "lone surrogate"), ("01", "something follows"), ("1.", "digit"), ("nul", "unknown word"),
        ("\"a\tb\"", "control character"), ("", "ends where a value"), ("{\"a\"}", "colon"), ("1e999", "out of range"),
        ("\u{FEFF}1", "byte order mark"), ("\"abc", "ends inside a string"),
        ("[NaN]", "column 2: NaN is no value of JSON; write null or a number"), ("nan", "nan is no value"),
        ("[-Infinity]", "column 3: Infinity is no value of JSON; write null or a number"), ("None", "write null"),
        ("{\"a\":True}", "write true"), ("[Nano]", "unexpected character"), ("1 x", "follows the value; remove it"),
        ("{}{}", "column 3: something follows the value; objects stand one a line, or in [ ] with commas between them"),
        ("{}, {}", "column 3: something follows the value; objects stand one a line,"), ("{}, 1", "value; remove it"),
    ])
    func refuses(_ text: String, _ reason: String) {
        #expect { try JSONValue.parse(text) } throws: { "\($0)".contains(reason) }
    }

    @Test func refusesDeepNestingAndInvalidUTF8() {
        #expect(throws: JSONError.self) {
            try JSONValue.parse(String(repeating: "[", count: 300) + String(repeating: "]", count: 300))
        }
        #expect(throws: JSONError.self) { try JSONValue.parse([0x22, 0xC3, 0x28, 0x22]) }
    }

    /// Every way a byte sequence can fail to be UTF-8, beside its valid neighbours (Unicode, table 3-7).
    @Test(arguments: [
        ([0xC2, 0x80], true), ([0xC1, 0xBF], false), ([0xDF, 0xBF], true), ([0x80], false), ([0xC3], false),
        ([0xE0, 0xA0, 0x80], true), ([0xE0, 0x9F, 0xBF], false), ([0xED, 0x9F, 0xBF], true),
        ([0xED, 0xA0, 0x80], false), ([0xEF, 0xBF, 0xBF], true), ([0xE2, 0x82], false), ([0xE2, 0x82, 0x41], false),
        ([0xF0, 0x90, 0x80, 0x80], true), ([0xF0, 0x8F, 0xBF, 0xBF], false), ([0xF4, 0x8F, 0xBF, 0xBF], true),
        ([0xF4, 0x90, 0x80, 0x80], false), ([0xF5, 0x80, 0x80, 0x80], false), ([0xF0, 0x90, 0x80], false),
        ([0xFF], false),
    ])
    func checksUTF8(_ bytes: [UInt8], _ isValid: Bool) throws {
        for text in [bytes, bytes + [0x5C, 0x6E], [0x5C, 0x6E] + bytes] {
            let json = [0x22] + text + [0x22]
            #expect((String(validating: json, as: UTF8.self) != nil) == isValid)
            let parsed = Result { try JSONValue.parse(json) }
            #expect(((try? parsed.get()) != nil) == isValid)
        }
    }

    @Test(arguments: [
        (#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{C}\n\r\t"), (#""\u0041\u00e9\u20AC\ud83d\uDE00é""#, "Aé€😀é"),
        (#""a\u0000b""#, "a\u{0}b"), (#""é\né""#, "é\né"), (#""plain""#, "plain"), (#""""#, ""),
    ])
    func readsEscapes(_ json: String, _ text: String) throws {
        #expect(try JSONValue.parse(json) == .string(text))
        #expect(try JSONValue.parse(JSONValue.string(text).serialized()) == .string(text))
        let ascii = JSONValue.string(text).serialized(JSONStyle(escapesNonASCII: true))
        #expect(ascii.utf8.allSatisfy { (0x20..<0x7F).contains($0) })
        #expect(try JSONValue.parse(ascii) == .string(text))
    }

    /// Strings are read eight bytes at a time: whatever ends a run is found in every place of the eight.
    @Test func readsStringsOfEveryLength() throws {
        for before in 0..<20 {
            for after in 0..<10 {
                let (a, b) = (String(repeating: "~", count: before), String(repeating: "#", count: after))
                for middle in ["\"", "\\", "\n", "\u{1F}", "é", "\u{7F}", "!", "]", "\u{20}"] {
                    let text = JSONValue.string(a + middle + b)
                    #expect(try JSONValue.parse(text.serialized()) == text)
                }
                for control: UInt8 in [0x00, 0x09, 0x1F] {
                    let json = Array("\"\(a)".utf8) + [control] + Array("\(b)\"".utf8)
                    #expect { try JSONValue.parse(json) } throws: { "\($0)".contains("column \(before + 2): control") }
                }
                let invalid = Array("\"\(a)".utf8) + [0xA2] + Array("\(b)\"".utf8)
                #expect { try JSONValue.parse(invalid) } throws: { "\($0)".contains("invalid UTF-8") }
            }
        }
    }

    @Test func writesEscapesAsPython() {
        let text = "\u{0}\u{1F}\u{7F}\"\\é😀"
        #expect(JSONValue.string(text).serialized() == #""\u0000\u001f"# + "\u{7F}" + #"\"\\é😀""#)
        #expect(
            JSONValue.string(text).serialized(JSONStyle(escapesNonASCII: true))
                == #""\u0000\u001f\u007f\"\\\u00e9\ud83d\ude00""#)
    }

    @Test(
        arguments: [
            ("0", 0), ("-0", 0), ("-12", -12), ("999999999999999999", 999_999_999_999_999_999),
            ("9223372036854775807", Int.max), ("-9223372036854775808", Int.min), ("9223372036854775808", nil),
            ("1.0", nil),
            ("1e2", nil),
        ] as [(String, Int?)])
    func readsWholeNumbers(_ json: String, _ int: Int?) throws {
        let value = try JSONValue.parse(json)
        #expect(value.int == int && value.serialized() == json)
    }

    @Test func canonicallyEquivalentKeysStayApart() throws {
        let object = try JSONValue.parse("{\"\u{E9}\":1,\"e\u{301}\":2}")
        #expect(object["\u{E9}"] == 1 && object["e\u{301}"] == 2)
        #expect(JSONValue.string("\u{E9}") != .string("e\u{301}"))
    }

    @Test func errorNamesLineAndColumn() {
        #expect { try JSONValue.parse("{\n  \"a\": tru\n}") } throws: { "\($0)".contains("line 2, column 8") }
    }

    @Test func largeObjectsFindTheirKeys() throws {
        var object = JSONObject((0..<100).map { ("k\($0)", JSONValue($0)) })
        object["k50"] = nil
        object["k7"] = "seven"
        #expect(object.count == 99 && object["k50"] == nil && object["k99"] == 99 && object["k7"] == "seven")
    }

    @Test func hugeObjectsFindTheirKeysAndNoOthers() throws {
        // Lengths around the eight bytes that the hash takes at a time; é and é (two spellings) are two keys.
        var keys =
            (0..<20_000).map { String(repeating: "k", count: $0 % 19) + String($0) } + ["\u{E9}", "e\u{301}", ""]
        let text = "{" + keys.enumerated().map { "\"\($1)\":\($0)" }.joined(separator: ",") + "}"
        var object = try #require(try JSONValue.parse(text).object)
        for (i, key) in keys.enumerated() { #expect(object[key] == JSONValue(i)) }
        #expect(object["k"] == nil && object["20000"] == nil)
        object[keys.removeFirst()] = nil
        for (i, key) in keys.enumerated() { #expect(object[key] == JSONValue(i + 1)) }
        #expect(throws: JSONError.self) { try JSONValue.parse(String(text.dropLast()) + ",\"kk2\":1}") }
    }
}
