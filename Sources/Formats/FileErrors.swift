// What the operating system said about a file, as one line for a person.
package import Diagnostics
import Glibc

/// An error while reading `path`: exit status 65.
package func readError(_ path: String, _ code: Int32) -> UserError {
    let reason =
        switch code {
        case ENOENT: "no such file or folder"
        case ENOTDIR: "a part of this path is a file, not a folder"
        case EACCES, EPERM: "no permission to read it"
        case EISDIR: "is a folder; a file is needed"
        case ELOOP: "symbolic links lead in a circle"
        case EMFILE, ENFILE: "too many open files; raise the limit with `ulimit -n`"
        default: systemText(code)
        }
    return UserError("\(printable(path)): \(reason)")
}

/// An error while writing `path`: exit status 73.
package func writeError(_ path: String, _ code: Int32) -> UserError {
    let reason =
        switch code {
        case ENOSPC: "the disk is full; free some space and run the command again"
        case EDQUOT: "the disk quota is used up; free some space and run the command again"
        case EROFS: "the file system is read-only; choose another folder"
        case EACCES, EPERM: "no permission to write here; choose another folder"
        case ENOENT: "the folder does not exist"
        case ENOTDIR: "a part of this path is a file, not a folder"
        case EISDIR: "is a folder; a file name is needed"
        case EFBIG: "the file is larger than this file system or `ulimit -f` allows"
        default: systemText(code)
        }
    return UserError("\(printable(path)): cannot write: \(reason)", .cannotWrite)
}

private func systemText(_ code: Int32) -> String { String(cString: strerror(code)) }

/// `text` fit for a message of one line: control characters escaped, invalid bytes replaced, long text cut.
func printable(_ text: some StringProtocol, limit: Int = 400) -> String {
    let shown = text.unicodeScalars.prefix(limit)
    return escapedForDisplay(String(String.UnicodeScalarView(shown)))
        + (shown.endIndex < text.unicodeScalars.endIndex ? "..." : "")
}

/// Runs a system call again while signals interrupt it; `errno` of the last try when it fails.
func retrying<Result: SignedInteger>(_ call: () -> Result) -> Result {
    while true {
        let result = call()
        if result != -1 || errno != EINTR { return result }
    }
}

/// Opens `path` for reading. Descriptors are closed on exec, so that no child process inherits them.
func openForReading(_ path: String) throws -> Int32 {
    if path.utf8.contains(0) { throw UserError("\(printable(path)): a path cannot contain a NUL character") }
    let descriptor = retrying { open(path, O_RDONLY | O_CLOEXEC) }
    if descriptor < 0 { throw readError(path, errno) }
    return descriptor
}
