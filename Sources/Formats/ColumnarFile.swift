// Parquet and Arrow files, read by Arrow's own C++ library: as JSON lines, which everything else reads.
internal import Diagnostics
internal import Glibc

/// A kind of file that keeps columns together.
public enum ColumnarFormat: Int32, Sendable {
    case parquet = 1
    case arrowFile = 2
    /// The streaming format, as the package `datasets` keeps its files.
    case arrowStream = 3

    /// By the first bytes; nil for other files. A stream begins with the mark of its first message.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        if bytes.starts(with: Array("PAR1".utf8)) {
            self = .parquet
        } else if bytes.starts(with: Array("ARROW1\0\0".utf8)) {
            self = .arrowFile
        } else if bytes.starts(with: [0xFF, 0xFF, 0xFF, 0xFF]) {
            self = .arrowStream
        } else {
            return nil
        }
    }

    private var name: String { self == .parquet ? "Parquet" : "Arrow" }

    /// The rows of a file as JSON lines, in a file of their own that has no name.
    ///
    /// - Throws: `UserError` that names the file: damaged or not read (65), no room for the rows (73), no library.
    public func jsonLines(_ file: MappedFile) throws -> MappedFile {
        let library = try ArrowLibrary.shared.get()
        let temporary = try TemporaryFile(for: file.path)
        var receiver = LinesReceiver(file: temporary)
        var message = [CChar](repeating: 0, count: 1024)
        let status = withUnsafeMutablePointer(to: &receiver) { context in
            library.jsonLines(
                file.path, rawValue,
                { context, bytes, count in
                    let receiver = context!.assumingMemoryBound(to: LinesReceiver.self)
                    return receiver.pointee.take(UnsafeRawBufferPointer(start: bytes, count: count))
                }, context, &message, message.count)
        }
        if let error = receiver.error { throw error }
        if status != 0 {
            let text = message.withUnsafeBytes { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
            throw UserError("\(printable(file.path)): cannot be read as \(name): \(printable(text))")
        }
        return try temporary.mapped()
    }
}

/// Takes what the library hands out; an error stays here until the work has come back.
private struct LinesReceiver {
    let file: TemporaryFile
    var error: (any Error)?

    mutating func take(_ bytes: UnsafeRawBufferPointer) -> Bool {
        do {
            try file.append(bytes)
            return true
        } catch {
            self.error = error
            return false
        }
    }
}

/// `CArrow` as a library, opened when it is first wanted: with Arrow's own it is 60 MB, which other commands do without.
private struct ArrowLibrary: Sendable {
    typealias Receiver = @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, Int) -> Bool
    typealias JSONLines =
        @convention(c) (
            UnsafePointer<CChar>, Int32, Receiver, UnsafeMutableRawPointer?, UnsafeMutablePointer<CChar>, Int
        ) -> Int32

    let jsonLines: JSONLines

    static let shared = Result { try ArrowLibrary() }
    private static let file = "libneedletail-arrow.so"

    private init() throws {
        var reason = ""
        for folder in Self.folders {
            let path = joinPath(folder, Self.file)
            guard fileExists(path) else { continue }
            guard let handle = dlopen(path, RTLD_NOW | RTLD_LOCAL), let symbol = dlsym(handle, "na_json_lines") else {
                reason = dlerror().map { ": " + String(cString: $0) } ?? ""
                continue
            }
            jsonLines = unsafeBitCast(symbol, to: JSONLines.self)
            return
        }
        throw UserError(
            "Parquet and Arrow files are read by \(Self.file), which cannot be opened\(printable(reason)); run scripts/bootstrap "
                + "and make build in the checkout, or install the program anew", .internal)
    }

    /// Beside the program in a checkout, in `lib/needletail` of an installed one (whose engine lies in `libexec/needletail`).
    private static var folders: [String] {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let length = buffer.withUnsafeMutableBytes { readlink("/proc/self/exe", $0.baseAddress!, $0.count) }
        let program = String(decoding: buffer.prefix(max(0, length)), as: UTF8.self)
        let folder = parentFolder(of: program)
        return [folder, joinPath(folder, "../lib/needletail"), joinPath(folder, "../../lib/needletail")]
    }
}
