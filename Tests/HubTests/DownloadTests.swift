// Whole downloads from a hub of a few lines on this machine.
import Diagnostics
import Formats
import Glibc
import Hub
import ModelFiles
import Testing

private let commit = String(repeating: "0a", count: 20)
private let repository = HubRepository("org/a")!

@Suite struct DownloadTests {
    @Test(
        arguments: [
            (nil, "org/a: no such repository, or it is private or gated and needs a token (HF_TOKEN)"),
            ("hf_secret", "org/a: the Hub does not give it to just anyone (401); the token in use has no access to it"),
        ] as [(String?, String)]) func whatNobodyMayKnow(_ token: String?, _ message: String) throws
    {
        let hub = try TinyHub { _ in .init(status: 401) }, folder = try Folder()
        let error = #expect(throws: UserError.self) {
            try download(
                repository, HubSelection(), into: HubCache(folder: folder.path),
                HubSettings(endpoint: hub.endpoint, token: token)
            ) { _, _ in }
        }
        #expect(error?.message == message)
        #expect(hub.log.map { $0.headers["authorization"] } == [token.map { "Bearer \($0)" }])
    }

    @Test func aRedirectToNoPortEndsInAMessage() throws {
        let hub = try TinyHub { request in
            if request.path.hasPrefix("/api/") {
                return .init(body: #"{"sha":"\#(commit)","siblings":[{"rfilename":"config.json"}]}"#)
            }
            let headers = ["Location": "http://127.0.0.1:99999/secret", "X-Linked-Etag": "\"a\"", "X-Linked-Size": "1"]
            return .init(status: 302, headers: headers)
        }
        let folder = try Folder()
        let error = #expect(throws: UserError.self) {
            try download(
                repository, HubSelection(), into: HubCache(folder: folder.path), HubSettings(endpoint: hub.endpoint)
            ) { _, _ in }
        }
        #expect(error?.message == "config.json: redirects lead in a circle or nowhere")
    }
}

@Suite struct FailureTests {
    /// What is said after a failure to ask `endpoint`.
    private func message(_ endpoint: String, token: String? = nil, proxy: HubProxy? = nil) throws -> String {
        let folder = try Folder()
        let settings = HubSettings(
            endpoint: endpoint, token: token, proxy: proxy, answerTimeout: 1, firstWait: 0.01, tries: 1)
        let error = #expect(throws: UserError.self) {
            try download(repository, HubSelection(), into: HubCache(folder: folder.path), settings) { _, _ in }
        }
        #expect(error?.exitStatus == .tryAgain && error?.message.contains("\n") == false)
        return error?.message ?? ""
    }

    @Test(arguments: ["http://127.0.0.1:9", "http://localhost:9"]) func refusalsAreToldInWords(_ endpoint: String)
        throws
    {
        let host = String(endpoint.dropFirst("http://".count))
        #expect(try message(endpoint).hasPrefix("org/a: \(host) refuses the connection, 2 times"))
    }

    @Test func theProxyIsNamedWithoutItsPassword() throws {
        let proxy = HubProxy(host: "127.0.0.1", port: 9, user: "user", password: "secret")
        let text = try message("http://hub.example", proxy: proxy)
        #expect(text.hasPrefix("org/a: hub.example (by the proxy 127.0.0.1:9) refuses the connection"))
        #expect(!text.contains("secret") && !text.contains("user"))
    }

    @Test func whatIsNotHTTPIsToldInWords() throws {
        // The answer to a question it was not asked: a status line that is none.
        let hub = try TinyHub { _ in .init(headers: ["Bad\u{0}name": "x"]) }
        let text = try message(hub.endpoint)
        #expect(text.contains("does not speak HTTP") && !text.contains("HTTPParserError"))
    }

    // The client's own text of this error holds the header.
    @Test func aTokenThatNoHeaderCanHoldIsNotShown() throws {
        let text = try message("http://127.0.0.1:9", token: "hf_secret\n")
        #expect(!text.contains("secret") && text.contains("invalid header field values"))
    }
}
