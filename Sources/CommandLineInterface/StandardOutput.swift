// Standard output with its errors noticed: a full disk is 73, a reader that went away ends the program quietly.
internal import Diagnostics
internal import Glibc
internal import Synchronization

/// The reader of a pipe is gone; nobody is left to tell.
struct BrokenPipe: Error {}

/// Buffered standard output. `print` would ignore that nothing could be written.
public enum StandardOutput {
    private static let buffer = Mutex<[UInt8]>([])
    private static let capacity = 1 << 16

    /// Adds the text's UTF-8; written when the buffer is full or flushed.
    public static func write(_ text: String) throws { try write(Array(text.utf8)) }

    public static func write(_ bytes: [UInt8]) throws {
        try buffer.withLock {
            $0 += bytes
            if $0.count >= capacity { try drain(&$0) }
        }
    }

    /// Writes what is buffered; `Program` does so when a verb ends, an interactive verb after each piece.
    public static func flush() throws { try buffer.withLock { try drain(&$0) } }

    private static func drain(_ bytes: inout [UInt8]) throws {
        defer { bytes.removeAll(keepingCapacity: true) }
        try writeAll(bytes, to: STDOUT_FILENO, named: "standard output")
    }
}

/// Writes every byte to a descriptor.
///
/// - Throws: `BrokenPipe`, or a `UserError` (cannot write) that says why.
func writeAll(_ bytes: [UInt8], to descriptor: Int32, named name: String) throws {
    try bytes.withUnsafeBytes { bytes in
        var done = 0
        while done < bytes.count {
            let count = Glibc.write(descriptor, bytes.baseAddress! + done, bytes.count - done)
            if count >= 0 {
                done += count
            } else if errno == EPIPE {
                throw BrokenPipe()
            } else if errno != EINTR {
                throw UserError("cannot write \(name): \(String(cString: strerror(errno)))", .cannotWrite)
            }
        }
    }
}
