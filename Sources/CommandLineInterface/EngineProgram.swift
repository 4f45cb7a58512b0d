// Finds needletail-engine and lets it take the place of this process.
internal import Diagnostics
internal import Formats
internal import Glibc

/// Replaces this process by `needletail-engine` with the same arguments; returns only by throwing.
///
/// The engine is looked for beside this program and in `../libexec/needletail`, links followed, so that a checkout, an
/// installed tree that was moved, and a link on PATH all work.
func executeEngine() throws {
    try StandardOutput.flush()
    let folder = try programFolder()
    let candidates = ["\(folder)/needletail-engine", "\(folder)/../libexec/needletail/needletail-engine"]
    guard let engine = candidates.first(where: { access($0, X_OK) == 0 }) else {
        throw UserError(
            "needletail-engine is neither in \(folder) nor in \(folder)/../libexec/needletail; "
                + "build it with 'make build' or repeat 'make install'", .internal)
    }
    let missing = missingLibraries(of: engine)
    guard missing.isEmpty else {
        throw UserError(
            "needletail-engine does not find \(missing.joined(separator: ", ")); run scripts/bootstrap in the checkout, which "
                + "fetches LibTorch, or repeat 'make install'", .internal)
    }
    boundWaiting()
    let words = [engine] + CommandLine.arguments.dropFirst()
    var pointers: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
    pointers.append(nil)
    execv(engine, pointers)
    let reason = String(cString: strerror(errno))
    pointers.forEach { free($0) }
    throw UserError("cannot start \(engine): \(reason)", .internal)
}

/// Libraries that the engine needs and the loader does not find, as `ldd` tells; none where it cannot tell.
///
/// The loader's own line would not say what to do. `ldd` takes 10 ms, so it is asked only where LibTorch is in none of the
/// places that Package.swift gives the engine; it may be in others, as those of `$LD_LIBRARY_PATH`.
private func missingLibraries(of engine: String) -> [String] {
    let places = ["", "/../../lib/needletail", "/../../../.deps/libtorch/lib"]
    let folder = parentFolder(of: engine)
    if places.contains(where: { fileExists("\(folder)\($0)/libtorch_cpu.so") }) { return [] }
    guard let pipe = popen("ldd \(shellWord(engine)) 2> /dev/null", "r") else { return [] }
    defer { pclose(pipe) }
    var bytes: [UInt8] = [], chunk = [UInt8](repeating: 0, count: 1 << 12)
    while case let count = fread(&chunk, 1, chunk.count, pipe), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").filter { $0.hasSuffix("=> not found") }
        .compactMap { $0.split(whereSeparator: \.isWhitespace).first.map(String.init) }
}

/// Lets threads that wait for one another give up their processor soon, unless the environment says how they should wait.
///
/// OpenMP's threads spin for milliseconds by default. Where any other program wants a processor, they then take it from
/// the thread they wait for: generation beside one busy process runs at 15.2 instead of 8.5 tokens/s with this bound, and
/// at the same speed alone (2 cores, 2026-11-26). The runtime reads the variable before the engine's first line.
private func boundWaiting() {
    if getenv("OMP_WAIT_POLICY") == nil { setenv("GOMP_SPINCOUNT", "1000", 0) }
}

/// This process's command line as the person typed it: the front program's name instead of the path of the engine.
public var typedCommand: [String] { ["needletail"] + CommandLine.arguments.dropFirst() }

/// The folder that holds the running program's file, links followed.
func programFolder() throws -> String {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let length = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.baseAddress!, $0.count) }
    guard length > 0, let slash = buffer[..<length].lastIndex(of: UInt8(ascii: "/")) else {
        throw UserError("cannot read /proc/self/exe: \(String(cString: strerror(errno)))", .internal)
    }
    return String(decoding: buffer[..<slash], as: UTF8.self)
}
