// Checkpoints under kills, flipped bits, truncation, full disks; rotation.

import Diagnostics
import Formats
import Glibc
import RunLog
import Synchronization
import Testing

private func store(_ folder: String, lines: Lines = Lines(), run: String = "run", space: SpacePolicy = SpacePolicy())
    -> CheckpointStore
{
    CheckpointStore(folder: "\(folder)/checkpoints", run: run, space: space) { lines.add($0) }
}

private func content(_ step: Int) -> [UInt8] { (0..<1500).map { UInt8(truncatingIfNeeded: $0 &* step &+ 7) } }

@discardableResult
private func save(_ store: CheckpointStore, _ step: Int, score: Double? = nil) throws -> Checkpoint {
    try store.save(
        step: step, state: ["step": .init(step), "seed": 1], expectedBytes: 3000, score: score
    ) { folder in
        write(content(step), "\(folder)/model.safetensors")
        write(content(step + 1), "\(folder)/optimizer.safetensors")
    }
}

private func isWhole(_ checkpoint: Checkpoint) -> Bool {
    bytes(checkpoint.path(of: "model.safetensors")) == content(checkpoint.step)
        && bytes(checkpoint.path(of: "optimizer.safetensors")) == content(checkpoint.step + 1)
        && checkpoint.state["step"]?.int == checkpoint.step
}

private let failpoints = [
    "save.staged", "save.filled", "save.file.synced", "save.file.synced:2",
    "save.file.synced:3", "save.manifest.synced", "save.folder.synced", "save.renamed", "save.committed",
    "save.verified", "rotate.renamed", "rotate.synced", "rotate.removed", "save.exchanged",
]

@Suite struct CheckpointKills {
    /// Dies at each point, with no, one, and enough earlier saves, and while a save of the same step is replaced.
    @Test(arguments: failpoints, [0, 1, 3])
    func dyingAnywhereLeavesTheOldOrTheNewSave(_ point: String, _ earlier: Int) async throws {
        let scratch = Scratch(), path = scratch.path
        for step in 0..<earlier { try save(store(path), step * 10) }
        let replaces = point == "save.exchanged" || point.hasPrefix("rotate") && earlier < 2
        if replaces { try save(store(path), 50) }
        await #expect(processExitsWith: .signal(SIGKILL)) { [point, path = path as String] in
            setenv("NEEDLETAIL_FAILPOINT", point, 1)
            try save(store(path), 50)
        }
        let after = store(path)
        let found = try after.newestValid()
        if replaces {
            #expect(found?.step == 50)
        } else {
            #expect(found?.step == 50 || found?.step == (earlier > 0 ? (earlier - 1) * 10 : nil))
        }
        if let found { #expect(isWhole(found)) }
        try after.removeLeftovers()
        #expect(names("\(path)/checkpoints").allSatisfy { $0.hasPrefix("step-") && !$0.contains("partial") })
        #expect(isWhole(try save(after, 60)))
        #expect(isWhole(try #require(try store(path).newestValid())))
    }

    @Test func withoutAFailpointTheSaveEnds() async throws {
        let scratch = Scratch(), path = scratch.path
        await #expect(processExitsWith: .success) { [path = path as String] in
            setenv("NEEDLETAIL_FAILPOINT", "save.staged:2", 1)
            try save(store(path), 50)
        }
        #expect(try store(path).newestValid()?.step == 50)
    }
}

@Suite struct CheckpointDamage {
    @Test func anyFlippedBitOfTheNewestIsFound() throws {
        let scratch = Scratch(), newest = "\(scratch.path)/checkpoints/step-20"
        try save(store(scratch.path), 10)
        try save(store(scratch.path), 20)
        var random = TestRandom(state: 1)
        for name in ["manifest.json", "state.json", "model.safetensors", "optimizer.safetensors"] {
            let path = "\(newest)/\(name)", original = bytes(path)
            // Every bit of the small files, a sample of the others.
            let all = original.count * 8
            let bits = all <= 5000 ? Array(0..<all) : (0..<400).map { _ in Int.random(in: 0..<all, using: &random) }
            for bit in bits {
                var changed = original
                changed[bit / 8] ^= 1 << (bit % 8)
                write(changed, path)
                let lines = Lines()
                #expect(try store(scratch.path, lines: lines).newestValid()?.step == 10, "\(name) bit \(bit)")
                #expect(lines.all.count == 1 && lines.all[0].contains("step-20 refused"), "\(lines.all)")
            }
            write(original, path)
        }
        #expect(try store(scratch.path).newestValid()?.step == 20)
    }

