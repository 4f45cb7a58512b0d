// The few things every part of the program does with files and folders, with errors a person can use.
import Diagnostics
import Glibc

/// Reads a whole regular file.
///
/// - Parameter maxBytes: refuses larger files before reading; 64 MB suits configuration and tokenizer files.
/// - Throws: `UserError` that names the path and the reason.
public func readFile(_ path: String, maxBytes: Int = 64 << 20) throws -> [UInt8] {
    let descriptor = try openForReading(path)
    defer { close(descriptor) }
    let size = try sizeOfRegularFile(descriptor, path)
    let tooLong = { UserError("\(printable(path)): too large; at most \(maxBytes) bytes are read here") }
    if size > maxBytes { throw tooLong() }
    var bytes: [UInt8] = []
    // The size is a hint: files of /proc say 0, and others may grow or shrink while they are read.
    bytes.reserveCapacity(size + 1)
    try withUnsafeTemporaryAllocation(byteCount: min(1 << 20, max(size + 1, 1 << 12)), alignment: 16) { buffer in
        while true {
            let count = retrying { read(descriptor, buffer.baseAddress, buffer.count) }
            if count < 0 { throw readError(path, errno) }
            if count == 0 { return }
            bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
            if bytes.count > maxBytes { throw tooLong() }
        }
    }
    return bytes
}

/// Reads a whole file as UTF-8; a byte order mark at its beginning is dropped.
public func readTextFile(_ path: String, maxBytes: Int = 64 << 20) throws -> String {
    var bytes = try readFile(path, maxBytes: maxBytes)[...]
    if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
    if let text = String(validating: bytes, as: UTF8.self) { return text }
    let line = 1 + bytes.prefix(validUTF8Prefix(bytes)).count { $0 == 0x0A }
    throw UserError("\(printable(path)), line \(line): not UTF-8 text; save the file as UTF-8")
}

/// How the files of a model in parts are told apart: `00002-of-00003`.
func partName(_ number: Int, of count: Int) -> String {
    func padded(_ number: Int) -> String {
        let digits = String(number)
        return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
    }
    return "\(padded(number))-of-\(padded(count))"
}

/// Reads a file that holds one JSON value.
public func readJSONFile(_ path: String, maxBytes: Int = 64 << 20, maxDepth: Int = 256) throws -> JSONValue {
    let bytes = try readFile(path, maxBytes: maxBytes)
    do {
        return try JSONValue.parse(bytes, maxDepth: maxDepth)
    } catch {
        throw UserError("\(printable(path)): \(error)")
    }
}

/// True when `path` leads to something that is not a folder.
public func fileExists(_ path: String) -> Bool { modeOf(path).map { $0 & S_IFMT != S_IFDIR } ?? false }

/// True when `path` leads to a folder.
public func folderExists(_ path: String) -> Bool { modeOf(path).map { $0 & S_IFMT == S_IFDIR } ?? false }

private func modeOf(_ path: String) -> mode_t? {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_mode : nil
}

/// True when `path` leads to anything, a folder included.
public func pathExists(_ path: String) -> Bool { modeOf(path) != nil }

/// Size of a regular file in bytes.
public func fileSize(_ path: String) throws -> Int {
    let descriptor = try openForReading(path)
    defer { close(descriptor) }
    return try sizeOfRegularFile(descriptor, path)
}

/// Bytes that this user may still write on the file system of an existing `path`.
public func availableBytes(at path: String) throws -> Int {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { throw readError(path, errno) }
    return checkedProduct([Int(clamping: status.f_bavail), Int(clamping: status.f_frsize)]) ?? .max
}

/// Names in a folder without `.` and `..`, in the order of their bytes.
public func listFolder(_ path: String) throws -> [String] {
    guard let folder = opendir(path) else { throw readError(path, errno) }
    defer { closedir(folder) }
    var names: [String] = []
    errno = 0
    while let entry = readdir(folder) {
        let offset = MemoryLayout<dirent>.offset(of: \.d_name)!
        let name = String(cString: UnsafeRawPointer(entry).advanced(by: offset).assumingMemoryBound(to: CChar.self))
        if name != ".", name != ".." { names.append(name) }
        errno = 0
    }
    if errno != 0 { throw readError(path, errno) }
    return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
}

