// What the operating system says about this machine, and what built this program.
internal import Formats
internal import Glibc

/// The machine of this process.
public enum Machine {
    /// Kernel and architecture, for example `Linux 6.1.0 x86_64`.
    public static var system: String {
        var names = utsname()
        guard uname(&names) == 0 else { return "unknown" }
        return [text(of: names.sysname), text(of: names.release), text(of: names.machine)].joined(separator: " ")
    }

    /// The Swift that built this program, to the minor version.
    public static var compiler: String {
        #if compiler(>=6.4)
            "Swift 6.4 or newer"
        #elseif compiler(>=6.3)
            "Swift 6.3"
        #elseif compiler(>=6.2)
            "Swift 6.2"
        #else
            "Swift 6.1"
        #endif
    }

    /// The processor's model.
    public static var processor: String { field("model name", in: "/proc/cpuinfo") ?? "unknown" }
    /// Processors that are on.
    public static var processors: Int { processorCount }

    /// Processors this process may run on, as `0-3,8` (a container or `taskset` may allow fewer).
    public static var allowedProcessors: String { field("Cpus_allowed_list", in: "/proc/self/status") ?? "unknown" }

    /// All memory in bytes; 0 where the system does not tell.
    public static var memoryBytes: Int { kilobytes("MemTotal").map { $0 * 1024 } ?? 0 }

    /// Memory in GiB: all, and what programs could still take.
    public static var memory: String {
        func gibibytes(_ name: String) -> String {
            guard let kilobytes = kilobytes(name) else { return "unknown" }
            return "\(kilobytes * 10 / (1 << 20) / 10).\(kilobytes * 10 / (1 << 20) % 10) GiB"
        }
        return "\(gibibytes("MemTotal")), \(gibibytes("MemAvailable")) available"
    }

    private static func kilobytes(_ name: String) -> Int? {
        field(name, in: "/proc/meminfo")?.split(separator: " ").first.flatMap { Int($0) }
    }

    /// The value of the first line `name : value` of a file of the kernel.
    private static func field(_ name: String, in path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        while fgets(&line, Int32(line.count), file) != nil {
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            let parts = text.split(separator: ":", maxSplits: 1)
            if parts.count == 2, trimmed(parts[0]) == name { return trimmed(parts[1]) }
        }
        return nil
    }

    private static func trimmed(_ text: Substring) -> String {
        text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    }

    private static func text(of field: some Any) -> String {
        withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