    @Test func truncationSwapAndLossAreFound() throws {
        let scratch = Scratch(), newest = "\(scratch.path)/checkpoints/step-20"
        try save(store(scratch.path), 10)
        try save(store(scratch.path), 20)
        func expectRefused(_ reason: String, _ comment: Comment) throws {
            let lines = Lines()
            #expect(try store(scratch.path, lines: lines).newestValid()?.step == 10, comment)
            #expect(lines.all.count == 1 && lines.all[0].contains(reason), "\(lines.all)")
        }
        for name in names(newest) {
            let path = "\(newest)/\(name)", original = bytes(path)
            for length in stride(from: 0, to: original.count, by: 97) {
                write(Array(original[..<length]), path)
                try expectRefused(name, "\(name) cut to \(length)")
            }
            unlink(path)
            try expectRefused(name, "\(name) missing")
            write(original, path)
        }
        let model = bytes("\(newest)/model.safetensors")
        write(bytes("\(newest)/optimizer.safetensors"), "\(newest)/model.safetensors")
        try expectRefused("model.safetensors is damaged", "swapped")
        write(model, "\(newest)/model.safetensors")
        let manifest = bytes("\(newest)/manifest.json")
        write(bytes("\(scratch.path)/checkpoints/step-10/manifest.json"), "\(newest)/manifest.json")
        try expectRefused("its manifest is of step 10", "another step's manifest")
        write(manifest, "\(newest)/manifest.json")
        #expect(throws: UserError.self) { try store(scratch.path, run: "other").newestValid() }
        #expect(try store(scratch.path).newestValid()?.step == 20)
    }

    @Test func noneWholeIsAnErrorAndNoneAtAllIsNot() throws {
        let scratch = Scratch()
        #expect(try store(scratch.path).newestValid() == nil)
        try save(store(scratch.path), 10)
        unlink("\(scratch.path)/checkpoints/step-10/state.json")
        let error = #expect(throws: UserError.self) { try store(scratch.path).newestValid() }
        #expect(error?.exitStatus == .badData)
        #expect(error?.message.contains("step-10: state.json is missing") == true)
    }

    @Test func aDamagedFolderOfTheSameStepIsReplaced() throws {
        let scratch = Scratch()
        try save(store(scratch.path), 10)
        try save(store(scratch.path), 20)
        write([1], "\(scratch.path)/checkpoints/step-20/model.safetensors")
        let again = store(scratch.path)
        #expect(try again.newestValid()?.step == 10)
        #expect(isWhole(try save(again, 20)))
        #expect(names("\(scratch.path)/checkpoints") == ["step-10", "step-20"])
    }
}

@Suite struct CheckpointRotation {
    @Test func twoNewestAndTheBestStay() throws {
        let scratch = Scratch(), store = store(scratch.path)
        let scores: [Int: Double] = [2: 1.5, 4: 1.1, 6: 1.3, 8: 1.1, 10: 2]
        for step in 1...12 { try save(store, step, score: scores[step]) }
        #expect(store.steps == [12, 11, 4])
        #expect(store.best()?.step == 4)
        #expect(try store.checkpoint(step: 12).parent == 11)
        #expect(names("\(scratch.path)/checkpoints") == ["step-11", "step-12", "step-4"])
    }

