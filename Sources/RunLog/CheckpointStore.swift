// Saving and finding checkpoints so that a kill, a full disk or a flipped bit costs at most the newest one.
//
// A save: space check, `step-N.partial-<nonce>/`, each file written, synced and hashed, `manifest.json` last, sync,
// rename to `step-N/` without replacing, sync the parent, re-open and verify, and only then remove older ones (rename
// to `.trash-<nonce>`, sync, delete). A folder without a valid manifest does not exist for the loader.

internal import Diagnostics
public import Formats
internal import Glibc

/// What happens while the disk is full: a message, a pause, another try, until the limit.
public struct SpacePolicy: Sendable {
    public var retrySeconds: Double
    public var limitSeconds: Double
    /// Bytes that may still be written below a path; nil when unknown, which counts as enough.
    public var freeBytes: @Sendable (_ path: String) -> Int?
    /// Returns early when a signal arrives.
    public var sleep: @Sendable (_ seconds: Double) -> Void
    /// True ends the wait, as after a request to stop.
    public var givesUp: @Sendable () -> Bool

    /// Thirty seconds, ten minutes, the real disk and clock; ends early when a stop was requested.
    public init() {
        (retrySeconds, limitSeconds) = (30, 600)
        freeBytes = { try? availableBytes(at: $0) }
        sleep = { usleep(useconds_t($0 * 1e6)) }
        givesUp = { SignalFlags.stopRequested != nil }
    }
}

/// The checkpoints of one run. One trainer writes (the run folder's lock sees to that); anyone may read.
public final class CheckpointStore {
    public let folder: String
    private let run: String?
    private let keep: Int
    private let space: SpacePolicy
    private let log: (String) -> Void
    /// Steps whose every byte this process has seen to be right.
    private var verified: [Int: Checkpoint] = [:]
    private var lastSize = 0
    /// True for the trainer's own store: readers never remove anything.
    private var isWriter = false

    /// - Parameters:
    ///   - folder: `runs/x/checkpoints`; created at the first save.
    ///   - run: the run's identity, which its checkpoints carry; nil reads those of any run.
    ///   - keep: newest verified checkpoints kept beside the best one, at least 2.
    ///   - log: takes one line for people.
    public init(
        folder: String, run: String?, keep: Int = 2, space: SpacePolicy = SpacePolicy(),
        log: @escaping (String) -> Void
    ) {
        precondition(keep >= 2, "fewer than two checkpoints cannot survive a damaged one")
        (self.folder, self.run, self.keep, self.space, self.log) = (folder, run, keep, space, log)
    }

    // MARK: reading

    /// Steps that have a folder, newest first; valid or not.
    public var steps: [Int] {
        Files.names(in: folder).compactMap { name in
            guard name.hasPrefix("step-"), let step = Int(name.dropFirst(5)), name == "step-\(step)" else { return nil }
            return step
        }.sorted(by: >)
    }

    /// The newest checkpoint that is whole; nil when there is none at all. Each newer one that is refused is logged
    /// with its reason.
    ///
    /// - Throws: `UserError` (65) when there are checkpoints and none is whole.
    public func newestValid() throws -> Checkpoint? {
        var refusals: [String] = []
        for step in steps {
            switch verify(step) {
            case .success(let checkpoint):
                // A trainer killed between its last save and the removal of older ones left them to its successor.
                if isWriter { rotate() }
                return checkpoint
            case .failure(let refusal):
                refusals.append("step-\(step): \(refusal.reason)")
                log("checkpoint \(folder)/step-\(step) refused: \(refusal.reason)")
            }
        }
        guard !refusals.isEmpty else { return nil }
        throw UserError(
            "\(folder): none of \(refusals.count) checkpoints can be used (\(refusals.joined(separator: "; "))); "
                + "restore one from a copy, or choose another output")
    }

    /// The checkpoint of one step.
    ///
    /// - Throws: `UserError` (65) with the reason when it is not whole.
    public func checkpoint(step: Int) throws -> Checkpoint {
        switch verify(step) {
        case .success(let checkpoint): return checkpoint
        case .failure(let refusal): throw UserError("\(folder)/step-\(step) refused: \(refusal.reason)")
        }
    }

