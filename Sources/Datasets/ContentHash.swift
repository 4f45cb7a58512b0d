// What the data of a run was: a hash over the bytes of its files.
import Crypto
import Formats

/// SHA-256 of each file of a source, and one over all of them.
public struct DataFingerprint: Sendable, Equatable {
    public struct File: Sendable, Equatable {
        public let path: String
        public let bytes: Int
        /// 64 lower-case hexadecimal digits.
        public let sha256: String
    }

    public let files: [File]
    /// Over the hashes in order, so that renaming or moving the files changes nothing and reordering them does.
    public let sha256: String

    /// Reads all files that `source` names.
    public init(_ source: DataSource) throws { self.init(try source.files()) }

    init(_ files: [DataFile]) {
        self.files = files.map { file in
            File(path: file.path, bytes: file.mapped.count, sha256: hexadecimalSHA256(file.mapped.bytes))
        }
        sha256 = hexadecimalSHA256(self.files.map { $0.sha256 + "\n" }.joined())
    }
}

/// SHA-256 as 64 lower-case hexadecimal digits.
func hexadecimalSHA256(_ bytes: UnsafeRawBufferPointer) -> String {
    var hash = SHA256()
    // Pieces, because the pages of a large file should not all be wanted at once.
    for start in stride(from: 0, to: bytes.count, by: 1 << 24) {
        hash.update(bufferPointer: UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + 1 << 24, bytes.count)]))
    }
    return hexadecimal(hash.finalize())
}

func hexadecimalSHA256(_ text: String) -> String {
    var text = text
    return text.withUTF8 { hexadecimalSHA256(UnsafeRawBufferPointer($0)) }
}
