// What the tests of this target share: fixtures and temporary folders.
import Formats
import Glibc

/// A file beside this one in `Fixtures`.
func fixture(_ name: String) -> String { joinPath(joinPath(parentFolder(of: #filePath), "Fixtures"), name) }

/// Runs `body` with a new empty folder, removed afterwards.
func withTemporaryFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    let folder = joinPath(base, "formats-tests-\(getpid())-\(UInt64.random(in: 0...UInt64.max))")
    try createDirectories(folder)
    let result = Swift.Result { try body(folder) }
    try removeTree(folder)
    return try result.get()
}

/// The little-endian bytes of `values`.
func littleEndian<Value: FixedWidthInteger>(_ values: Value...) -> [UInt8] {
    values.flatMap { value in withUnsafeBytes(of: value.littleEndian) { Array($0) } }
}
