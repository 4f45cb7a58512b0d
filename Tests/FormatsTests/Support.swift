// What the tests of this target share: fixtures and temporary folders.
import Formats
import Glibc

/// A file beside this one in `Fixtures`.
func fixture(_ name: String) -> String { joinPath(joinPath(parentFolder(of: #filePath), "Fixtures"), name) }

/// Runs `body` with a new empty folder, removed afterwards.
@discardableResult
func withTemporaryFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    // In memory where there is such a place: a busy disk turns thousands of small files into half a minute.
    let usual = folderExists("/dev/shm") ? "/dev/shm" : "/tmp"
    let base = getenv("TMPDIR").map { String(cString: $0) } ?? usual
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

/// Runs `body` with the path of a file of this content.
@discardableResult
func withTemporaryFile<Result>(_ bytes: [UInt8], _ name: String, _ body: (String) throws -> Result) throws -> Result {
    try withTemporaryFolder { folder in
        let path = joinPath(folder, name)
        try writeWithoutSync(bytes, to: path)
        return try body(path)
    }
}

/// Overwrites in place and does not wait for the disk.
func writeWithoutSync(_ bytes: [UInt8], to path: String) throws {
    let file = try OutputFile(appendingTo: path, keeping: 0)
    try file.append(bytes)
    try file.flush()
}

/// As `writeWithoutSync`, but a new file: file systems wait for the disk when a file that was cut to nothing is closed,
/// which thousands of them would feel.
func writeAnew(_ bytes: [UInt8], to path: String) throws {
    try removeTree(path)
    try writeWithoutSync(bytes, to: path)
}
