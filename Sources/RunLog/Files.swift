// The few file operations that a run folder rests on, each with errno in its message and nothing left half-written.

internal import Crypto
internal import Diagnostics
internal import Glibc

/// Operations on paths; failures are `UserError` with exit status 73 unless stated otherwise.
enum Files {
    static func failure(_ action: String, _ path: String, _ code: Int32 = errno) -> UserError {
        UserError("\(path): \(action): \(String(cString: strerror(code)))", .cannotWrite)
    }

    static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    static func isFolder(_ path: String) -> Bool {
        var info = stat()
        return stat(path, &info) == 0 && info.st_mode & S_IFMT == S_IFDIR
    }

    /// Length in bytes; nil when there is no such file.
    static func size(_ path: String) -> Int? {
        var info = stat()
        return stat(path, &info) == 0 ? Int(info.st_size) : nil
    }

    /// Creates a folder and those above it.
    static func makeFolder(_ path: String) throws {
        if path.isEmpty || isFolder(path) { return }
        if let slash = path.lastIndex(of: "/"), slash != path.startIndex { try makeFolder(String(path[..<slash])) }
        if mkdir(path, 0o777) != 0, errno != EEXIST || !isFolder(path) {
            throw failure("the folder cannot be created", path)
        }
    }

    /// Names in a folder without `.` and `..`, sorted; empty when it does not exist.
    static func names(in folder: String) -> [String] {
        guard let stream = opendir(folder) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Whole content; 65 when it cannot be read.
    static func read(_ path: String) throws -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw UserError("\(path): cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        try forEachBlock(of: descriptor, path) { bytes.append(contentsOf: $0) }
        return bytes
    }

    /// SHA-256 in lower-case hexadecimal, and length.
    static func digest(_ path: String) throws -> (sha256: String, bytes: Int) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw UserError("\(path): cannot be read: \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var hash = SHA256(), count = 0
        try forEachBlock(of: descriptor, path) {
            hash.update(bufferPointer: $0)
            count += $0.count
        }
        return (hexadecimal(hash.finalize()), count)
    }

    private static func forEachBlock(
        of descriptor: Int32, _ path: String, _ body: (UnsafeRawBufferPointer) -> Void
    ) throws {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            let count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                throw UserError("\(path): cannot be read: \(String(cString: strerror(errno)))")
            }
            if count == 0 { return }
            body(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }

    /// Writes all of `bytes` to an open file.
    static func write(_ bytes: some Collection<UInt8>, to descriptor: Int32, _ path: String) throws {
        var rest = Array(bytes)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure("cannot be written", path) }
            rest = rest.dropFirst(count)
        }
    }

    /// Creates or replaces a file and waits until it is on the disk.
    static func writeDurably(_ bytes: some Collection<UInt8>, to path: String) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw failure("cannot be written", path) }
        defer { close(descriptor) }
        try write(bytes, to: descriptor, path)
        guard fsync(descriptor) == 0 else { throw failure("cannot be written", path) }
    }

    /// Replaces a file so that a reader or a crash meets the old or the new content, never a part.
    static func replace(_ path: String, with bytes: some Collection<UInt8>) throws {
        let partial = "\(path).partial-\(nonce())"
        do {
            try writeDurably(bytes, to: partial)
            guard rename(partial, path) == 0 else { throw failure("cannot be written", path) }
        } catch {
            unlink(partial)
            throw error
        }
        try sync(parent(of: path))
    }

    /// Waits until a file's content, or a folder's entries, are on the disk.
    static func sync(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("cannot be opened", path) }
        defer { close(descriptor) }
        // Some file systems cannot sync a folder and say EINVAL; there is nothing better to do there.
        if fsync(descriptor) != 0, errno != EINVAL { throw failure("cannot be written to the disk", path) }
    }

    /// Renames; false when the new name is taken.
    static func renameIfFree(_ old: String, _ new: String) throws -> Bool {
        if renameat2(old, new, 1 /* RENAME_NOREPLACE */) == 0 { return true }
        if errno == EEXIST { return false }
        // File systems without the flag: `rename` never replaces a folder that has entries.
        guard errno == EINVAL || errno == ENOSYS, !exists(new) else { throw failure("cannot be renamed", old) }
        guard rename(old, new) == 0 else { throw failure("cannot be renamed", old) }
        return true
    }

    /// Gives the folder at `new` the name `old` and the other way round, in one step where the file system can.
    static func exchange(_ old: String, _ new: String) throws {
        if renameat2(old, new, 2 /* RENAME_EXCHANGE */) == 0 { return }
        let aside = "\(old).aside"
        guard errno == EINVAL || errno == ENOSYS, rename(new, aside) == 0, rename(old, new) == 0,
            rename(aside, old) == 0
        else { throw failure("cannot be exchanged with \(old)", new) }
    }

    /// `renameat2`, which the C library has and its Swift overlay does not show; ENOSYS where there is none.
    private static func renameat2(_ old: String, _ new: String, _ flags: UInt32) -> Int32 {
        typealias Function =
            @convention(c) (Int32, UnsafePointer<CChar>, Int32, UnsafePointer<CChar>, UInt32) -> Int32
        guard let symbol = dlsym(nil, "renameat2") else {
            errno = ENOSYS
            return -1
        }
        return unsafeBitCast(symbol, to: Function.self)(AT_FDCWD, old, AT_FDCWD, new, flags)
    }

    /// Deletes a file, or a folder with everything in it; links are deleted, never followed.
    static func remove(_ path: String) throws {
        var info = stat()
        guard lstat(path, &info) == 0 else { return }
        guard info.st_mode & S_IFMT == S_IFDIR else {
            guard unlink(path) == 0 || errno == ENOENT else { throw failure("cannot be deleted", path) }
            return
        }
        for name in names(in: path) { try remove("\(path)/\(name)") }
        guard rmdir(path) == 0 || errno == ENOENT else { throw failure("cannot be deleted", path) }
    }

    /// Bytes a user may still write to the file system of `path`; nil when it does not say.
    static func freeBytes(at path: String) -> Int? {
        var info = statvfs()
        guard statvfs(path, &info) == 0 else { return nil }
        return Int(clamping: UInt64(info.f_bavail).multipliedReportingOverflow(by: UInt64(info.f_frsize)).partialValue)
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    /// Sixteen random hexadecimal digits: names of files on their way in or out. Not for anything that is computed.
    static func nonce() -> String {
        let digits = String(UInt64.random(in: 0 ... .max), radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    static func sha256(_ bytes: some Sequence<UInt8>) -> String { hexadecimal(SHA256.hash(data: Array(bytes))) }
}

/// SHA-256 of a file in lower-case hexadecimal: how data, tokenizers and bases are named in a run's record.
///
/// - Throws: `UserError` (65) when the file cannot be read.
public func sha256(ofFile path: String) throws -> String { try Files.digest(path).sha256 }
