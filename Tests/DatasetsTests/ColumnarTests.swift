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

    /// Kept tokens are the same bytes; the description behind them names the file they were made from, which differs.
    @Test func sameTokenCaches() throws {
        let folder = try TemporaryFolder()
        let blocks = try ["chats.jsonl", "chats.parquet", "chats.arrow", "chats-stream.arrow"].map { name in
            let cache = TokenCache(folder: "\(folder.path)/\(name)")
            _ = try encoded(name, cache: cache)
            let blocks = try tokenBlocks(try #require(try cache.entries().first).path)
            #expect(try encoded(name, cache: cache).notes[0].hasPrefix("tokens from the cache"))
            return blocks
        }
        #expect(blocks[0].count > 30_000 && blocks.allSatisfy { $0 == blocks[0] })
    }

    /// Texts full of what JSON escapes, as values of every type of text and as names of columns.
    @Test func escapesAreWhatTheyWere() throws {
        let rows = try Rows(DataSource([path("escapes.arrow")], takesEveryKind: true))
        let expected = try #require(try fixture("escapes.json").array)
        #expect(rows.count == 10 && expected.count == 10)
        for (index, row) in zip(rows.indices, expected) {
            guard case .task(.columns(.tabular, let object)) = try rows[index].content else {
                Issue.record("row \(index) is no row of a table")
                continue
            }
            #expect(JSONValue.object(object) == row, "row \(index)")
        }
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
                // Numbers by their digits: a template prints them.
                let wanted = try #require(row[name])
                #expect(value == wanted, "\(name): \(value) is not \(wanted)")
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

/// Folders that `save_to_disk` of the datasets library writes: Arrow streams beside descriptions of them.
struct SavedFolderTests {
    /// Writes a data set of two shards.
    private func save(_ folder: TemporaryFolder, _ name: String) throws {
        try makeFolder(folder, name)
        let shards = (0..<2).map { "data-0000\($0)-of-00002.arrow" }
        for shard in shards { _ = try folder.file("\(name)/\(shard)", try fixtureBytes("chats-stream.arrow")) }
        let files = shards.map { "{\"filename\": \"\($0)\"}" }.joined(separator: ", ")
        _ = try folder.file(
            "\(name)/state.json",
            #"{"_data_files": [\#(files)], "_fingerprint": "8c1f", "_format_columns": null, "_split": null}"#)
        _ = try folder.file(
            "\(name)/dataset_info.json", #"{"citation": "", "features": {"messages": [{"role": {"dtype": "string"}}]}}"#
        )
    }

    private func contents(_ source: DataSource) throws -> [RowContent] {
        let rows = try Rows(source)
        #expect(rows.warnings.isEmpty)
        return try rows.indices.map { try rows[$0].content }
    }

    @Test func shardsAreReadInOrderAndDescriptionsAreNot() throws {
        let folder = try TemporaryFolder(), expected = try contents(DataSource([path("chats.jsonl")]))
        try save(folder, "saved")
        #expect(try contents(DataSource(["\(folder.path)/saved"])) == expected + expected)
    }

    /// A DatasetDict: a folder with one such folder for each split.
    @Test func ofSeveralSplitsOneIsNamed() throws {
        let folder = try TemporaryFolder(), expected = try contents(DataSource([path("chats.jsonl")]))
        try makeFolder(folder, "all")
        for split in ["train", "test"] { try save(folder, "all/\(split)") }
        _ = try folder.file("all/dataset_dict.json", #"{"splits": ["train", "test"]}"#)
        let all = "\(folder.path)/all"
        #expect(try contents(DataSource([all], split: "test")) == expected + expected)
        let error = #expect(throws: UserError.self) { try Rows(DataSource([all], name: "data.train")) }
        #expect(
            error?.message
                == "data.train: \(all): no .parquet, .arrow, .jsonl, .json, .csv, .tsv, .txt or .md file in it, but in its "
                + "folders \"test\", \"train\"; give one of them, or name a split")
    }
}
