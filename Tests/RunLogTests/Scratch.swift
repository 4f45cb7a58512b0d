// A folder of its own for each test, and the few file operations that tests need.

import Glibc
import RunLog
import Synchronization

/// A new folder that is removed with the value.
final class Scratch {
    let path: String

    init() {
        var template = Array("/tmp/needletail-test-XXXXXX".utf8CString)
        path = mkdtemp(&template).map { String(cString: $0) }!
    }

    deinit { removeAll(path) }
}

func removeAll(_ path: String) {
    for name in names(path) {
        var info = stat()
        lstat("\(path)/\(name)", &info)
        if info.st_mode & S_IFMT == S_IFDIR { removeAll("\(path)/\(name)") } else { unlink("\(path)/\(name)") }
    }
    rmdir(path)
}

/// Sorted names without `.` and `..`.
func names(_ folder: String) -> [String] {
    guard let stream = opendir(folder) else { return [] }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
        names.append(
            withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
    }
    return names.filter { $0 != "." && $0 != ".." }.sorted()
}

func bytes(_ path: String) -> [UInt8] {
    guard let file = fopen(path, "r") else { return [] }
    defer { fclose(file) }
    var all: [UInt8] = [], buffer = [UInt8](repeating: 0, count: 4096)
    while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { all += buffer[..<count] }
    return all
}

func text(_ path: String) -> String { String(decoding: bytes(path), as: UTF8.self) }

func write(_ content: [UInt8], _ path: String) {
    guard let file = fopen(path, "w") else { return perror(path) }
    fwrite(content, 1, content.count, file)
    fclose(file)
}

/// Lines that a store or folder logged.
final class Lines: Sendable {
    private let storage = Mutex<[String]>([])
    var all: [String] { storage.withLock { $0 } }
    func add(_ line: String) { storage.withLock { $0.append(line) } }
}

/// Deterministic random numbers for tests (SplitMix64).
struct TestRandom: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// Standard normal (Box-Muller).
    mutating func normal() -> Double {
        let u = Double.random(in: 1e-12..<1, using: &self), v = Double.random(in: 0..<1, using: &self)
        return (-2 * log(u)).squareRoot() * cos(2 * .pi * v)
    }
}
