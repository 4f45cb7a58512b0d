// A folder that appears complete or not at all.
import Diagnostics
internal import Formats
internal import Glibc

/// Fills a temporary neighbour of `path` and renames it into place, so that nobody meets a half-written folder.
///
/// - Throws: `UserError` with exit status 73 when `path` exists already or cannot be written; whatever `fill` throws,
///   after the temporary folder is removed.
public func writeFolderAtomically(_ path: String, _ fill: (_ temporary: String) throws -> Void) throws {
    if fileExists(path) || folderExists(path) {
        throw UserError("\(path): exists already; remove it or name another folder", .cannotWrite)
    }
    let temporary = "\(path).partial-\(getpid())"
    try removeTree(temporary)
    try createDirectories(temporary)
    do {
        try fill(temporary)
        try syncFolder(temporary)
        try moveFile(temporary, to: path)
    } catch {
        // The first failure is the one to report; what could not be removed is named by its suffix.
        do { try removeTree(temporary) } catch {}
        throw error
    }
}
