// How much memory the process has taken.
internal import Glibc

/// The largest resident size of the process so far in bytes, libraries and mapped files included (`VmHWM`); 0 where the
/// system does not tell.
public func peakMemoryBytes() -> Int { processStatusBytes("VmHWM:") }

/// Anonymous memory of the process at this moment in bytes, mapped files not included (`RssAnon`); 0 where the system does
/// not tell.
public func anonymousMemoryBytes() -> Int { processStatusBytes("RssAnon:") }

/// A line of /proc/self/status, which counts in kB.
private func processStatusBytes(_ label: String) -> Int {
    // Read line by line: files of /proc have no size to read them by.
    guard let file = fopen("/proc/self/status", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 512)
    while fgets(&line, Int32(line.count), file) != nil {
        let words = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }.split(
            whereSeparator: \.isWhitespace)
        if words.first.map(String.init) == label, words.count > 1, let kilobytes = Int(words[1]) {
            return kilobytes * 1024
        }
    }
    return 0
}
