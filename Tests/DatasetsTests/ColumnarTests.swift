// Parquet and Arrow files against JSON lines of the same rows, written by pyarrow.
import ChatTemplates
import Datasets
import Diagnostics
import Formats
import Foundation
import Testing
import Tokenizers

private func path(_ name: String) -> String {
    URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures/\(name)").path
}

struct ColumnarTests {
    private func encoded(_ name: String, cache: TokenCache? = nil) throws -> EncodedRows {
        let encoder = try ExampleEncoder(try tinyTokenizer.get(), template: "chatml")
        return try EncodedRows(DataSource([path(name)]), encoder, threads: 2, cache: cache)
    }

    @Test(arguments: ["chats.parquet", "chats.arrow", "chats-stream.arrow"])
    func sameTokensAsJSONLines(_ name: String) throws {
        let (expected, _) = try encoded("chats.jsonl").dataset()
        let rows = try encoded(name)
        let (dataset, _) = try rows.dataset()
        #expect(dataset.count == 600 && rows.warnings.isEmpty)
        for i in expected.indices {
            #expect(dataset[i].ids == expected[i].ids && dataset[i].trained == expected[i].trained, "row \(i)")
        }
        #expect("\(dataset.source(4))".hasSuffix("\(name) row 5"))
    }

    /// The blocks of tokens in the two cache files are the same bytes.
    @Test func sameTokenCaches() throws {
        let folder = try TemporaryFolder()
        var blocks: [String] = []
        for name in ["chats.jsonl", "chats.parquet"] {
            let cache = TokenCache(folder: "\(folder.path)/\(name)")
            _ = try encoded(name, cache: cache)
            let file = try #require(try cache.entries().first)
            let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: file.path)))
            let text = String(decoding: bytes, as: UTF8.self)
            let found = try #require(text.range(of: #""blocks":\[.*\]\]"#, options: .regularExpression))
            blocks.append(String(text[found]))
            #expect(try encoded(name, cache: cache).notes[0].hasPrefix("tokens from the cache"))
        }
        #expect(blocks[0].count > 100 && blocks[0] == blocks[1])
    }

    @Test func everyTypeAsPyarrowHasIt() throws {
        let rows = try Rows(DataSource([path("types.parquet")], badRows: .drop, takesEveryKind: true))
        let expected = try #require(try fixture("types.json").array)
        // The row without a target is left out.
        #expect(rows.statistics.dropped == [.missingKey: 1])
        for (index, row) in zip(rows.indices, expected.filter { $0["target"] != nil }) {
            guard case .task(.columns(.tabular, let object)) = try rows[index].content else {
                Issue.record("row \(index) is no row of a table")
                continue
            }
            #expect(object.keys == row.object?.keys)
            for (name, value) in object {
                let wanted = try #require(row[name])
                if let number = wanted.double, !(wanted.number?.isInteger ?? false) {
                    #expect(value.double == number, "\(name)")
                } else {
                    #expect(value == wanted, "\(name): \(value) is not \(wanted)")
                }
            }
        }
    }

    @Test func nestedColumnsAreRead() throws {
        let rows = try Rows(DataSource([path("nested.parquet")]))
        #expect(try rows[0].content == .text("one"))
        #expect(rows.warnings.count == 2)
    }

    @Test func damageIsOneLineWithTheFile() throws {
        let folder = try TemporaryFolder()
        let good = try fixtureBytes("chats.parquet")
        for (name, bytes) in [
            ("cut.parquet", Array(good.prefix(good.count / 2))), ("flipped.parquet", good.map { $0 ^ 0x55 }),
            ("cut.arrow", Array(try fixtureBytes("chats.arrow").prefix(5000))),
        ] {
            let path = try folder.file(name, bytes.isEmpty ? [0] : bytes)
            let error = #expect(throws: UserError.self) { try Rows(DataSource([path], name: "data.train")) }
            #expect(error?.message.contains(name) == true && error?.message.contains("\n") == false)
        }
    }

    /// No change of a byte ends the program, whatever it makes of the file.
    @Test func changedBytesEndNothing() throws {
        let folder = try TemporaryFolder()
        var random = SeededGenerator(7)
        for name in ["nested.parquet", "types.parquet"] {
            let good = try fixtureBytes(name)
            for _ in 0..<60 {
                var bytes = good
                for _ in 0..<3 {
                    bytes[Int.random(in: 4..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
                }
                let path = try folder.file("a.parquet", bytes)
                do { _ = try Rows(DataSource([path], badRows: .drop, takesEveryKind: true)) } catch is any UserFacing {}
            }
        }
    }
}
