// Run folders: who may train there, what a resumed run must share, signals.

import Diagnostics
import Formats
import Glibc
import RunLog
import Testing

private func identity(
    rate: String = "0.0002", every: String = "10", data: String = String(repeating: "a", count: 64)
) -> RunIdentity {
    RunIdentity(
        config: [("optimizer.learning_rate", rate), ("training.log_every", every), ("output", "x")],
        hashes: [("data.train[0]", data)], mayChange: ["training.log_every", "output"])
}

@discardableResult
private func open(_ path: String, _ identity: RunIdentity = identity()) throws -> RunFolder {
    try RunFolder(
        path: path, identity: identity, configYAML: "recipe: sft\n",
        record: JSONObject([("command", "needletail train")]))
}

@Suite struct RunFolders {
    @Test func createsAndResumes() throws {
        let scratch = Scratch(), path = "\(scratch.path)/a/b"
        var run = try open(path)
        #expect(!run.isResumed)
        let id = run.id
        run.log("hello\n\u{1B}there")
        run.finish()
        #expect(names(path) == ["config.yaml", "lock", "log.txt", "run.json"])
        #expect(bytes("\(path)/lock").isEmpty)
        #expect(text("\(path)/log.txt").hasSuffix("Z hello  there\n"))
        run = try open(path)
        #expect(run.isResumed && run.id == id)
        let json = try JSONValue.parse(text("\(path)/run.json"))
        #expect(json["command"]?.string == "needletail train")
        #expect(json["config"]?["optimizer.learning_rate"]?.string == "0.0002")
        run.finish()
    }

    @Test func anotherConfigurationOrDataIsRefusedWithTheDifferences() throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        try open(path).finish()
        let before = text("\(path)/run.json")
        let error = #expect(throws: UserError.self) {
            try open(path, identity(rate: "0.001", every: "20", data: String(repeating: "b", count: 64)))
        }
        #expect(error?.exitStatus == .usage)
        let message = error?.message ?? ""
        #expect(message.contains("optimizer.learning_rate: 0.0002 -> 0.001"), "\(message)")
        #expect(message.contains("content of data.train[0]: aaaaaaaaaaaa -> bbbbbbbbbbbb"), "\(message)")
        #expect(!message.contains("log_every") && !message.contains("\n"), "\(message)")
        #expect(text("\(path)/run.json") == before)

        var fewer = identity()
        fewer.config.removeFirst()
        fewer.hashes.append(("base", "c"))
        let second = #expect(throws: UserError.self) { try open(path, fewer) }
        #expect(second?.message.contains("optimizer.learning_rate: 0.0002 -> none") == true)
        #expect(second?.message.contains("base: none -> c") == true)
    }

    @Test func whatMayChangeIsLoggedAndKept() throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        try open(path).finish()
        let run = try open(path, identity(every: "20"))
        #expect(text("\(path)/log.txt").contains("training.log_every: 10 -> 20"))
        run.finish()
        #expect(try JSONValue.parse(text("\(path)/run.json"))["config"]?["training.log_every"]?.string == "20")
    }

    @Test func aFolderOfOtherThingsOrAFileIsRefused() throws {
        let scratch = Scratch()
        write([1], "\(scratch.path)/notes.txt")
        for path in [scratch.path, "\(scratch.path)/notes.txt", "\(scratch.path)/notes.txt/r", "/proc/r"] {
            let error = #expect(throws: UserError.self) { try open(path) }
            #expect(error?.exitStatus == .cannotWrite)
        }
        #expect(names(scratch.path) == ["notes.txt"])
    }

    @Test func aRunThatFailsBeforeItsFirstStepIsTakenBackUnlessItWasThere() throws {
        struct Wrong: Error {}
        let scratch = Scratch(), path = "\(scratch.path)/run"
        let run = try open(path)
        #expect(throws: Wrong.self) { try run.beginning { throw Wrong() } }
        run.finish()
        #expect(names(scratch.path).isEmpty)
        try open(path).finish()
        let again = try open(path)
        #expect(throws: Wrong.self) { try again.beginning { throw Wrong() } }
        again.finish()
        #expect(names(path).contains("run.json"))
    }

    @Test func aDamagedRecordIsRefused() throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        try open(path).finish()
        write(Array("{\"id\":".utf8), "\(path)/run.json")
        #expect(throws: UserError.self) { try open(path) }
    }
}

