// A small trainer on a real run folder, killed again and again: the files end as if nothing had happened.

import Formats
import Glibc
import RunLog
import Testing

private let steps = 24

/// Weights that depend on every step, metrics each step, a checkpoint every third, scores on the way.
private func train(_ path: String) throws {
    let identity = RunIdentity(config: [("a", "1")], hashes: [], mayChange: [])
    let run = try RunFolder(path: path, identity: identity, configYAML: "a: 1\n", record: JSONObject())
    let store = try run.checkpointStore(keep: 2)
    let start = try store.newestValid()
    var weight = start?.state["weight"]?.double ?? 0.5, step = start?.step ?? 0
    var spikes =
        start.flatMap { SpikeGuard(json: $0.state["spikes"] ?? nil, window: 16, threshold: 6) }
        ?? SpikeGuard(window: 16, threshold: 6)
    let metrics = try MetricsLog(folder: path, resumingAt: start?.state["metrics"], clock: { 1000 })
    while step < steps {
        step += 1
        weight = 3.7 * weight * (1 - weight)
        let spike = spikes.observe(step: step, loss: weight, gradNorm: weight * weight)
        try metrics.write(step: step, [("train/loss", weight), ("train/spike", spike == nil ? 0 : 1)])
        guard step % 3 == 0 else { continue }
        let state: JSONValue = [
            "weight": .init(weight), "metrics": try metrics.position(), "spikes": spikes.json,
        ]
        let bits = withUnsafeBytes(of: weight) { Array($0) }
        try store.save(
            step: step, state: state, expectedBytes: 8, score: abs(Double(step) - 10)
        ) { write(bits, "\($0)/weights.bin") }
    }
    run.finish()
}

/// Every file of the run but log, lock and record, and of the checkpoints what the caller wrote.
private func result(_ path: String) -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for name in names(path) where !["log.txt", "lock", "run.json", "checkpoints"].contains(name) {
        files[name] = bytes("\(path)/\(name)")
    }
    for folder in names("\(path)/checkpoints") {
        for name in ["weights.bin", "state.json"] {
            files["\(folder)/\(name)"] = bytes("\(path)/checkpoints/\(folder)/\(name)")
        }
    }
    return files
}

@Suite struct Resume {
    @Test(arguments: [1, 2, 3] as [UInt64]) func killedRunsEndLikeAnUndisturbedOne(_ seed: UInt64) async throws {
        let straight = Scratch(), killed = Scratch(), path = "\(killed.path)/run"
        try train("\(straight.path)/run")
        var random = TestRandom(state: seed)
        let points = [
            "save.staged", "save.filled", "save.file.synced", "save.manifest.synced", "save.renamed",
            "save.committed", "save.verified", "rotate.renamed", "rotate.removed",
        ]
        for _ in 0..<8 {
            let point: String = "\(points.randomElement(using: &random)!):\(Int.random(in: 1...2, using: &random))"
            await #expect(processExitsWith: .signal(SIGKILL)) { [point = point as String, path = path as String] in
                setenv("NEEDLETAIL_FAILPOINT", point, 1)
                try train(path)
                // A run that ended before its point: say so in the way the test expects.
                kill(getpid(), SIGKILL)
            }
        }
        try train(path)
        let expected = result("\(straight.path)/run"), found = result(path)
        #expect(found.keys.sorted() == expected.keys.sorted())
        for (name, content) in expected { #expect(found[name] == content, "\(name)") }
        #expect(names("\(path)/checkpoints") == ["step-21", "step-24", "step-9"])
    }
}
