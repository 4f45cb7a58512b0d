// A blob of the cache on its way: bytes are added behind those that are there, and its name is proven by its hash.
internal import Crypto
internal import Diagnostics
internal import Formats
internal import Glibc

/// An unfinished blob, under the name that the Hub's own client gives it too.
final class BlobFile {
    let path: String
    private let file: HubFile
    private let descriptor: Int32
    private(set) var size: Int

    static func unfinished(_ blob: String) -> String { blob + ".incomplete" }

    /// Opens what an earlier download left, or begins anew.
    init(_ blob: String, _ file: HubFile) throws {
        self.file = file
        path = Self.unfinished(blob)
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw writeError(path, errno) }
        size = try fileSize(path)
        if size > file.size { try cut(to: 0) }
    }

    deinit { close(descriptor) }

    func cut(to length: Int) throws {
        guard ftruncate(descriptor, off_t(length)) == 0 else { throw writeError(path, errno) }
        size = length
    }

    /// - Throws: `HubInterruption` when there is more than the Hub announced.
    func append(_ bytes: UnsafeRawBufferPointer) throws {
        guard size + bytes.count <= file.size else {
            try cut(to: 0)
            throw HubInterruption(reason: "the server sends more than the \(file.size) bytes it announced")
        }
        var rest = bytes
        while !rest.isEmpty {
            let count = pwrite(descriptor, rest.baseAddress, rest.count, off_t(size))
            if count < 0 {
                if errno == EINTR { continue }
                throw writeError(path, errno)
            }
            size += count
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }

    /// Gives the blob its name once all of it is there and is what the name says.
    ///
    /// - Throws: `HubInterruption` when it is not; what is wrong is gone then.
    func finish(as blob: String) throws {
        guard size == file.size else {
            throw HubInterruption(reason: "the server stopped after \(size) of \(file.size) bytes")
        }
        if let found = try hash(of: path, descriptor, size: size, like: file.etag), found != file.etag {
            try cut(to: 0)
            throw HubInterruption(reason: "what came has the hash \(found), not \(file.etag)")
        }
        guard fsync(descriptor) == 0 else { throw writeError(path, errno) }
        try moveFile(path, to: blob)
    }
}

/// Whether the bytes of a blob are not those that its name tells of.
func isDamaged(blob path: String) throws -> Bool {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw readError(path, errno) }
    defer { close(descriptor) }
    let name = fileName(of: path)
    return try hash(of: path, descriptor, size: fileSize(path), like: name).map { $0 != name } ?? false
}

/// SHA-256 for names of 64 digits, git's SHA-1 for 40; nil for any other name, which says nothing of the bytes.
private func hash(of path: String, _ descriptor: Int32, size: Int, like name: String) throws -> String? {
    guard name.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }) else { return nil }
    switch name.utf8.count {
    case 64: return try digest(SHA256(), of: path, descriptor, size)
    case 40:
        var hash = Insecure.SHA1()
        hash.update(data: Array("blob \(size)\0".utf8))
        return try digest(hash, of: path, descriptor, size)
    default: return nil
    }
}

private func digest(_ begun: some HashFunction, of path: String, _ descriptor: Int32, _ size: Int) throws -> String {
    var hash = begun, at = 0
    try withUnsafeTemporaryAllocation(byteCount: 1 << 20, alignment: 64) { buffer in
        while at < size {
            let count = pread(descriptor, buffer.baseAddress, buffer.count, off_t(at))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw readError(path, errno) }
            hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            at += count
        }
    }
    return hexadecimal(hash.finalize())
}
