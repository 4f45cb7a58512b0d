// Runs the built program as a person would.
import Diagnostics
import Glibc

/// What a run of the program left behind.
struct Outcome {
    let status: Int32
    let output: String
    let errors: String
    let milliseconds: Double
}

/// The folder of the build products: where the test bundle itself lies.
let products: String = {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let length = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.baseAddress!, $0.count) }
    return String(decoding: buffer[..<max(0, length)].prefix(upTo: buffer.lastIndex(of: 0x2F) ?? 0), as: UTF8.self)
}()

/// Runs a shell command; `needletail` in it is the one in the folder's `bin`, else the program just built.
func shell(_ command: String, in folder: String) throws -> Outcome {
    let errorsPath = "\(folder)/.stderr-\(UInt32.random(in: 0...UInt32.max))"
    defer { unlink(errorsPath) }
    // Nothing in a test asks the network.
    let script =
        "cd '\(folder)' && export HF_HUB_OFFLINE=1 && PATH=\"$PWD/bin:\(products):$PATH\" && { \(command)\n} 2> '\(errorsPath)'"
    var begin = timespec(), end = timespec()
    clock_gettime(CLOCK_MONOTONIC, &begin)
    guard let pipe = popen(script, "r") else { throw UserError("popen failed", .internal) }
    let output = text(of: pipe)
    let status = pclose(pipe)
    clock_gettime(CLOCK_MONOTONIC, &end)
    let file = fopen(errorsPath, "r")
    let errors = file.map { text(of: $0) } ?? ""
    if let file { fclose(file) }
    let elapsed = Double(end.tv_sec - begin.tv_sec) * 1e3 + Double(end.tv_nsec - begin.tv_nsec) / 1e6
    return Outcome(
        status: status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F), output: output, errors: errors,
        milliseconds: elapsed)
}

private func text(of file: UnsafeMutablePointer<FILE>) -> String {
    var bytes: [UInt8] = [], chunk = [UInt8](repeating: 0, count: 1 << 16)
    while case let count = fread(&chunk, 1, chunk.count, file), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

/// A folder for one test, removed afterwards.
func withTemporaryFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    var template = Array("/tmp/needletail-test-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw UserError("mkdtemp failed", .internal) }
    let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer { system("rm -rf '\(folder)'") }
    return try body(folder)
}
