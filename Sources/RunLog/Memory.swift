// How much memory the process has taken.
internal import Formats

/// The largest resident size of the process so far in bytes, libraries included (`VmHWM`); 0 where the system does not
/// tell.
public func peakMemoryBytes() -> Int {
    guard fileExists("/proc/self/status"), let status = try? readTextFile("/proc/self/status") else { return 0 }
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
    return line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).compactMap { Int($0) }.first.map { $0 * 1024 } ?? 0
}
