// Writing files so that a reader sees the old content or the new one, never half of it.
import Diagnostics
import Glibc

/// A file being written front to back.
///
/// `init(replacing:)` writes beside the target under a temporary name; `close` makes the bytes durable, then renames.
/// Without `close`, for whatever reason, the target stays as it was and the temporary file is removed, also when Ctrl-C
/// ends the program.
/// `init(appendingTo:)` extends a file in place, as logs need.
public final class OutputFile {
    public let path: String
    /// Bytes written so far: where the next one goes.
    public private(set) var offset = 0
    private let temporaryPath: String?
    private var descriptor: Int32
    private var buffer: [UInt8] = []
    private static let bufferBytes = 1 << 20

    /// Begins a new file that takes the place of `path` at `close`. A device or pipe (`/dev/stdout`) is written
    /// directly.
    ///
    /// - Throws: `UserError`, exit status 73.
    public init(replacing path: String) throws {
        self.path = path
        if path.utf8.contains(0) || path.isEmpty { throw writeError(path, EINVAL) }
        if folderExists(path) { throw writeError(path, EISDIR) }
        if try Self.isSpecial(path) {
            temporaryPath = nil
            descriptor = retrying { open(path, O_WRONLY | O_CLOEXEC) }
        } else {
            let name = "\(Self.partialPrefix)\(getpid())-\(String(UInt32.random(in: 0...UInt32.max), radix: 36))"
            let temporary = joinPath(parentFolder(of: path), name)
            temporaryPath = temporary
            Unfinished.begin(temporary)
            descriptor = retrying { open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666) }
        }
        if descriptor < 0 {
            let code = errno
            if let temporaryPath { Unfinished.end(temporaryPath) }
            throw writeError(path, code)
        }
    }

    /// Opens `path`, made if it is not there, to add to it.
    ///
    /// - Parameter length: cuts the file back to this many bytes first; nil keeps all.
    public init(appendingTo path: String, keeping length: Int? = nil) throws {
        (self.path, temporaryPath) = (path, nil)
        descriptor = retrying { open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o666) }
        if descriptor < 0 { throw writeError(path, errno) }
        let size = Int(lseek(descriptor, 0, SEEK_END))
        if let length {
            guard length <= size else {
                throw UserError(
                    "\(printable(path)): \(counted(Int(size), "byte")) long; at least \(length) were expected")
            }
            guard retrying({ ftruncate(descriptor, length) }) == 0, lseek(descriptor, length, SEEK_SET) == length else {
                throw writeError(path, errno)
            }
        }
        offset = length ?? max(0, size)
    }

    private static func isSpecial(_ path: String) throws -> Bool {
        var status = stat()
        guard stat(path, &status) == 0 else { return false }
        return status.st_mode & S_IFMT != S_IFREG
    }

    deinit { discard() }

    public func append(_ bytes: UnsafeRawBufferPointer) throws {
        if buffer.count + bytes.count > Self.bufferBytes { try flush() }
        if bytes.count >= Self.bufferBytes { try writeAll(bytes) } else { buffer.append(contentsOf: bytes) }
        offset += bytes.count
    }

    public func append(_ bytes: [UInt8]) throws { try bytes.withUnsafeBytes { try append($0) } }

    public func append(_ text: String) throws {
        var text = text
        try text.withUTF8 { try append(UnsafeRawBufferPointer($0)) }
    }

    /// Hands everything to the system, so that other programs see it.
    public func flush() throws {
        if buffer.isEmpty { return }
        try buffer.withUnsafeBytes { try writeAll($0) }
        buffer.removeAll(keepingCapacity: true)
    }

    /// Flushes and waits until the bytes are on the disk.
    public func sync() throws {
        try flush()
        // Pipes and terminals cannot be synced (EINVAL, EROFS); there is no disk to wait for.
        if retrying({ fsync(descriptor) }) != 0, errno != EINVAL, errno != EROFS { throw writeError(path, errno) }
    }

    /// Syncs and, for a replacing file, puts it in place; nothing can be appended afterwards.
    public func close() throws {
        try sync()
        let closed = Glibc.close(descriptor)
        descriptor = -1
        if closed != 0 {
            let code = errno
            discard()
            throw writeError(path, code)
        }
        guard let temporaryPath else { return }
        guard Unfinished.commit({ rename(temporaryPath, path) }) == 0 else {
            let code = errno
            discard()
            throw writeError(path, code)
        }
        renamed = true
        Unfinished.end(temporaryPath)
        try syncFolder(parentFolder(of: path))
    }
    private var renamed = false

    /// Gives up: closes the file and removes the temporary one. Harmless after `close`.
    public func discard() {
        buffer = []
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
        descriptor = -1
        if let temporaryPath, !renamed {
            unlink(temporaryPath)
            Unfinished.end(temporaryPath)
            renamed = true
        }
    }

    private func writeAll(_ bytes: UnsafeRawBufferPointer) throws {
        precondition(descriptor >= 0, "append after close: \(path)")
        var rest = bytes
        while !rest.isEmpty {
            // One call moves at most 2 GB on Linux; smaller pieces keep a signal from waiting long.
            let n = retrying { write(descriptor, rest.baseAddress!, min(rest.count, 64 << 20)) }
            if n < 0 { throw writeError(path, errno) }
            rest = UnsafeRawBufferPointer(rebasing: rest[n...])
        }
    }
}

/// Writes a whole file under a temporary name, syncs it, and puts it in place.
///
/// - Throws: `UserError` with exit status 73 when the disk is full or the folder cannot be written; the old file stays.
public func writeFileAtomically(_ bytes: UnsafeRawBufferPointer, to path: String) throws {
    let file = try OutputFile(replacing: path)
    try file.append(bytes)
    try file.close()
}

public func writeFileAtomically(_ bytes: [UInt8], to path: String) throws {
    try bytes.withUnsafeBytes { try writeFileAtomically($0, to: path) }
}

public func writeFileAtomically(_ text: String, to path: String) throws {
    var text = text
    try text.withUTF8 { try writeFileAtomically(UnsafeRawBufferPointer($0), to: path) }
}
