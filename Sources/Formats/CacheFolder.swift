// Where the program keeps what it can make again.
import Diagnostics
import Glibc

/// `$NEEDLETAIL_CACHE`, else `$XDG_CACHE_HOME/needletail`, else `~/.cache/needletail`. The folder may not be there yet.
///
/// - Throws: `UserError` (73) when none of the variables and no `HOME` is set.
public func cacheFolder() throws -> String {
    func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }
    if let folder = variable("NEEDLETAIL_CACHE") { return folder }
    if let folder = variable("XDG_CACHE_HOME") { return joinPath(folder, "needletail") }
    guard let home = variable("HOME") else {
        throw UserError("no folder for the cache: set HOME or NEEDLETAIL_CACHE", .cannotWrite)
    }
    return joinPath(home, ".cache/needletail")
}
