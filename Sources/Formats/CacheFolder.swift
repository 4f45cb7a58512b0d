// Where the program keeps what it can make again.
import Diagnostics

/// `$NEEDLETAIL_CACHE`, else `$XDG_CACHE_HOME/needletail`, else `~/.cache/needletail`. The folder may not be there yet.
///
/// - Throws: `UserError` (73) when none of the variables and no `HOME` is set.
public func cacheFolder() throws -> String {
    if let folder = environmentVariable("NEEDLETAIL_CACHE") { return folder }
    if let folder = environmentVariable("XDG_CACHE_HOME") { return joinPath(folder, "needletail") }
    guard let home = environmentVariable("HOME") else {
        throw UserError("no folder for the cache: set HOME or NEEDLETAIL_CACHE", .cannotWrite)
    }
    return joinPath(home, ".cache/needletail")
}
