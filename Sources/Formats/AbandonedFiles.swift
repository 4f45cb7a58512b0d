// What killed programs left of files that they were writing.
import Glibc

extension OutputFile {
    /// Names of files that are being written: `init(replacing:)`.
    static let partialPrefix = ".partial-"

    /// Removes from `folder` the unfinished files of programs that are gone. A file that changed within the last minute
    /// stays: its writer may run on another machine that sees the same folder.
    public static func removeAbandoned(in folder: String) throws {
        for name in try listFolder(folder) where name.hasPrefix(partialPrefix) {
            guard let writer = name.dropFirst(partialPrefix.count).split(separator: "-").first.flatMap({ pid_t($0) }),
                kill(writer, 0) != 0, errno == ESRCH
            else { continue }
            let path = joinPath(folder, name)
            var status = stat()
            if stat(path, &status) == 0, time(nil) - status.st_mtim.tv_sec > 60 { unlink(path) }
        }
    }
}