@Suite struct RunLocks {
    @Test func aSecondTrainerIsRefusedWithTheHolderNamed() throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        let first = try open(path)
        let error = #expect(throws: UserError.self) { try open(path) }
        #expect(error?.message.contains("in use by process \(getpid())") == true, "\(error?.message ?? "")")
        #expect(error?.exitStatus == .cannotWrite)
        first.finish()
        try open(path).finish()
    }

    @Test func aKilledTrainerLeavesALockThatIsTakenOver() async throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
            let run = try open(path)
            kill(getpid(), SIGKILL)
            run.finish()
        }
        #expect(text("\(path)/lock").contains("boot_id"))
        try open(path).finish()
    }

    /// Writes a record as a trainer leaves it, with some fields changed.
    private func leaveRecord(_ path: String, _ changes: [(String, JSONValue)]) throws {
        let run = try open(path)
        var record = try #require(try JSONValue.parse(text("\(path)/lock")).object)
        run.finish()
        for (key, value) in changes { record[key] = value }
        write(Array(JSONValue.object(record).serialized().utf8), "\(path)/lock")
    }

    /// On file systems whose locks stay on one machine the record in the file is what protects a run.
    @Test func aRecordThatProvesNobodyDeadIsRespected() throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        try leaveRecord(path, [("host", "elsewhere")])
        var error = #expect(throws: UserError.self) { try open(path) }
        #expect(error?.message.contains("on elsewhere; if that is gone, delete \(path)/lock") == true)
        unlink("\(path)/lock")
        try leaveRecord(path, [("pid", 1), ("started", .init(startOfProcess1()))])
        error = #expect(throws: UserError.self) { try open(path) }
        #expect(error?.message.contains("in use by process 1 on") == true)
    }

    @Test(arguments: [
        [("boot_id", JSONValue("an earlier start of this machine")), ("pid", 1)],
        [("pid", 1), ("started", "another process with this pid")], [("pid", 999_999_999)],
    ]) func aRecordOfADeadTrainerIsTakenOver(_ changes: [(String, JSONValue)]) throws {
        let scratch = Scratch(), path = "\(scratch.path)/r"
        try leaveRecord(path, changes)
        try open(path).finish()
    }
}

private func startOfProcess1() -> String {
    let line = text("/proc/1/stat")
    guard let end = line.lastIndex(of: ")") else { return "" }
    return String(line[line.index(after: end)...].split(separator: " ")[19])
}

/// Sends a signal to this process and waits, at most five seconds, for its effect: threads of a task pool block
/// signals, so that another thread takes it a little later.
private func send(_ number: Int32, until isSeen: () -> Bool) {
    kill(getpid(), number)
    for _ in 0..<5000 where !isSeen() { usleep(1000) }
}

@Suite struct Signals {
    @Test func usr1AsksForASaveOnce() async {
        await #expect(processExitsWith: .success) {
            SignalFlags.install()
            precondition(!SignalFlags.takeSaveRequest())
            var seen = false
            send(SIGUSR1) {
                seen = seen || SignalFlags.takeSaveRequest()
                return seen
            }
            precondition(seen && !SignalFlags.takeSaveRequest() && SignalFlags.stopRequested == nil)
        }
    }

    @Test func termAsksToSaveAndTryAgain() async {
        await #expect(processExitsWith: .exitCode(75)) {
            SignalFlags.install()
            send(SIGTERM) { SignalFlags.stopRequested != nil }
            exit(SignalFlags.stopRequested?.rawValue ?? 1)
        }
    }

    @Test(arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
    func interruptAsksToSaveAndASecondRequestExitsAtOnce(_ second: Int32, _ status: Int32) async {
        await #expect(processExitsWith: .exitCode(status)) { [second = second as Int32] in
            SignalFlags.install()
            send(SIGINT) { SignalFlags.stopRequested == .interrupted }
            precondition(SignalFlags.stopRequested == .interrupted)
            send(second) { false }
            exit(1)
        }
    }
}
