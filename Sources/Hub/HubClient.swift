// The Hub's protocol: which files a repository has at a commit, what each is, and its bytes from any place on.
// HTTP by AsyncHTTPClient; redirects are followed here, so that the token never goes to another host.
internal import AsyncHTTPClient
internal import Diagnostics
internal import Formats
internal import FoundationEssentials
internal import ModelFiles
internal import NIOCore
internal import NIOHTTP1

/// What the Hub lists of a commit.
struct HubListing: Sendable {
    let commit: String
    let names: [String]
    /// Bytes of each file that it tells them of.
    let sizes: [ExactString: Int]
}

/// What the Hub says of a file.
struct HubFile: Sendable, Equatable {
    let name: String
    /// Name of its blob: SHA-256 of its bytes where they lie in large-file storage, else git's SHA-1 of them.
    let etag: String
    let size: Int
    /// Where its bytes are.
    let location: String
}

/// Speaks with one Hub. Not for use after `shutDown`.
final class HubClient: Sendable {
    private let settings: HubSettings
    /// For what the Hub is asked, and for the bytes of files: they wait for different times.
    private let questions: HTTPClient, pieces: HTTPClient

    init(_ settings: HubSettings) {
        self.settings = settings
        func http(readTimeout: Double) -> HTTPClient {
            var configuration = HTTPClient.Configuration(
                redirectConfiguration: .disallow,
                timeout: .init(
                    connect: .milliseconds(Int64(1000 * settings.answerTimeout)),
                    read: .milliseconds(Int64(1000 * readTimeout))))
            configuration.proxy = settings.proxy.map(Self.configured)
            return HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
        }
        (questions, pieces) = (http(readTimeout: settings.answerTimeout), http(readTimeout: settings.pieceTimeout))
    }

    func shutDown() async {
        try? await questions.shutdown()
        try? await pieces.shutdown()
    }

    private static func configured(_ proxy: HubProxy) -> HTTPClient.Configuration.Proxy {
        let authorization = proxy.user.map {
            HTTPClient.Authorization.basic(username: $0, password: proxy.password ?? "")
        }
        return .server(host: proxy.host, port: proxy.port, authorization: authorization)
    }

    // MARK: Questions

    /// The commit that a revision is at, and its files.
    ///
    /// - Throws: `UserError` for what the Hub will not give, `HubInterruption` for what may go better later.
    func listing(of repository: HubRepository) async throws -> HubListing {
        let revision = escaped(repository.revision, slash: false)
        let url = "\(settings.endpoint)/api/models/\(repository.id)/revision/\(revision)?blobs=true"
        let response = try await answer(url, .GET, questions)
        try check(response, repository, "")
        let bytes = try await interruptible(url) { try await response.body.collect(upTo: 64 << 20) }
        guard let json = try? JSONValue.parse(Array(bytes.readableBytesView), maxDepth: 64),
            let commit = json["sha"]?.string, let siblings = json["siblings"]?.array, isPlainName(commit)
        else {
            throw UserError("\(url): the answer is none of the Hub's; is HF_ENDPOINT right?")
        }
        let files = siblings.compactMap { file in file["rfilename"]?.string.map { (name: $0, json: file) } }
        if let file = files.first(where: { !isPathInside($0.name) }) {
            throw UserError("\(repository): names a file \(file.name), which would lie outside of its folder")
        }
        let sizes = files.compactMap { file in
            (file.json["lfs"]?["size"] ?? file.json["size"])?.int.map { (ExactString(file.name), $0) }
        }
        return HubListing(
            commit: commit, names: files.map(\.name), sizes: Dictionary(sizes, uniquingKeysWith: { first, _ in first }))
    }

    /// What a file of a commit is.
    func file(_ name: String, of repository: HubRepository, commit: String) async throws -> HubFile {
        let url = "\(settings.endpoint)/\(repository.id)/resolve/\(commit)/\(escaped(name, slash: true))"
        var at = url
        for _ in 0..<5 {
            let response = try await answer(at, .HEAD, questions)
            let headers = response.headers, status = Int(response.status.code)
            let isElsewhere = (300..<400).contains(status)
            if !isElsewhere { try check(response, repository, name) }
            let target = headers.first(name: "location").flatMap { resolved($0, from: at) }
            // Within the Hub, as for a renamed repository, the answer to follow; elsewhere, the place of the bytes.
            if isElsewhere, headers.first(name: "x-linked-etag") == nil, let target, isOnHub(target) {
                at = target
                continue
            }
            guard let tag = headers.first(name: "x-linked-etag") ?? headers.first(name: "etag"),
                let size = (headers.first(name: "x-linked-size") ?? headers.first(name: "content-length")).flatMap({
                    Int($0)
                }),
                size >= 0
            else { throw UserError("\(url): the Hub says neither what the file is nor how large") }
            let etag = plainTag(tag)
            guard isPlainName(etag) else {
                throw UserError("\(url): \(etag) is no name of a blob")
            }
            return HubFile(name: name, etag: etag, size: size, location: isElsewhere ? target ?? at : at)
        }
        throw UserError("\(url): redirects lead in a circle")
    }

