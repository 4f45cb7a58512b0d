// Where the Hub is, who asks, and by which way: what the environment says, checked before anybody is asked.
internal import Diagnostics
internal import Formats
internal import FoundationEssentials
public import ModelFiles

/// Where the Hub is, and who asks.
public struct HubSettings: Sendable {
    /// Without a slash at its end.
    public var endpoint: String
    public var token: String?
    public var proxy: HubProxy?
    /// Seconds until the Hub must have answered, and between two pieces of a file.
    public var answerTimeout: Double, pieceTimeout: Double
    /// Seconds before the first repetition of what failed; each one doubles it.
    public var firstWait: Double
    /// Repetitions without any progress between them.
    public var tries: Int

    public init(
        endpoint: String, token: String? = nil, proxy: HubProxy? = nil, answerTimeout: Double = 10,
        pieceTimeout: Double = 10, firstWait: Double = 1, tries: Int = 5
    ) {
        self.endpoint = endpoint
        while self.endpoint.hasSuffix("/") { self.endpoint.removeLast() }
        (self.token, self.proxy) = (token, proxy)
        (self.answerTimeout, self.pieceTimeout) = (answerTimeout, pieceTimeout)
        (self.firstWait, self.tries) = (firstWait, tries)
    }

    /// As the environment says: `HF_ENDPOINT`; `HF_TOKEN` or `HUGGING_FACE_HUB_TOKEN`, else the file at `HF_TOKEN_PATH` or in
    /// `hubHome`, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN`; `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`; `HF_HUB_ETAG_TIMEOUT`,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`.
    ///
    /// - Throws: `UserError` that names the variable; of a token or an address, which may hold a password, never the value.
    public static func fromEnvironment(_ variable: VariableReader) throws -> HubSettings {
        let endpoint = trimmed(variable("HF_ENDPOINT") ?? "https://huggingface.co")
        guard let url = serverURL(endpoint, schemes: ["http", "https"]), url.user == nil, url.query == nil else {
            throw UserError(
                "HF_ENDPOINT: http:// or https:// and a host are needed, as in https://huggingface.co, without a user or a query",
                .usage)
        }
        return HubSettings(
            endpoint: endpoint, token: try token(variable), proxy: try HubProxy(for: url, variable),
            answerTimeout: try seconds("HF_HUB_ETAG_TIMEOUT", variable),
            pieceTimeout: try seconds("HF_HUB_DOWNLOAD_TIMEOUT", variable))
    }

    private static func seconds(_ name: String, _ variable: VariableReader) throws -> Double {
        guard let text = variable(name) else { return 10 }
        guard let value = Double(text), value > 0, value < 86_400 else {
            throw UserError("\(name)=\(escapedForDisplay(text)): a number of seconds is needed", .usage)
        }
        return value
    }

    private static func token(_ variable: VariableReader) throws -> String? {
        if hubSwitch("HF_HUB_DISABLE_IMPLICIT_TOKEN", variable) { return nil }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let text = variable(name), let token = try cleanToken(text, from: name) { return token }
        }
        let file = hubPath("HF_TOKEN_PATH", variable) ?? hubHome(variable).map { joinPath($0, "token") }
        guard let file, fileExists(file) else { return nil }
        return try cleanToken(readTextFile(file, maxBytes: 1 << 12), from: file)
    }

    /// Without line ends and the blanks around it, as `_clean_token` of huggingface_hub; nil when nothing is left.
    private static func cleanToken(_ text: String, from source: String) throws -> String? {
        let token = trimmed(text.filter { !["\r", "\n", "\r\n"].contains($0) })
        guard token.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw UserError(
                "\(source): the token has a blank, a control character or one beyond ASCII in it, which none has; copy it again",
                .usage)
        }
        return token.isEmpty ? nil : token
    }
}

/// A proxy on the way to the Hub, asked for a connection by HTTP's CONNECT.
public struct HubProxy: Sendable, Equatable {
    public let host: String
    public let port: Int
    /// For basic authorization.
    public let user: String?, password: String?

    public init(host: String, port: Int, user: String? = nil, password: String? = nil) {
        (self.host, self.port, self.user, self.password) = (host, port, user, password)
    }

    /// `HTTPS_PROXY` or `HTTP_PROXY` (either case), by the server's scheme; nil without one, or where `NO_PROXY` names the
    /// server's host.
    init?(for server: URL, _ variable: VariableReader) throws {
        let plain = server.scheme?.lowercased() == "http" ? "http_proxy" : "https_proxy"
        guard !Self.isExcluded(server.host ?? "", variable),
            let name = [plain, plain.uppercased()].first(where: { variable($0) != nil }), let value = variable(name)
        else { return nil }
        let address = trimmed(value)
        guard let url = serverURL(address.contains("://") ? address : "http://" + address, schemes: ["http"]) else {
            throw UserError(
                "\(name): a proxy is http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with marks in them as %40; others (https, socks) are not supported",
                .usage)
        }
        // Foundation leaves the brackets around an IPv6 address, which is no host's name with them.
        self.init(
            host: (url.host ?? "").filter { $0 != "[" && $0 != "]" }, port: url.port ?? 80,
            user: url.user(percentEncoded: false), password: url.password(percentEncoded: false))
    }

    private static func isExcluded(_ host: String, _ variable: VariableReader) -> Bool {
        let names = (variable("no_proxy") ?? variable("NO_PROXY") ?? "").split(separator: ",").map {
            trimmed(String($0))
        }
        return names.contains { name in
            let domain = String(name.drop { $0 == "." })
            return name == "*" || host == domain || host.hasSuffix("." + domain)
        }
    }
}

/// An address that can be asked: ASCII, one of the schemes, a host, a port that there is (NIO stops the program at others).
func serverURL(_ text: String, schemes: [String]) -> URL? {
    guard text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), let url = URL(string: text),
        let scheme = url.scheme, schemes.contains(scheme.lowercased()), let host = url.host, !host.isEmpty,
        (1...65_535).contains(url.port ?? 80)
    else { return nil }
    return url
}

private func trimmed(_ text: String) -> String {
    let begun = text.drop(while: \.isWhitespace)
    return begun.lastIndex { !$0.isWhitespace }.map { String(begun[...$0]) } ?? ""
}
