// Temporary files and folders when a signal ends the program.
import Formats
import Glibc
import Testing

@Suite struct Unfinished {
    @Test(arguments: [SIGINT, SIGTERM, SIGHUP]) func aSignalRemovesWhatIsHalfWritten(_ number: Int32) async throws {
        let folder = "/tmp/formats-unfinished-\(getpid())-\(number)"
        try createDirectories(folder)
        let result = await #expect(processExitsWith: .failure, observing: [\.exitStatus]) {
            [folder = folder as String, number = number as Int32] in
            let file = try OutputFile(replacing: joinPath(folder, "rows.jsonl"))
            try file.append("half a row")
            try file.flush()
            try writeFolderAtomically(joinPath(folder, "model")) { temporary in
                try writeFileAtomically("{}", to: joinPath(temporary, "config.json"))
                kill(getpid(), number)
                sleep(10)
            }
        }
        #expect(result?.exitStatus == .exitCode(128 + number))
        #expect(try listFolder(folder) == [])
        try removeTree(folder)
    }

    @Test func anIgnoredSignalStaysIgnored() async throws {
        await #expect(processExitsWith: .success) {
            signal(SIGHUP, SIG_IGN)
            let path = "/tmp/formats-ignored-\(getpid())"
            let file = try OutputFile(replacing: path)
            kill(getpid(), SIGHUP)
            try file.close()
            try removeTree(path)
        }
    }
}