    /// The whole checkpoint with the lowest score; of equal ones the oldest. Nil when none has a score.
    public func best() -> Checkpoint? {
        // Reading the manifests first leaves one folder to hash instead of all.
        let scored = steps.compactMap { step -> (score: Double, step: Int)? in
            guard let manifest = try? Manifest(reading: "\(folder)/step-\(step)"), let score = manifest.score else {
                return nil
            }
            return (score, step)
        }
        for (_, step) in scored.sorted(by: { ($0.score, $0.step) < ($1.score, $1.step) }) {
            if case .success(let checkpoint) = verify(step) { return checkpoint }
        }
        return nil
    }

    /// What a reader of a run wants: the best checkpoint, else the newest whole one; nil when there is none at all.
    ///
    /// - Throws: `UserError` (65) when there are checkpoints and none is whole.
    public func bestOrNewest() throws -> Checkpoint? { try best() ?? newestValid() }

    /// How far a run that is not done has come, by what its newest checkpoint says of itself; nil where it is done or does
    /// not say.
    public var progress: (step: Int, of: Int)? {
        // For a note only: what is wrong with a checkpoint is said where one is taken.
        guard let step = steps.first,
            let state = try? readJSONFile("\(folder)/step-\(step)/\(Manifest.stateName)"),
            let planned = state[Self.plannedSteps]?.int, step < planned, state[Self.stoppedEarly]?.bool != true
        else { return nil }
        return (step, planned)
    }

    /// Keys of the state that a recipe saves: the steps of the whole run, and whether it ended before them by itself.
    public static let plannedSteps = "steps", stoppedEarly = "stopped_early"

    /// Verified now or earlier by this process.
    private func verify(_ step: Int) -> Result<Checkpoint, CheckpointRefusal> {
        if let checkpoint = verified[step] { return .success(checkpoint) }
        do {
            let checkpoint = try Checkpoint(verifying: "\(folder)/step-\(step)", step: step, run: run)
            verified[step] = checkpoint
            return .success(checkpoint)
        } catch let refusal as CheckpointRefusal {
            return .failure(refusal)
        } catch {
            return .failure(CheckpointRefusal(reason: "\(error)"))
        }
    }

    // MARK: writing

    /// Removes what a killed process left: partial saves and trash. Only for the holder of the run's lock.
    public func removeLeftovers() throws {
        isWriter = true
        for name in Files.names(in: folder) where name.contains(".partial-") || name.hasPrefix(".trash-") {
            try removeTree("\(folder)/\(name)")
        }
    }

    /// Saves a step and removes checkpoints no longer needed. A folder of the same step is replaced in one step.
    ///
    /// Waits while the disk is full, at most as long as the space policy says, without touching what was saved.
    /// - Parameters:
    ///   - expectedBytes: size of the files, for the first save; later ones know.
    ///   - score: validation loss; the lowest is never removed.
    ///   - fill: writes the checkpoint's files into the folder it is given; called anew for every try.
    /// - Throws: `UserError` (73) when it cannot be written in time; whatever `fill` throws otherwise.
    @discardableResult
    public func save(
        step: Int, state: JSONValue, expectedBytes: Int, score: Double? = nil, fill: (_ folder: String) throws -> Void
    ) throws -> Checkpoint {
        try waitingForSpace("step \(step)") {
            try checkSpace(for: max(lastSize, expectedBytes))
            return try attempt(step: step, state: state, score: score, fill)
        }
    }

    /// Does what writes to the run's disk, again and again while that is full, as the space policy says.
    ///
    /// - Parameter what: names it in the message: "step 12".
    /// - Throws: `UserError` (73) when the space did not come in time; other errors at once.
    public func waitingForSpace<R>(_ what: String, _ body: () throws -> R) throws -> R {
        let deadline = ContinuousClock.now + .seconds(space.limitSeconds)
        var waited = 0.0
        while true {
            do {
                return try body()
            } catch let error as UserError where error.exitStatus == .cannotWrite {
                guard waited < space.limitSeconds, ContinuousClock.now < deadline, !space.givesUp() else { throw error }
                let seconds = Int(space.retrySeconds)
                log("waiting for space: \(error.message); \(what) is tried again in \(seconds) s")
                space.sleep(space.retrySeconds)
                waited += space.retrySeconds
            }
        }
    }

