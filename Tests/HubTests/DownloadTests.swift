// Whole downloads from a hub of a few lines on this machine.
import Diagnostics
import Dispatch
import Formats
import Glibc
import Hub
import ModelFiles
import Testing

private let commit = String(repeating: "0a", count: 20)
private let repository = HubRepository("org/a")!

/// A file and its name as a blob: git's hash, or SHA-256 for what lies in large-file storage.
private struct StubFile: Sendable {
    let text: String, tag: String
    static let config = StubFile(text: "{}\n", tag: "0967ef424bce6791893e9a57bb952f80fd536e93")
    static let weights = StubFile(
        text: "weights of a model\n", tag: "8d94194b1fa3c519259125912d5f2a8527eb70054090d3c80722da58c9f9444b")
}

private func hub(_ files: [String: StubFile], showsSizes: Bool = true) throws -> TinyHub {
    let siblings = files.sorted { $0.key < $1.key }.map { name, file in
        #"{"rfilename":"\#(name)"\#(showsSizes ? #","size":\#(file.text.utf8.count)"# : "")}"#
    }
    let listing = #"{"sha":"\#(commit)","siblings":[\#(siblings.joined(separator: ","))]}"#
    return try TinyHub { request in
        if request.path.hasPrefix("/api/models/org/a/revision/main") { return .init(body: listing) }
        guard let file = files[fileName(of: request.path)] else { return .init(status: 404) }
        let start = request.headers["range"].flatMap { Int($0.filter(\.isNumber)) } ?? 0
        var answer = TinyHub.Answer(headers: ["ETag": "\"\(file.tag)\""], body: String(file.text.dropFirst(start)))
        if start > 0 {
            let size = file.text.utf8.count
            answer.status = 206
            answer.headers["Content-Range"] = "bytes \(start)-\(size - 1)/\(size)"
        }
        return answer
    }
}

/// Off the threads that tests share: a download waits for tasks, which need one of those.
private func aside<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
        DispatchQueue.global().async { continuation.resume(with: Result { try body() }) }
    }
}

/// A cache that is filled from a hub.
private struct Downloads {
    let folder: Folder
    let cache: HubCache
    let hub: TinyHub

    init(_ hub: TinyHub) throws {
        folder = try Folder()
        (cache, self.hub) = (HubCache(folder: folder.path), hub)
    }

    func run(
        _ selection: HubSelection = HubSelection(), offline: Bool = false, verifies: Bool = false
    ) async throws -> String {
        let settings = HubSettings(endpoint: hub.endpoint, answerTimeout: 5, firstWait: 0.01, tries: 1), cache = cache
        return try await aside {
            try download(repository, selection, into: cache, offline ? nil : settings, verifies: verifies) { _, _ in }
        }
    }

    func blob(_ file: StubFile) -> String { joinPath(cache.folder(of: repository), "blobs/" + file.tag) }

    /// Another content of a file that the cache has already.
    func overwrite(_ file: StubFile, _ text: String) throws { try writeFileAtomically(text, to: blob(file)) }
}

@Suite struct DownloadTests {
    private let files = ["config.json": StubFile.config, "model.safetensors": .weights]

    @Test(arguments: [true, false]) func aBlobThatWasCutIsGoneOnWith(_ showsSizes: Bool) async throws {
        let downloads = try Downloads(hub(files, showsSizes: showsSizes)), snapshot = try await downloads.run()
        try downloads.overwrite(.weights, String(StubFile.weights.text.prefix(5)))
        #expect(try await downloads.run() == snapshot)
        #expect(try readTextFile(joinPath(snapshot, "model.safetensors")) == StubFile.weights.text)
        #expect(downloads.hub.log.last { $0.method == "GET" }?.headers["range"] == "bytes=5-")
        let before = downloads.hub.log.count
        _ = try await downloads.run()
        // The listing; without sizes in it, also a question for each file, and no bytes.
        #expect(downloads.hub.log.count - before == (showsSizes ? 1 : 3))
        #expect(downloads.hub.log[before...].dropFirst().allSatisfy { $0.method == "HEAD" })
    }

    @Test func aCopyInTheSnapshotThatWasCutBecomesALink() async throws {
        let downloads = try Downloads(hub(files)), path = joinPath(try await downloads.run(), "config.json")
        try removeTree(path)
        try writeFileAtomically("{", to: path)
        #expect(try readTextFile(joinPath(try await downloads.run(), "config.json")) == StubFile.config.text)
    }

