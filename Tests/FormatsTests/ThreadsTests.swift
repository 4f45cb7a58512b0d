// Jobs on several threads whose results keep their order.
import Diagnostics
import Formats
import Glibc
import Synchronization
import Testing

struct OrderedResultTests {
    @Test(arguments: [1, 2, 3, 8])
    func everyResultInOrder(_ threads: Int) throws {
        for count in [0, 1, 2, 50, 1000] {
            var taken: [Int] = []
            try runInOrder(count, threads: threads) { i in
                if i % 7 == 0 { usleep(UInt32(i % 3) * 300) }  // so that later ones finish first
                return i * i
            } consume: {
                taken.append($0)
            }
            #expect(taken == (0..<count).map { $0 * $0 })
        }
    }

    /// The error of the lowest number, however late it is found; nothing behind it is consumed.
    @Test(arguments: [1, 2, 4])
    func theFirstErrorWins(_ threads: Int) throws {
        for _ in 0..<20 {
            var taken: [Int] = []
            let error = #expect(throws: UserError.self) {
                try runInOrder(100, threads: threads) { i in
                    if i == 40 { usleep(2000) }
                    if i >= 40 { throw UserError("\(i)") }
                    return i
                } consume: {
                    taken.append($0)
                }
            }
            #expect(error?.message == "40" && taken == Array(0..<40))
        }
    }

    @Test(arguments: [1, 3])
    func anErrorOfTheConsumerEndsIt(_ threads: Int) throws {
        let made = Mutex(0)
        #expect(throws: UserError.self) {
            try runInOrder(10_000, threads: threads) { i in
                made.withLock { $0 += 1 }
                return i
            } consume: {
                if $0 == 3 { throw UserError("enough") }
            }
        }
        #expect(made.withLock { $0 } <= 4 + 5 * threads)
    }

    /// Results wait for a slow consumer only up to the room there is.
    @Test func roomIsBounded() throws {
        let made = Mutex(0)
        var most = 0, taken = 0
        try runInOrder(200, threads: 2) { i in
            made.withLock { $0 += 1 }
            return i
        } consume: { _ in
            usleep(200)
            taken += 1
            most = max(most, made.withLock { $0 } - taken)
        }
        #expect(most <= 8)
    }
}

struct AbandonedFileTests {
    @Test func onlyWhatNobodyWritesAnyMoreGoes() throws {
        try withTemporaryFolder { folder in
            let gone = try endedProcess()
            let names = [".partial-\(gone)-a", ".partial-\(gone)-b", ".partial-\(getpid())-c", ".partial-x-d", "kept"]
            for name in names { try writeWithoutSync([1], to: joinPath(folder, name)) }
            for name in names where !name.hasSuffix("b") {
                let old = timeval(tv_sec: time(nil) - 100, tv_usec: 0), times = [old, old]
                #expect(utimes(joinPath(folder, name), times) == 0)
            }
            try OutputFile.removeAbandoned(in: folder)
            #expect(try listFolder(folder).sorted() == names.dropFirst().sorted())
        }
    }

    private func endedProcess() throws -> pid_t {
        var child = pid_t(), status: Int32 = 0
        let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("true"), nil]
        defer { free(arguments[0]) }
        try #require(posix_spawnp(&child, "true", nil, nil, arguments, environ) == 0)
        waitpid(child, &status, 0)
        return child
    }
}
