// JSON in and out: what is kept, what is refused.
import Formats
import Testing

@Suite struct JSONTests {
    @Test func keepsOrderAndSpelling() throws {
        let text = #"{"z":1e-05,"a":100000.0,"m":[1,-0,{"k":"é\n\u0001"}],"big":123456789012345678901234567890}"#
        #expect(try JSONValue.parse(text).serialized() == text)
    }

    @Test(arguments: [
        ("{\"a\":1,\"a\":2}", "appears twice"), ("[1,]", "unexpected character"), ("[1 2]", "comma or ]"),
        ("\"\\ud800\"", "lone surrogate"), ("01", "something follows"), ("1.", "digit"), ("nul", "unknown word"),
        ("\"a\tb\"", "control character"), ("", "ends where a value"), ("{\"a\"}", "colon"), ("1e999", "out of range"),
        ("\u{FEFF}1", "byte order mark"), ("\"abc", "ends inside a string"),
    ])
    func refuses(_ text: String, _ reason: String) {
        #expect { try JSONValue.parse(text) } throws: { "\($0)".contains(reason) }
    }

    @Test func refusesDeepNestingAndInvalidUTF8() {
        #expect(throws: JSONError.self) { try JSONValue.parse(String(repeating: "[", count: 300) + String(repeating: "]", count: 300)) }
        #expect(throws: JSONError.self) { try JSONValue.parse([0x22, 0xC3, 0x28, 0x22]) }
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
}
