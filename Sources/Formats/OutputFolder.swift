// A folder that appears complete or not at all.
import Diagnostics
import Glibc

/// Throws a `UserError` (73) when there is something at `path`: call it before slow work.
public func refuseExisting(_ path: String) throws {
    if fileExists(path) || folderExists(path) {
        throw UserError("\(printable(path)): exists already; remove it or name another folder", .cannotWrite)
    }
}

/// Fills a temporary neighbour of `path` and renames it into place, so that nobody meets a half-written folder.
///
/// - Throws: `UserError` with exit status 73 when `path` exists already or cannot be written; whatever `fill` throws,
///   after the temporary folder is removed.
public func writeFolderAtomically(_ path: String, _ fill: (_ temporary: String) throws -> Void) throws {
    try refuseExisting(path)
    let temporary = "\(path).partial-\(getpid())"
    try removeTree(temporary)
    Unfinished.begin(temporary)
    defer { Unfinished.end(temporary) }
    do {
        try createDirectories(temporary)
        try fill(temporary)
        try syncFolder(temporary)
        try Unfinished.commit { try moveFile(temporary, to: path) }
    } catch {
        // The first failure is the one to report; what could not be removed is named by its suffix.
        do { try removeTree(temporary) } catch {}
        throw error
    }
}