    /// The bytes of a file from `offset` on; `begin` is told where they really begin before the first `piece`.
    func bytes(
        of file: HubFile, from offset: Int, begin: (Int) throws -> Void, piece: (UnsafeRawBufferPointer) throws -> Void
    ) async throws {
        var at = file.location
        for _ in 0..<5 {
            let response = try await answer(at, .GET, pieces, from: offset)
            let status = Int(response.status.code)
            if (300..<400).contains(status), let target = response.headers.first(name: "location") {
                guard let next = resolved(target, from: at) else { break }
                at = next
                continue
            }
            if status == 416 {  // what is here is longer than what is there
                try begin(0)
                throw HubInterruption(reason: "the server has less than what is here", seconds: 0)
            }
            guard status == 200 || status == 206 else {
                throw HubInterruption(reason: "the server answers \(status)", seconds: waitAsked(response.headers))
            }
            try begin(status == 206 ? try start(of: response.headers, asked: offset, file) : 0)
            try await interruptible(at) {
                for try await buffer in response.body { try buffer.withUnsafeReadableBytes(piece) }
            }
            return
        }
        // Without the address: one in large-file storage lets whoever knows it in.
        throw UserError("\(file.name): redirects lead in a circle or nowhere")
    }

    /// The first byte of a part, by `Content-Range: bytes FIRST-LAST/WHOLE`.
    private func start(of headers: HTTPHeaders, asked: Int, _ file: HubFile) throws -> Int {
        let range = headers.first(name: "content-range") ?? ""
        let numbers = range.split(whereSeparator: { !$0.isNumber }).compactMap { Int($0) }
        guard let first = numbers.first, first == asked, numbers.count < 3 || numbers[2] == file.size else {
            throw HubInterruption(reason: "the server gives other bytes than were asked for (\(range))")
        }
        return first
    }

    // MARK: Answers

    private func answer(
        _ url: String, _ method: HTTPMethod, _ http: HTTPClient, from offset: Int = 0
    ) async throws -> HTTPClientResponse {
        var request = HTTPClientRequest(url: url)
        request.method = method
        request.headers.add(name: "user-agent", value: "needletail/\(programVersion)")
        request.headers.add(name: "accept-encoding", value: "identity")  // sizes and hashes are those of the file
        if offset > 0 { request.headers.add(name: "range", value: "bytes=\(offset)-") }
        if let token = settings.token, isOnHub(url) {
            request.headers.add(name: "authorization", value: "Bearer \(token)")
        }
        return try await interruptible(url) { [request] in try await http.execute(request, deadline: .distantFuture) }
    }

    /// What goes wrong on the way may go better the next time; what the program itself has to say stays.
    private func interruptible<Result>(_ url: String, _ body: () async throws -> Result) async throws -> Result {
        do {
            return try await body()
        } catch let error as any UserFacing {
            throw error
        } catch let error as HubInterruption {
            throw error
        } catch {
            throw HubInterruption(reason: inWords(error, with: peer(url)))
        }
    }

    private func check(_ response: HTTPClientResponse, _ repository: HubRepository, _ file: String) throws {
        let status = Int(response.status.code), place = file.isEmpty ? "\(repository)" : "\(repository): \(file)"
        switch status {
        case 200..<300: return
        case 401 where file.isEmpty && settings.token == nil:
            // To nobody in particular the Hub does not say which repositories there are.
            throw UserError("\(place): no such repository, or it is private or gated and needs a token (HF_TOKEN)")
        case 401, 403:
            let advice = settings.token == nil ? "set HF_TOKEN" : "the token in use has no access to it"
            throw UserError("\(place): the Hub does not give it to just anyone (\(status)); \(advice)")
        case 404:
            let code = response.headers.first(name: "x-error-code"), isRevision = code == "RevisionNotFound"
            if !file.isEmpty, code == "EntryNotFound" { throw HubFileAbsence(name: file) }
            throw UserError("\(place): \(isRevision ? "no such revision" : "not") on \(settings.endpoint)")
        case 429, 500...:
            throw HubInterruption(
                reason: "\(settings.endpoint) answers \(status)", seconds: waitAsked(response.headers))
        default: throw UserError("\(place): \(settings.endpoint) answers \(status)")
        }
    }

    private func waitAsked(_ headers: HTTPHeaders) -> Double? {
        headers.first(name: "retry-after").flatMap { Double($0) }.map { min(max($0, 0), 60) }
    }

    // MARK: Addresses

    /// Whether an address is of the Hub's own scheme, host and port: only there the token may go.
    private func isOnHub(_ url: String) -> Bool {
        guard let a = URL(string: url), let b = URL(string: settings.endpoint) else { return false }
        return a.scheme == b.scheme && a.host == b.host && a.port == b.port
    }

    /// nil for what cannot be asked.
    private func resolved(_ target: String, from url: String) -> String? {
        guard let address = URL(string: target, relativeTo: URL(string: url))?.absoluteString else { return nil }
        return serverURL(address, schemes: ["http", "https"]) == nil ? nil : address
    }

    /// Whom a question of `url` leads to, in words.
    private func peer(_ url: String) -> String {
        let server = URL(string: url)
        let host = (server?.host ?? settings.endpoint) + (server?.port.map { ":\($0)" } ?? "")
        return settings.proxy.map { "\(host) (by the proxy \($0.host):\($0.port))" } ?? host
    }

    private func plainTag(_ tag: String) -> String {
        let text = tag.hasPrefix("W/") ? String(tag.dropFirst(2)) : tag
        return text.filter { $0 != "\"" }
    }

    private func escaped(_ text: String, slash: Bool) -> String {
        text.utf8.map { (byte: UInt8) -> String in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."),
                UInt8(ascii: "~"):
                String(UnicodeScalar(byte))
            case UInt8(ascii: "/") where slash: "/"
            default: "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }.joined()
    }
}
