// A hub of a few lines on this machine: one thread, one answer a connection.
import Dispatch
import Glibc
import Synchronization

/// Answers requests until it goes. `@unchecked`: what changes after `init` lies in mutexes.
final class TinyHub: @unchecked Sendable {
    struct Request: Sendable {
        let method: String, path: String
        /// By name in lower case.
        let headers: [String: String]
    }

    struct Answer: Sendable {
        var status = 200
        var headers: [String: String] = [:]
        var body = ""
    }

    let endpoint: String
    private let listener: Int32
    private let requests = Mutex<[Request]>([])

    /// What was asked so far.
    var log: [Request] { requests.withLock { $0 } }

    init(_ answer: @escaping @Sendable (Request) -> Answer) throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in(), length = socklen_t(MemoryLayout<sockaddr_in>.size)
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let isOpen = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, length) == 0 && listen(listener, 16) == 0 && getsockname(listener, $0, &length) == 0
            }
        }
        guard isOpen else { throw Failure(code: errno) }
        self.listener = listener
        endpoint = "http://127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
        DispatchQueue(label: "hub").async { [weak self] in
            // `shutdown` ends `accept` with an error.
            while case let client = accept(listener, nil, nil), client >= 0 {
                if let request = Self.request(from: client) {
                    self?.requests.withLock { $0.append(request) }
                    Self.send(answer(request), to: client, withBody: request.method != "HEAD")
                }
                close(client)
            }
            close(listener)
        }
    }

    deinit { shutdown(listener, Int32(SHUT_RDWR)) }

    struct Failure: Error { let code: Int32 }

    private static func request(from client: Int32) -> Request? {
        var bytes: [UInt8] = [], byte: UInt8 = 0
        while !bytes.suffix(4).elementsEqual("\r\n\r\n".utf8) {
            guard recv(client, &byte, 1, 0) == 1 else { return nil }
            bytes.append(byte)
        }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\r\n").map(String.init)
        let words = lines[0].split(separator: " ").map(String.init)
        let headers = lines.dropFirst().compactMap { line -> (String, String)? in
            let parts = line.split(separator: ":", maxSplits: 1)
            return parts.count == 2 ? (parts[0].lowercased(), String(parts[1].drop { $0 == " " })) : nil
        }
        return Request(
            method: words[0], path: words[1], headers: Dictionary(headers, uniquingKeysWith: { first, _ in first }))
    }

    private static func send(_ answer: Answer, to client: Int32, withBody: Bool) {
        var headers = answer.headers
        headers["Connection"] = "close"
        headers["Content-Length"] = "\(answer.body.utf8.count)"
        let head = headers.map { "\($0.key): \($0.value)\r\n" }.joined()
        let text = "HTTP/1.1 \(answer.status) Answer\r\n\(head)\r\n\(withBody ? answer.body : "")"
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.send(client, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count <= 0 { return }
            rest = rest.dropFirst(count)
        }
    }
}
