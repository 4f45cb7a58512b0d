// Names, selection, the cache.
import Diagnostics
import Formats
import Glibc
import Hub
import ModelFiles
import Testing

@Suite struct HubRepositoryTests {
    @Test(arguments: [
        ("org/name", "org/name", "main"), ("gpt2", "gpt2", "main"), ("a/b@v1.0", "a/b", "v1.0"),
        ("a/b@refs/pr/3", "a/b", "refs/pr/3"), ("Org-1/na_me.2", "Org-1/na_me.2", "main"),
    ]) func names(_ text: String, _ id: String, _ revision: String) throws {
        let repository = try #require(HubRepository(text))
        #expect(repository.id == id && repository.revision == revision)
    }

    @Test(arguments: [
        "", "/", "a/", "/b", "a/b/c", "a//b", "../b", "a/..", "a/b@", "a/b@../x", "a/b@x//y", "a b/c", "a/-b", "a/b.",
        "a/b--c", "a/b..c", "ä/b", "a/b@x\\y", "a\n/b",
    ]) func whatIsNone(_ text: String) { #expect(HubRepository(text) == nil) }

    @Test func aRevisionIsSaidOnce() {
        #expect(HubRepository("a/b@c", revision: "d") == nil && HubRepository("a/b", revision: "d")?.revision == "d")
        #expect(
            HubRepository("a/b")?.folderName == "models--a--b" && HubRepository("gpt2")?.folderName == "models--gpt2")
    }
}

@Suite struct HubSelectionTests {
    private let names = [
        "config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "tokenizer.json",
        "1_Pooling/config.json",
    ]

    @Test func whatIsNeverReadIsLeftOut() {
        #expect(
            HubSelection().chosen(names)
                == ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"])
        // Where nothing else holds weights, the files are somebody's wish.
        #expect(HubSelection().chosen(["config.json", "pytorch_model.bin"]) == ["config.json", "pytorch_model.bin"])
        #expect(HubSelection(include: ["*.bin"]).chosen(names) == ["pytorch_model.bin"])
        #expect(
            HubSelection(include: ["*.json"], exclude: ["1_Pooling/"]).chosen(names) == [
                "config.json", "tokenizer.json",
            ])
    }
}

/// A folder that is removed with the value.
final class Folder {
    let path: String
    init() throws {
        path = "/tmp/needletail-hub-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"
        try createDirectories(path)
    }
    deinit { try? removeTree(path) }
}

@Suite struct HubCacheTests {
    @Test func snapshotsAreFoundByBranchAndByCommit() throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path), repository = HubRepository("a/b")!
        #expect(try cache.snapshot(repository) == nil)
        let root = cache.folder(of: repository), commit = String(repeating: "0a", count: 20)
        try createDirectories(joinPath(root, "snapshots/" + commit))
        try createDirectories(joinPath(root, "refs"))
        try writeFileAtomically(commit, to: joinPath(root, "refs/main"))
        #expect(try cache.snapshot(repository) == joinPath(root, "snapshots/" + commit))
        #expect(try cache.snapshot(HubRepository("a/b@" + commit)!) == joinPath(root, "snapshots/" + commit))
        #expect(try cache.snapshot(HubRepository("a/b@v2")!) == nil)
        try writeFileAtomically("../../elsewhere", to: joinPath(root, "refs/main"))
        #expect(throws: UserError.self) { try cache.snapshot(repository) }
    }

    @Test func offlineTheCacheMustDo() throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path)
        let error = #expect(throws: UserError.self) {
            try download(HubRepository("a/b")!, HubSelection(), into: cache, nil) { _, _ in }
        }
        #expect(
            error?.message
                == "a/b: not in the cache \(folder.path), and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to ask for it"
        )
    }
}
