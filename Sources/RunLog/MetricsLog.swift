// Metrics of a run: `metrics.jsonl`, one object a line, and the same numbers for TensorBoard. Both files only grow, and
// are cut back to the position in the checkpoint when a run is resumed, so that every step stands there once.

internal import Diagnostics
public import Formats
internal import Glibc

/// Writes the metrics of one run. Each row is in the files when `write` returns (a kill loses nothing; a power cut
/// may lose rows that no checkpoint covers, which are computed again anyway).
public final class MetricsLog {
    public static let fileName = "metrics.jsonl"

    private let folder: String
    private let rows: Appender
    private let events: Appender
    private let eventsName: String
    private let clock: () -> Double

    /// Opens the files of a run folder.
    ///
    /// - Parameters:
    ///   - position: what `position` said at the checkpoint that the run goes on from; nil starts anew.
    ///   - clock: seconds since 1970.
    /// - Throws: `UserError` (73) when the files cannot be written; (65) when they are shorter than the position says.
    public init(folder: String, resumingAt position: JSONValue?, clock: @escaping () -> Double = wallClock) throws {
        self.folder = folder
        self.clock = clock
        let isOld = { (name: String) in name.hasPrefix("events.out.tfevents.") }
        let kept = position?["events_file"]?.string
        for name in Files.names(in: folder) where isOld(name) && name != kept { try removeTree("\(folder)/\(name)") }
        rows = try Appender("\(folder)/\(Self.fileName)", cutTo: position?["metrics"]?.int ?? 0)
        if let kept, isPlainFileName(kept), isOld(kept) {
            eventsName = kept
            events = try Appender("\(folder)/\(kept)", cutTo: position?["events"]?.int ?? 0)
        } else {
            let time = clock()
            eventsName = "events.out.tfevents.\(Int(time)).\(hostName())"
            events = try Appender("\(folder)/\(eventsName)", cutTo: 0)
            try events.append(TensorBoardEvents.header(time: time))
        }
    }

    /// Adds a row.
    ///
    /// - Parameters:
    ///   - step: optimiser steps done.
    ///   - values: slash names with units where needed: `train/loss`, `tokens_per_second`. What is not finite is
    ///     `null` in the JSON row and itself for TensorBoard.
    ///   - texts: words beside the numbers, as samples; in the JSON row only.
    /// - Throws: `UserError` (73).
    public func write(step: Int, _ values: [(name: String, value: Double)], texts: [(name: String, value: String)] = [])
        throws
    {
        let time = clock()
        var row = JSONObject([("step", .init(step)), ("time", .init((time * 1000).rounded() / 1000))])
        for (name, value) in values { row[name] = spelled(value) }
        for (name, value) in texts { row[name] = .init(value) }
        try rows.append(Array((JSONValue.object(row).serialized() + "\n").utf8))
        guard !values.isEmpty else { return }
        try events.append(TensorBoardEvents.scalars(values.map { ($0.name, $0.value) }, step: step, time: time))
    }

    /// Whole numbers (token counts, bytes) without a fraction.
    private func spelled(_ value: Double) -> JSONValue {
        Int(exactly: value).map { abs(value) < 1e15 ? .init($0) : .init(value) } ?? .init(value)
    }

    /// Where the files end now, for the checkpoint's state; what is before it is on the disk when this returns.
    ///
    /// - Throws: `UserError` (73).
    public func position() throws -> JSONValue {
        try rows.sync()
        try events.sync()
        return [
            "metrics": .init(rows.length), "events": .init(events.length), "events_file": .init(eventsName),
        ]
    }
}

/// Seconds since 1970.
public func wallClock() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}

/// A file that grows by whole records.
public final class Appender {
    private let descriptor: Int32
    private let path: String
    /// Bytes in the file.
    public private(set) var length: Int

    /// Opens or creates a file and cuts it to `length` bytes.
    ///
    /// - Throws: `UserError`: 73 when it cannot be written, 65 when it is shorter than `length`.
    public init(_ path: String, cutTo length: Int) throws {
        self.path = path
        self.length = length
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw writeError(path, errno) }
        do {
            let size = try fileSize(path)
            guard size >= length else {
                throw UserError(
                    "\(path): \(counted(Int(size), "byte")) long, but the checkpoint was written after \(length); restore the file"
                )
            }
            try cut()
        } catch {
            close(descriptor)
            throw error
        }
    }

    deinit { close(descriptor) }

    /// Adds a record, or leaves the file as it was.
    ///
    /// - Throws: `UserError` (73).
    public func append(_ record: [UInt8]) throws {
        do {
            try Files.write(record, to: descriptor, path)
        } catch {
            try cut()
            throw error
        }
        length += record.count
    }

    func sync() throws {
        guard fsync(descriptor) == 0 else { throw Files.failure("cannot be written to the disk", path) }
    }

    private func cut() throws {
        guard ftruncate(descriptor, off_t(length)) == 0, lseek(descriptor, 0, SEEK_END) >= 0 else {
            throw Files.failure("cannot be cut to \(counted(Int(length), "byte"))", path)
        }
    }
}