    @Test func readersTakeTheBestElseTheNewestWholeOne() throws {
        let scratch = Scratch()
        #expect(try store(scratch.path).bestOrNewest() == nil)
        for (step, score) in [(1, 0.5), (2, 0.7), (3, nil)] { try save(store(scratch.path), step, score: score) }
        #expect(try store(scratch.path).bestOrNewest()?.step == 1)
        write([0], "\(scratch.path)/checkpoints/step-1/model.safetensors")
        #expect(try store(scratch.path).bestOrNewest()?.step == 2)
        write([0], "\(scratch.path)/checkpoints/step-2/model.safetensors")
        #expect(try store(scratch.path).bestOrNewest()?.step == 3)
        write([0], "\(scratch.path)/checkpoints/step-3/model.safetensors")
        #expect(throws: UserError.self) { try store(scratch.path).bestOrNewest() }
        #expect(names("\(scratch.path)/checkpoints") == ["step-1", "step-2", "step-3"])
    }

    @Test func damagedOnesDoNotCount() throws {
        let scratch = Scratch()
        try save(store(scratch.path), 1)
        try save(store(scratch.path), 2)
        write([0], "\(scratch.path)/checkpoints/step-2/state.json")
        try save(store(scratch.path), 3)
        #expect(store(scratch.path).steps == [3, 1])
    }

    @Test func foreignNamesAreLeftAlone() throws {
        let scratch = Scratch()
        for step in 1...3 { try save(store(scratch.path), step) }
        mkdir("\(scratch.path)/checkpoints/step-01", 0o777)
        mkdir("\(scratch.path)/checkpoints/notes", 0o777)
        try save(store(scratch.path), 4)
        #expect(names("\(scratch.path)/checkpoints") == ["notes", "step-01", "step-3", "step-4"])
    }
}

@Suite struct CheckpointSpace {
    private func policy(free: @escaping @Sendable () -> Int?, slept: Shared<[Double]>) -> SpacePolicy {
        var policy = SpacePolicy()
        policy.freeBytes = { _ in free() }
        policy.sleep = { seconds in slept.value.withLock { $0.append(seconds) } }
        return policy
    }

    @Test func waitsThenSavesWhenSpaceReturns() throws {
        let scratch = Scratch(), slept = Shared<[Double]>([]), lines = Lines()
        let policy = policy(free: { slept.value.withLock { $0.count } < 3 ? 3500 : 3700 }, slept: slept)
        let store = store(scratch.path, lines: lines, space: policy)
        #expect(isWhole(try save(store, 1)))
        #expect(slept.value.withLock { $0 } == [30, 30, 30])
        #expect(lines.all.count == 3 && lines.all[0].contains("waiting for space"), "\(lines.all)")
    }

    @Test func givesUpAfterTenMinutesWithNothingLost() throws {
        let scratch = Scratch(), slept = Shared<[Double]>([])
        try save(store(scratch.path), 1)
        let store = store(scratch.path, space: policy(free: { 0 }, slept: slept))
        let error = #expect(throws: UserError.self) { try save(store, 2) }
        #expect(error?.exitStatus == .cannotWrite)
        #expect(slept.value.withLock { $0.reduce(0, +) } == 600)
        #expect(names("\(scratch.path)/checkpoints") == ["step-1"])
        #expect(isWhole(try #require(try store.newestValid())))
    }

    @Test func theDiskFillingInTheMiddleIsRetried() throws {
        let scratch = Scratch(), slept = Shared<[Double]>([])
        let store = store(scratch.path, space: policy(free: { nil }, slept: slept))
        let checkpoint = try store.save(step: 5, state: nil, expectedBytes: 2) { folder in
            write([1, 2], "\(folder)/model.safetensors")
            if slept.value.withLock({ $0.count }) < 2 { throw UserError("\(folder): no space", .cannotWrite) }
        }
        #expect(checkpoint.step == 5 && slept.value.withLock { $0.count } == 2)
        #expect(names("\(scratch.path)/checkpoints") == ["step-5"])
    }

    @Test func otherErrorsEndTheSaveAtOnce() throws {
        struct Broken: Error {}
        let scratch = Scratch(), store = store(scratch.path)
        #expect(throws: Broken.self) {
            try store.save(step: 1, state: nil, expectedBytes: 0) { _ in throw Broken() }
        }
        #expect(names("\(scratch.path)/checkpoints").isEmpty)
    }
}

/// A mutex that closures can share.
final class Shared<Value: Sendable>: Sendable {
    let value: Mutex<Value>
    init(_ value: Value) { self.value = Mutex(value) }
}
