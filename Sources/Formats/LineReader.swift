// Text files line by line in constant memory: JSONL, CSV and plain text of any size.
import Diagnostics
import Glibc

/// Reads a UTF-8 text file line by line.
///
/// Lines end with LF or CRLF, the last one also with the end of the file; the ends are not part of the text. A byte
/// order mark before the first line is dropped.
public final class LineReader {
    public struct Line: Sendable {
        /// From 1.
        public let number: Int
        /// Where the line begins in the file, in bytes.
        public let offset: Int
        public let text: String
    }

    public let path: String
    private let maxLineBytes: Int
    private let descriptor: Int32
    private var buffer: [UInt8] = []
    /// Unread bytes begin here in `buffer`.
    private var at = 0
    private var bufferOffset = 0
    private var number = 0
    private var reachedEnd = false
    private static let chunk = 1 << 18

    /// - Parameter maxLineBytes: a longer line is an error, not an allocation.
    /// - Throws: `UserError` that names the path.
    public init(path: String, maxLineBytes: Int = 64 << 20) throws {
        (self.path, self.maxLineBytes) = (path, maxLineBytes)
        descriptor = try openForReading(path)
        var status = stat()
        if fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFDIR {
            close(descriptor)
            throw readError(path, EISDIR)
        }
    }

    deinit { close(descriptor) }

    /// The next line, nil at the end.
    ///
    /// - Throws: `UserError` naming path and line: invalid UTF-8, a NUL character, too long, or a failing disk.
    public func next() throws -> Line? {
        var searched = at
        while true {
            if let end = position(of: 0x0A, in: searched..<buffer.count) { return try take(end, skipping: 1) }
            searched = buffer.count
            if searched - at > maxLineBytes { throw tooLong() }
            if reachedEnd { return at < buffer.count ? try take(buffer.count, skipping: 0) : nil }
            searched -= try fill()
        }
    }

    /// Where `byte` is first in part of the buffer.
    private func position(of byte: UInt8, in range: Range<Int>) -> Int? {
        buffer.withUnsafeBytes { bytes in
            guard !range.isEmpty, let start = bytes.baseAddress,
                let found = memchr(start + range.lowerBound, Int32(byte), range.count)
            else { return nil }
            return UnsafeRawPointer(found) - start
        }
    }

    /// Reads on; returns by how much the bytes in `buffer` have moved to the front.
    private func fill() throws -> Int {
        let moved = at
        buffer.removeSubrange(..<at)
        bufferOffset += at
        at = 0
        let old = buffer.count
        buffer.append(contentsOf: repeatElement(0, count: Self.chunk))
        let n = buffer.withUnsafeMutableBytes { bytes in
            retrying { read(descriptor, bytes.baseAddress! + old, Self.chunk) }
        }
        if n < 0 { throw readError(path, errno) }
        buffer.removeLast(Self.chunk - n)
        reachedEnd = n == 0
        return moved
    }

    private func take(_ end: Int, skipping terminator: Int) throws -> Line {
        var bytes = buffer[at..<end]
        let offset = bufferOffset + at
        number += 1
        at = end + terminator
        if bytes.count > maxLineBytes { throw tooLong(number) }
        if number == 1 {
            if bytes.starts(with: [0xFF, 0xFE]) || bytes.starts(with: [0xFE, 0xFF]) {
                throw UserError("\(printable(path)): UTF-16 text; save the file as UTF-8")
            }
            if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
        }
        if bytes.last == 0x0D { bytes.removeLast() }
        guard let text = bytes.withUnsafeBufferPointer({ isValidUTF8($0) ? String(decoding: $0, as: UTF8.self) : nil })
        else {
            throw fault("not UTF-8 at byte \(validUTF8Prefix(bytes) + 1) of the line; save the file as UTF-8")
        }
        if position(of: 0, in: bytes.indices) != nil { throw fault("contains a NUL character") }
        return Line(number: number, offset: offset, text: text)
    }

    private func tooLong(_ line: Int? = nil) -> UserError {
        UserError("\(printable(path)), line \(line ?? number + 1): longer than \(maxLineBytes) bytes")
    }

    private func fault(_ reason: String) -> UserError { UserError("\(printable(path)), line \(number): \(reason)") }
}
