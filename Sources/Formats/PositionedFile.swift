// A file written at chosen offsets by several threads at once.
import Diagnostics
import Glibc

/// A new file of a known size whose parts are written in any order.
///
/// Meant for folders that appear as a whole (`writeFolderAtomically`): the file has its own name from the beginning.
// Sendable: the descriptor never changes before `close`, and `pwrite` needs no position of its own.
public final class PositionedFile: @unchecked Sendable {
    public let path: String
    public let byteCount: Int
    private var descriptor: Int32

    /// Creates the file, `byteCount` zeros.
    ///
    /// - Throws: `UserError` (73) when it is there already or cannot be written.
    public init(creating path: String, byteCount: Int) throws {
        (self.path, self.byteCount) = (path, byteCount)
        descriptor = retrying { open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666) }
        if descriptor < 0 { throw writeError(path, errno) }
        guard retrying({ ftruncate(descriptor, byteCount) }) == 0 else { throw writeError(path, errno) }
    }

    /// Opens a file that `init(creating:)` made.
    public init(path: String, byteCount: Int) throws {
        (self.path, self.byteCount) = (path, byteCount)
        descriptor = retrying { open(path, O_WRONLY | O_CLOEXEC) }
        if descriptor < 0 { throw writeError(path, errno) }
    }

    deinit { if descriptor >= 0 { _ = Glibc.close(descriptor) } }

    /// Writes `bytes` from `offset` on; from any thread.
    public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws {
        precondition(descriptor >= 0 && offset >= 0 && offset + bytes.count <= byteCount, "\(path): outside the file")
        var done = 0
        while done < bytes.count {
            // Small pieces, so that a signal does not wait long.
            let count = min(bytes.count - done, 64 << 20)
            let n = retrying { pwrite(descriptor, bytes.baseAddress! + done, count, offset + done) }
            if n < 0 { throw writeError(path, errno) }
            done += n
        }
    }

    /// Waits until the bytes are on the disk.
    public func sync() throws {
        if retrying({ fsync(descriptor) }) != 0, errno != EINVAL, errno != EROFS { throw writeError(path, errno) }
    }

    /// Syncs and closes; nothing can be written afterwards.
    public func close() throws {
        try sync()
        let closed = Glibc.close(descriptor)
        descriptor = -1
        if closed != 0 { throw writeError(path, errno) }
    }
}
