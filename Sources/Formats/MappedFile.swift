// A file seen as memory: nothing is copied until it is touched.
import Diagnostics
import Glibc

/// A regular file mapped read-only.
///
/// The mapping follows the file: a program that truncates it in place takes the pages away, and touching them then ends
/// the process with SIGBUS, which no user-space check can rule out. `checkedBytes` compares the present size first and
/// throws instead; what remains is a truncation between that check and the access, which `read` also survives. Programs
/// that replace a file by renaming a new one over it, as this one does, are harmless: the mapping keeps the old file.
// Sendable: the mapping is never written through and lives until `deinit`.
public final class MappedFile: @unchecked Sendable {
    public let path: String
    /// The whole file; valid while this object lives.
    public let bytes: UnsafeRawBufferPointer
    private let descriptor: Int32

    public var count: Int { bytes.count }

    /// - Throws: `UserError` that names the path: missing, no permission, a folder or not a regular file.
    public convenience init(path: String) throws {
        try self.init(takingOver: openForReading(path), path: path)
    }

    /// - Parameter descriptor: open for reading; closed here.
    init(takingOver descriptor: Int32, path: String) throws {
        do {
            bytes = try Self.map(descriptor, path)
        } catch {
            close(descriptor)
            throw error
        }
        (self.path, self.descriptor) = (path, descriptor)
    }

    private static func map(_ descriptor: Int32, _ path: String) throws -> UnsafeRawBufferPointer {
        let size = try sizeOfRegularFile(descriptor, path)
        if size == 0 { return UnsafeRawBufferPointer(start: nil, count: 0) }
        guard let start = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0), start != MAP_FAILED else {
            throw readError(path, errno)
        }
        return UnsafeRawBufferPointer(start: start, count: size)
    }

    deinit {
        if let start = bytes.baseAddress { munmap(UnsafeMutableRawPointer(mutating: start), bytes.count) }
        close(descriptor)
    }

    /// Part of the file, after a check that the file still is as long as it was when it was mapped.
    ///
    /// - Precondition: `range` lies in the file.
    /// - Throws: `UserError` when another program has truncated the file.
    public func checkedBytes(_ range: Range<Int>) throws -> UnsafeRawBufferPointer {
        guard try sizeOfRegularFile(descriptor, path) >= count else { throw becameShorter() }
        return UnsafeRawBufferPointer(rebasing: bytes[range])
    }

    /// Copies part of the file without going through the mapping, so that no truncation, however timed, ends the
    /// process.
    ///
    /// - Precondition: `range` lies in the file and is as long as `destination`.
    /// - Throws: `UserError` when the file has been truncated or cannot be read.
    public func read(_ range: Range<Int>, into destination: UnsafeMutableRawBufferPointer) throws {
        precondition(range.upperBound <= count && range.count == destination.count, "\(path): range and room differ")
        var done = 0
        while done < range.count {
            let n = retrying {
                pread(descriptor, destination.baseAddress! + done, range.count - done, range.lowerBound + done)
            }
            if n < 0 { throw readError(path, errno) }
            if n == 0 { throw becameShorter() }
            done += n
        }
    }

    private func becameShorter() -> UserError {
        UserError("\(printable(path)): became shorter while it was in use; another program is writing it")
    }
}

/// Size of the open file; refuses folders, pipes and devices, whose size says nothing.
func sizeOfRegularFile(_ descriptor: Int32, _ path: String) throws -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw readError(path, errno) }
    switch status.st_mode & S_IFMT {
    case S_IFREG: return Int(status.st_size)
    case S_IFDIR: throw readError(path, EISDIR)
    default: throw UserError("\(printable(path)): is not a regular file")
    }
}