    private func checkSpace(for bytes: Int) throws {
        if !folderExists(folder) {
            try createDirectories(folder)
            try syncFolder(parentFolder(of: folder))
        }
        let needed = bytes + bytes / 5
        guard let free = space.freeBytes(folder), free < needed else { return }
        rotate()
        guard let left = space.freeBytes(folder), left < needed else { return }
        throw UserError(
            "\(folder): \(byteSize(left)) free, a checkpoint takes \(byteSize(needed)); delete something there",
            .cannotWrite)
    }

    private func attempt(
        step: Int, state: JSONValue, score: Double?, _ fill: (_ folder: String) throws -> Void
    ) throws -> Checkpoint {
        let final = "\(folder)/step-\(step)", partial = "\(final).partial-\(Files.nonce())"
        do {
            try stage(partial, step: step, state: state, score: score, fill)
        } catch {
            // The reason matters more than a leftover, which the next start removes.
            try? removeTree(partial)
            throw error
        }
        verified[step] = nil
        if try !Files.renameIfFree(partial, final) {
            try Files.exchange(partial, final)
            Failpoint.pass("save.exchanged")
            try discard(partial)
        }
        Failpoint.pass("save.renamed")
        try syncFolder(folder)
        Failpoint.pass("save.committed")
        let checkpoint: Checkpoint
        do {
            checkpoint = try Checkpoint(verifying: final, step: step, run: run)
        } catch let refusal as CheckpointRefusal {
            throw UserError("\(final): not what was written: \(refusal.reason); is the disk failing?", .cannotWrite)
        }
        verified[step] = checkpoint
        lastSize = checkpoint.bytes
        Failpoint.pass("save.verified")
        rotate()
        return checkpoint
    }

    private func stage(
        _ partial: String, step: Int, state: JSONValue, score: Double?, _ fill: (_ folder: String) throws -> Void
    ) throws {
        try createDirectories(partial)
        Failpoint.pass("save.staged")
        try fill(partial)
        try writeFileAtomically(Array((state.serialized(.pretty) + "\n").utf8), to: "\(partial)/\(Manifest.stateName)")
        Failpoint.pass("save.filled")
        let entries = try listFolder(partial).map { name in
            let path = "\(partial)/\(name)"
            precondition(isPlainFileName(name), "\(name) cannot be in a checkpoint")
            try Files.sync(path)
            let digest = try Files.digest(path)
            Failpoint.pass("save.file.synced")
            return Manifest.File(name: name, bytes: digest.bytes, sha256: digest.sha256)
        }
        let manifest = Manifest(
            run: run ?? "", step: step, parent: steps.first { $0 < step },
            score: score.flatMap { $0.isFinite ? $0 : nil },
            files: entries)
        try writeFileAtomically(manifest.bytes, to: "\(partial)/\(Manifest.fileName)")
        Failpoint.pass("save.manifest.synced")
        try syncFolder(partial)
        Failpoint.pass("save.folder.synced")
    }

    /// Removes all but the `keep` newest whole checkpoints and the best one. Nothing is removed before `keep` whole
    /// ones are known. What cannot be removed is logged: the save itself is safe.
    private func rotate() {
        let steps = steps
        let whole = steps.filter { if case .success = verify($0) { true } else { false } }
        guard whole.count >= keep else { return }
        var kept = Set(whole.prefix(keep))
        if let best = best() { kept.insert(best.step) }
        for step in steps.reversed() where !kept.contains(step) {
            verified[step] = nil
            do { try discard("\(folder)/step-\(step)") } catch { log("checkpoint kept: \(error)") }
        }
    }

    /// Takes a folder out of sight in one step, then deletes it.
    private func discard(_ path: String) throws {
        let trash = "\(folder)/.trash-\(Files.nonce())"
        guard try Files.renameIfFree(path, trash) else { return }
        Failpoint.pass("rotate.renamed")
        try syncFolder(folder)
        Failpoint.pass("rotate.synced")
        try removeTree(trash)
        Failpoint.pass("rotate.removed")
    }
}