    @Test func hashesOfWhatIsThereAreComparedWhenAsked() async throws {
        let downloads = try Downloads(hub(files)), snapshot = try await downloads.run()
        let path = joinPath(snapshot, "model.safetensors"), other = String(StubFile.weights.text.reversed())
        try downloads.overwrite(.weights, other)
        _ = try await downloads.run()
        #expect(try readTextFile(path) == other, "read without being asked for")
        let error = await #expect(throws: UserError.self) { try await downloads.run(offline: true, verifies: true) }
        #expect(error?.message.contains("damaged in the cache: model.safetensors, and") == true)
        _ = try await downloads.run(verifies: true)
        #expect(try readTextFile(path) == StubFile.weights.text)
        #expect(try await downloads.run(offline: true, verifies: true) == snapshot)
    }

    @Test func aRepositoryWithoutWeightsIsWholeOffline() async throws {
        let downloads = try Downloads(hub(["config.json": .config])), snapshot = try await downloads.run()
        #expect(try await downloads.run(offline: true) == snapshot)
    }

    @Test(
        arguments: [
            (nil, "org/a: no such repository, or it is private or gated and needs a token (HF_TOKEN)"),
            ("hf_secret", "org/a: the Hub does not give it to just anyone (401); the token in use has no access to it"),
        ] as [(String?, String)]) func whatNobodyMayKnow(_ token: String?, _ message: String) async throws
    {
        let hub = try TinyHub { _ in .init(status: 401) }, folder = try Folder()
        let cache = HubCache(folder: folder.path), settings = HubSettings(endpoint: hub.endpoint, token: token)
        let error = await #expect(throws: UserError.self) {
            try await aside { try download(repository, HubSelection(), into: cache, settings) { _, _ in } }
        }
        #expect(error?.message == message)
        #expect(hub.log.map { $0.headers["authorization"] } == [token.map { "Bearer \($0)" }])
    }

    @Test func aRedirectToNoPortEndsInAMessage() async throws {
        let hub = try TinyHub { request in
            if request.path.hasPrefix("/api/") {
                return .init(body: #"{"sha":"\#(commit)","siblings":[{"rfilename":"config.json"}]}"#)
            }
            let headers = ["Location": "http://127.0.0.1:99999/secret", "X-Linked-Etag": "\"a\"", "X-Linked-Size": "1"]
            return .init(status: 302, headers: headers)
        }
        let error = await #expect(throws: UserError.self) { try await Downloads(hub).run() }
        #expect(error?.message == "config.json: redirects lead in a circle or nowhere")
    }
}

@Suite struct FailureTests {
    /// What is said after a failure to ask `endpoint`.
    private func message(_ endpoint: String, token: String? = nil, proxy: HubProxy? = nil) async throws -> String {
        let folder = try Folder()
        let settings = HubSettings(
            endpoint: endpoint, token: token, proxy: proxy, answerTimeout: 1, firstWait: 0.01, tries: 1)
        let cache = HubCache(folder: folder.path)
        let error = await #expect(throws: UserError.self) {
            try await aside { try download(repository, HubSelection(), into: cache, settings) { _, _ in } }
        }
        #expect(error?.exitStatus == .tryAgain && error?.message.contains("\n") == false)
        return error?.message ?? ""
    }

    @Test(arguments: ["http://127.0.0.1:9", "http://localhost:9"]) func refusalsAreToldInWords(_ endpoint: String)
        async throws
    {
        let host = String(endpoint.dropFirst("http://".count))
        #expect(try await message(endpoint).hasPrefix("org/a: \(host) refuses the connection, 2 times"))
    }

    @Test func theProxyIsNamedWithoutItsPassword() async throws {
        let proxy = HubProxy(host: "127.0.0.1", port: 9, user: "user", password: "secret")
        let text = try await message("http://hub.example", proxy: proxy)
        #expect(text.hasPrefix("org/a: hub.example (by the proxy 127.0.0.1:9) refuses the connection"))
        #expect(!text.contains("secret") && !text.contains("user"))
    }

    @Test func whatIsNotHTTPIsToldInWords() async throws {
        // The answer to a question it was not asked: a status line that is none.
        let hub = try TinyHub { _ in .init(headers: ["Bad\u{0}name": "x"]) }
        let text = try await message(hub.endpoint)
        #expect(text.contains("does not speak HTTP") && !text.contains("HTTPParserError"))
    }

    // The client's own text of this error holds the header.
    @Test func aTokenThatNoHeaderCanHoldIsNotShown() async throws {
        let text = try await message("http://127.0.0.1:9", token: "hf_secret\n")
        #expect(!text.contains("secret") && text.contains("invalid header field values"))
    }
}