/// Creates a folder and those above it; nothing happens when it is there.
public func createDirectories(_ path: String) throws {
    if folderExists(path) { return }
    let parent = parentFolder(of: path)
    if parent != path, parent != "." { try createDirectories(parent) }
    if mkdir(path, 0o777) != 0, errno != EEXIST || !folderExists(path) {
        throw writeError(path, errno == EEXIST ? ENOTDIR : errno)
    }
}

/// Removes a file, a symbolic link (not what it leads to) or a folder with all that is in it; nothing happens when
/// there is none.
public func removeTree(_ path: String) throws {
    var status = stat()
    guard lstat(path, &status) == 0 else {
        if errno == ENOENT { return }
        throw writeError(path, errno)
    }
    if status.st_mode & S_IFMT == S_IFDIR {
        for name in try listFolder(path) { try removeTree(joinPath(path, name)) }
        if rmdir(path) != 0, errno != ENOENT { throw writeError(path, errno) }
    } else if unlink(path) != 0, errno != ENOENT {
        throw writeError(path, errno)
    }
}

/// Renames within one file system, replacing a file of the new name, and makes the change durable.
public func moveFile(_ path: String, to newPath: String) throws {
    guard rename(path, newPath) == 0 else { throw writeError(newPath, errno) }
    try syncFolder(parentFolder(of: newPath))
    if parentFolder(of: path) != parentFolder(of: newPath) { try syncFolder(parentFolder(of: path)) }
}

/// Makes the names in a folder (created, renamed, removed) survive a power cut.
public func syncFolder(_ path: String) throws {
    let descriptor = retrying { open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    guard descriptor >= 0 else { throw writeError(path, errno) }
    defer { close(descriptor) }
    // Some network file systems cannot sync folders (EINVAL); there is nothing more to be done there.
    if retrying({ fsync(descriptor) }) != 0, errno != EINVAL { throw writeError(path, errno) }
}

/// `folder/name`, without doubling a separator.
public func joinPath(_ folder: String, _ name: String) -> String {
    if folder.isEmpty { return name }
    return folder.utf8.last == UInt8(ascii: "/") ? folder + name : folder + "/" + name
}

/// The folder part of a path: `a/b/` and `a/b` give `a`, `a` gives `.`.
public func parentFolder(of path: String) -> String {
    let trimmed = trimmingSeparators(path)
    guard let slash = trimmed.lastIndex(of: UInt8(ascii: "/")) else { return path.utf8.first == 0x2F ? "/" : "." }
    let parent = trimmingSeparators(String(Substring(trimmed[..<slash])))
    return parent.isEmpty ? "/" : String(Substring(parent))
}

/// The last component of a path.
public func fileName(of path: String) -> String {
    let trimmed = trimmingSeparators(path)
    guard let slash = trimmed.lastIndex(of: UInt8(ascii: "/")) else { return String(Substring(trimmed)) }
    return String(Substring(trimmed[trimmed.index(after: slash)...]))
}

private func trimmingSeparators(_ path: String) -> Substring.UTF8View {
    var view = Substring(path).utf8
    while view.last == UInt8(ascii: "/") { view.removeLast() }
    return view
}

/// How many bytes at the beginning are valid UTF-8.
func validUTF8Prefix(_ bytes: some Collection<UInt8>) -> Int {
    var decoder = UTF8(), iterator = bytes.makeIterator(), valid = 0
    while case .scalarValue(let scalar) = decoder.decode(&iterator) { valid += UTF8.width(scalar) }
    return valid
}

/// Whether bytes are UTF-8 (Unicode 16, table 3-7): what `String(validating:)` accepts, at the speed of a scan.
func isValidUTF8(_ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
    var at = 0
    while at < bytes.count {
        let first = bytes[at]
        at += 1
        if first < 0x80 { continue }
        if first & 0xE0 == 0xC0 {
            guard first >= 0xC2, at < bytes.count, bytes[at] & 0xC0 == 0x80 else { return false }
            at += 1
            continue
        }
        let length: Int
        var low: UInt8 = 0x80, high: UInt8 = 0xBF
        switch first {
        case 0xE0: (length, low) = (2, 0xA0)
        case 0xED: (length, high) = (2, 0x9F)
        case 0xE1...0xEF: length = 2
        case 0xF0: (length, low) = (3, 0x90)
        case 0xF1...0xF3: length = 3
        case 0xF4: (length, high) = (3, 0x8F)
        default: return false
        }
        guard at + length <= bytes.count, bytes[at] >= low, bytes[at] <= high else { return false }
        for i in at + 1..<at + length where bytes[i] & 0xC0 != 0x80 { return false }
        at += length
    }
    return true
}
