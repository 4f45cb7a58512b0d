// Files packed by gzip or zstd, unpacked into a file without a name.
internal import CCompression
internal import Diagnostics
internal import Glibc

/// How a file is packed.
public enum FilePacking: String, Sendable, CaseIterable {
    case gzip
    case zstd

    /// By the first bytes; nil for a file that is neither.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        if bytes.starts(with: [0x1F, 0x8B]) {
            self = .gzip
        } else if bytes.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) {
            self = .zstd
        } else {
            return nil
        }
    }

    /// Endings of names that say so.
    public var pathExtensions: [String] {
        switch self {
        case .gzip: ["gz", "gzip"]
        case .zstd: ["zst", "zstd"]
        }
    }

    private var code: Int32 {
        switch self {
        case .gzip: Int32(nc_gzip)
        case .zstd: Int32(nc_zstd)
        }
    }

    /// Name of the system's library, and of the Debian package that has it.
    private var library: (file: String, package: String) {
        switch self {
        case .gzip: ("libz.so.1", "zlib1g")
        case .zstd: ("libzstd.so.1", "libzstd1")
        }
    }

    /// The first `count` bytes of what is packed in `file`, or all where there are fewer.
    public func prefix(of file: MappedFile, count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        try unpack(file) { part in
            bytes.append(contentsOf: part.prefix(count - bytes.count))
            return bytes.count < count
        }
        return bytes
    }

    /// What is packed in `file`, as a file of its own that has no name and goes with the last use of it.
    ///
    /// - Parameter longestLine: bytes between two line ends at most, so that a small file of one endless line is known for
    ///   what it is before it has filled the disk; nil where lines mean nothing.
    /// - Throws: `UserError` that names the file: damaged, cut off, a line too long (65), or no room for what is in it (73).
    public func unpacked(_ file: MappedFile, longestLine: Int? = nil) throws -> MappedFile {
        let temporary = try TemporaryFile(for: file.path)
        var lines = longestLine.map { LineLimit(path: file.path, longest: $0) }
        try unpack(file) { part in
            try lines?.take(part)
            try temporary.append(part)
            return true
        }
        return try temporary.mapped()
    }

    /// Hands unpacked bytes to `body` until it returns false.
    private func unpack(_ file: MappedFile, _ body: (UnsafeRawBufferPointer) throws -> Bool) throws {
        try withoutActuallyEscaping(body) { body in
            var receiver = Receiver(body: body)
            let status = withUnsafeMutablePointer(to: &receiver) { context in
                nc_unpack(
                    code, file.bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), file.count,
                    { context, bytes, count in
                        let receiver = context!.assumingMemoryBound(to: Receiver.self)
                        return receiver.pointee.take(UnsafeRawBufferPointer(start: bytes, count: count))
                    }, context)
            }
            if let error = receiver.error { throw error }
            if let fault = fault(status) { throw UserError("\(printable(file.path)): \(fault)") }
        }
    }

    private func fault(_ status: Int32) -> String? {
        switch status {
        case Int32(nc_ok), Int32(nc_stopped): nil
        case Int32(nc_no_library):
            "is \(rawValue)-compressed, and this machine has no \(library.file); "
                + "unpack the file, or install the library (Debian: \(library.package))"
        case Int32(nc_truncated): "the \(rawValue)-compressed data ends too early; get the file again"
        case Int32(nc_out_of_memory): "not enough memory to unpack it"
        default: "damaged: not valid \(rawValue) data; get the file again"
        }
    }
}

/// Takes what C hands out; an error stays here until the work has come back.
private struct Receiver {
    let body: (UnsafeRawBufferPointer) throws -> Bool
    var error: (any Error)?

    mutating func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
        do { return try body(bytes) } catch {
            self.error = error
            return false
        }
    }
}

/// Refuses a text with too long a line, which is given to it in parts.
private struct LineLimit {
    let path: String
    let longest: Int
    private var line = 1, length = 0

    init(path: String, longest: Int) { (self.path, self.longest) = (path, longest) }

    mutating func take(_ part: UnsafeRawBufferPointer) throws {
        var rest = part
        while let start = rest.baseAddress, let end = memchr(start, 0x0A, rest.count) {
            let count = UnsafeRawPointer(end) - start
            try add(count)
            (line, length) = (line + 1, 0)
            rest = UnsafeRawBufferPointer(rebasing: rest[(count + 1)...])
        }
        try add(rest.count)
    }

    private mutating func add(_ count: Int) throws {
        length += count
        if length > longest {
            throw UserError(
                "\(printable(path)): line \(line) of what is packed in it is longer than \(longest >> 20) MiB")
        }
    }
}

/// A file without a name in `$TMPDIR`, or `/var/tmp`: written once, then mapped; the disk has it back when it is let go.
public final class TemporaryFile {
    /// The file that it stands for, in messages.
    private let path: String
    private let folder: String
    private var descriptor: Int32

    /// - Throws: `UserError` (73) when there is no folder to write in.
    public init(for path: String) throws {
        self.path = path
        folder = environmentVariable("TMPDIR") ?? (folderExists("/var/tmp") ? "/var/tmp" : "/tmp")
        var name = Array("\(folder)/needletail-XXXXXX".utf8CString)
        descriptor = mkstemp(&name)
        if descriptor < 0 { throw writeError(folder, errno) }
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        unlink(name)
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// - Throws: `UserError` (73).
    public func append(_ bytes: UnsafeRawBufferPointer) throws {
        var rest = bytes
        while !rest.isEmpty {
            let n = retrying { write(descriptor, rest.baseAddress!, min(rest.count, 64 << 20)) }
            if n < 0 {
                let reason = String(cString: strerror(errno))
                throw UserError(
                    "\(printable(folder)): \(reason), while \(printable(path)) was unpacked there; set TMPDIR to a folder "
                        + "with more room", .cannotWrite)
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[n...])
        }
    }

    /// What was written, under the name of the file it stands for; nothing can be appended afterwards.
    public func mapped() throws -> MappedFile {
        let file = descriptor
        descriptor = -1
        return try MappedFile(takingOver: file, path: path)
    }
}