@Suite struct OfflineTests {
    private let index = #"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#

    /// A snapshot of files that hold `{}`, or of the index their two shards.
    private func snapshot(_ names: [String], in cache: HubCache) throws -> String {
        let root = cache.folder(of: repository), folder = joinPath(root, "snapshots/" + commit)
        try createDirectories(folder)
        try createDirectories(joinPath(root, "refs"))
        try writeFileAtomically(commit, to: joinPath(root, "refs/main"))
        for name in names {
            let path = joinPath(folder, name)
            try createDirectories(parentFolder(of: path))
            try writeFileAtomically(name.hasSuffix(".index.json") ? index : "{}", to: path)
        }
        return folder
    }

    private func offline(_ selection: HubSelection, _ cache: HubCache) throws -> String {
        try download(repository, selection, into: cache, nil) { _, _ in }
    }

    private static let weights = "weights (*.safetensors or *.gguf)"

    @Test(
        arguments: [
            (["config.json"], HubSelection(), weights),
            (["config.json", "model.safetensors"], HubSelection(), nil), (["model.gguf"], HubSelection(), nil),
            (["config.json", "pytorch_model.bin"], HubSelection(), nil),
            (["config.json"], HubSelection(exclude: ["*.safetensors"]), nil),
            (["config.json"], HubSelection(include: ["*.json"]), nil),
            (["config.json"], HubSelection(include: ["*.json", "tokenizer.model"]), "tokenizer.model"),
            (["config.json"], HubSelection(include: ["b", "a", "d", "c"]), "a, b, c and 1 more"),
            (["model.safetensors.index.json"], HubSelection(), "model-1.safetensors, model-2.safetensors"),
            (["model.safetensors.index.json", "model-1.safetensors"], HubSelection(), "model-2.safetensors"),
            (["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"], HubSelection(), nil),
            (["model.safetensors.index.json"], HubSelection(include: ["*.json"]), nil),
            (
                ["unet/model.safetensors.index.json", "unet/model-1.safetensors"], HubSelection(),
                "unet/model-2.safetensors"
            ),
        ] as [([String], HubSelection, String?)])
    func whatIsKnownToBelongToItMustBeThere(_ names: [String], _ selection: HubSelection, _ absent: String?) throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path), snapshot = try snapshot(names, in: cache)
        guard let absent else {
            #expect(try offline(selection, cache) == snapshot)
            return
        }
        let error = #expect(throws: UserError.self) { try offline(selection, cache) }
        #expect(error?.exitStatus == .badData)
        #expect(
            error?.message
                == "org/a: the cache has no \(absent), and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to ask for it"
        )
    }

    @Test func aLinkToNothingIsAnAbsence() throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path)
        let path = joinPath(try snapshot(["model.safetensors"], in: cache), "config.json")
        #expect(symlink("../../blobs/a", path) == 0)
        let error = #expect(throws: UserError.self) { try offline(HubSelection(), cache) }
        #expect(error?.message.contains("the cache has no config.json, and") == true)
    }

    @Test func marksSayWhatTheCommitNeverHad() throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path)
        let selection = HubSelection(include: ["*.json", "tokenizer.model"]),
            snapshot = try snapshot(["a.json"], in: cache)
        let mark = cache.absenceMark(of: "tokenizer.model", in: repository, commit: commit)
        try createDirectories(parentFolder(of: mark))
        try writeFileAtomically("", to: mark)
        #expect(try offline(selection, cache) == snapshot)
    }

    @Test func aSnapshotWithoutTheFilesNamesTheDownload() throws {
        let folder = try Folder(), cache = HubCache(folder: folder.path), snapshot = try snapshot(["a.json"], in: cache)
        let error = #expect(throws: UserError.self) { try ModelReference.tokenizerPath(snapshot) }
        #expect(error?.message.hasSuffix("; `needletail download org/a` fetches what is missing") == true)
        let other = #expect(throws: UserError.self) { try ModelReference(snapshot) }
        #expect(other?.message.hasSuffix("; `needletail download org/a` fetches what is missing") == true)
        try removeTree(joinPath(cache.folder(of: repository), "refs"))
        let pinned = #expect(throws: UserError.self) { try ModelReference(snapshot) }
        #expect(pinned?.message.hasSuffix("; `needletail download org/a@\(commit)` fetches what is missing") == true)
    }
}
