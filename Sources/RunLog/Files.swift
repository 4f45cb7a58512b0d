// What checkpoints need of the file system beside `Formats`: hashes, renames that never replace, exchanges.

internal import Crypto
internal import Diagnostics
internal import Formats
internal import Glibc

/// Operations on paths; failures are `UserError` with exit status 73 unless stated otherwise.
enum Files {
    static func failure(_ action: String, _ path: String, _ code: Int32 = errno) -> UserError {
        UserError("\(path): \(action): \(String(cString: strerror(code)))", .cannotWrite)
    }

    /// Names in a folder; none when it does not exist or is not for this user to see.
    static func names(in folder: String) -> [String] { (try? listFolder(folder)) ?? [] }

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

    /// Waits until a file's content is on the disk.
    static func sync(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure("cannot be opened", path) }
        defer { close(descriptor) }
        if fsync(descriptor) != 0 { throw failure("cannot be written to the disk", path) }
    }

    /// Renames; false when the new name is taken.
    static func renameIfFree(_ old: String, _ new: String) throws -> Bool {
        if renameat2(old, new, 1 /* RENAME_NOREPLACE */) == 0 { return true }
        if errno == EEXIST { return false }
        // File systems without the flag: `rename` never replaces a folder that has entries.
        guard errno == EINVAL || errno == ENOSYS, !pathExists(new) else { throw failure("cannot be renamed", old) }
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

/// The same of bytes in memory.
public func sha256(ofBytes bytes: [UInt8]) -> String { Files.sha256(bytes) }
