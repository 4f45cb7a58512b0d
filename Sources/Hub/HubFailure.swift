// What went wrong between here and a server, in words.
internal import AsyncHTTPClient
internal import Glibc
internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix

/// A file that the Hub lists at a commit and does not have there.
struct HubFileAbsence: Error { let name: String }

/// A failure that may not come again.
struct HubInterruption: Error {
    let reason: String
    /// What the server asks to wait.
    var seconds: Double?
}

/// An error of the HTTP client or of what is below it. Never its own text, which may hold what was sent: the token.
///
/// - Parameter peer: whom the connection leads to.
func inWords(_ error: any Error, with peer: String) -> String {
    switch error {
    case let error as HTTPClientError: return words(error, peer)
    case let error as NIOConnectionError:
        // Of an address of each kind the one that is refused says more than the one that this machine has no way to.
        let failures = error.connectionErrors.map(\.error)
        let refusal = failures.first { ($0 as? IOError)?.errnoCode == ECONNREFUSED }
        // Without any attempt to connect only the name was asked for.
        guard let failure = refusal ?? failures.first else {
            return "the host of \(peer) is unknown, or there is no network"
        }
        return inWords(failure, with: peer)
    case let error as IOError: return words(systemError: error.errnoCode, peer)
    case ChannelError.connectTimeout: return "\(peer) does not answer in time"
    case is ChannelError: return "the connection to \(peer) broke off"
    case is HTTPParserError: return "\(peer) does not speak HTTP"
    // Told by its name: swift-nio-ssl is no dependency of this package.
    case _ where String(reflecting: type(of: error)).hasPrefix("NIOSSL."):
        return "no secure connection to \(peer): its certificate is not trusted, or it does not speak TLS"
    default: return "the connection to \(peer) failed (\(type(of: error)))"
    }
}

private func words(_ error: HTTPClientError, _ peer: String) -> String {
    switch error {
    case .connectTimeout, .readTimeout, .writeTimeout, .deadlineExceeded, .getConnectionFromPoolTimeout,
        .tlsHandshakeTimeout, .httpProxyHandshakeTimeout:
        "\(peer) does not answer in time"
    case .remoteConnectionClosed, .uncleanShutdown: "\(peer) closed the connection"
    case .proxyAuthenticationRequired: "\(peer) asks for a user and a password, or refuses those it was given"
    case .invalidProxyResponse: "\(peer) does not let the connection through"
    // The description for labels of metrics, which holds nothing of the request.
    default: "the HTTP client cannot ask \(peer): \(error.shortDescription.lowercased())"
    }
}

private func words(systemError code: Int32, _ peer: String) -> String {
    switch code {
    case ECONNREFUSED: "\(peer) refuses the connection"
    case ECONNRESET, EPIPE: "\(peer) closed the connection"
    case ENETUNREACH, EHOSTUNREACH, ENETDOWN: "\(peer) cannot be reached from this network"
    case ETIMEDOUT: "\(peer) does not answer in time"
    default: "the connection to \(peer) failed: \(String(cString: strerror(code)))"
    }
}
