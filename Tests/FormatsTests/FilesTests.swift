// Files and folders: what is written is all there or not at all, and errors say what, where and with which exit status.
import Diagnostics
import Formats
import Glibc
import Testing

@Suite struct FilesTests {
    @Test func atomicWriteLeavesOneFile() throws {
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "a.txt")
            try writeFileAtomically("first", to: path)
            try writeFileAtomically("second", to: path)
            #expect(try readTextFile(path) == "second")
            #expect(try listFolder(folder) == ["a.txt"])
        }
    }

    @Test func abandonedFileLeavesTheOldOne() throws {
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "a.txt")
            try writeFileAtomically("old", to: path)
            do {
                let file = try OutputFile(replacing: path)
                try file.append([UInt8](repeating: 1, count: 3 << 20))
                #expect(file.offset == 3 << 20)
                #expect(try listFolder(folder).count == 2)
            }
            #expect(try listFolder(folder) == ["a.txt"])
            #expect(try readTextFile(path) == "old")
        }
    }

    @Test func appendsAndCutsBack() throws {
        try withTemporaryFolder { folder in
            let path = joinPath(folder, "log")
            for text in ["one\n", "two\n"] {
                let file = try OutputFile(appendingTo: path)
                try file.append(text)
                try file.close()
            }
            let file = try OutputFile(appendingTo: path, keeping: 4)
            try file.append("three\n")
            #expect(file.offset == 10)
            try file.close()
            #expect(try readTextFile(path) == "one\nthree\n")
            #expect { try OutputFile(appendingTo: path, keeping: 11) } throws: { "\($0)".contains("at least 11") }
        }
    }

    /// `/dev/full` answers every write as a full disk does.
    @Test func fullDiskIsExitStatus73() throws {
        let error = try #require(throws: UserError.self) { try writeFileAtomically("x", to: "/dev/full") }
        #expect(error.exitStatus == .cannotWrite && error.message.contains("disk is full"))
    }

    @Test(arguments: [
        (ENOSPC, "disk is full"), (EDQUOT, "quota is used up"), (EROFS, "read-only"), (EACCES, "no permission"),
        (EPERM, "no permission"), (EFBIG, "larger than"), (EIO, "cannot write: "),
    ])
    func everyWriteFailureIsExitStatus73(_ code: Int32, _ reason: String) {
        let error = writeError("a/b", code)
        #expect(error.exitStatus == .cannotWrite && error.message.hasPrefix("a/b: ") && error.message.contains(reason))
    }

    @Test func writesToPipesAndDevicesDirectly() throws {
        try writeFileAtomically("x", to: "/dev/null")
        var status = stat()
        #expect(stat("/dev/null", &status) == 0 && status.st_mode & S_IFMT == S_IFCHR)
    }

    @Test func unwritablePlacesAreExitStatus73() throws {
        try withTemporaryFolder { folder in
            try writeFileAtomically("x", to: joinPath(folder, "file"))
            let cases = [
                ("file/below", "is a file"), ("missing/file", "does not exist"), ("", "is a folder"),
                (String(repeating: "n", count: 300), "too long"), ("nul\0", "cannot write"),
            ]
            for (name, reason) in cases {
                let path = name.isEmpty ? folder : joinPath(folder, name)
                let error = try #require(throws: UserError.self) { try writeFileAtomically("x", to: path) }
                #expect(error.exitStatus == .cannotWrite && error.message.contains(reason), "\(error)")
            }
            #expect(throws: UserError.self) { try createDirectories(joinPath(folder, "file/below")) }
            #expect(try listFolder(folder) == ["file"])
        }
    }

    @Test func unreadablePathsAreExitStatus65() throws {
        try withTemporaryFolder { folder in
            try writeFileAtomically([0x61, 0x0A, 0xFF], to: joinPath(folder, "file"))
            symlink("loop", joinPath(folder, "loop"))
            mkfifo(joinPath(folder, "pipe"), 0o600)
            let cases = [
                ("none", "no such file"), ("file/x", "is a file, not a folder"), ("", "is a folder"),
                ("loop", "circle"),
            ]
            for (name, reason) in cases {
                let path = name.isEmpty ? folder : joinPath(folder, name)
                for open in [
                    { _ = try readFile($0) }, { _ = try MappedFile(path: $0) }, { _ = try LineReader(path: $0) },
                ]
                    as [(String) throws -> Void]
                {
                    let error = try #require(throws: UserError.self) { try open(path) }
                    #expect(error.exitStatus == .badData && error.message.contains(reason), "\(error)")
                    #expect(error.message.hasPrefix(path))
                }
            }
            #expect { try readFile(joinPath(folder, "file"), maxBytes: 2) } throws: { "\($0)".contains("at most 2") }
            #expect { try readTextFile(joinPath(folder, "file")) } throws: { "\($0)".contains("line 2: not UTF-8") }
            #expect { try readFile("/dev/zero") } throws: { "\($0)".contains("not a regular file") }
        }
    }

    @Test func filesWhoseSizeIsNotKnownAreReadWhole() throws {
        let status = try readTextFile("/proc/self/status")
        #expect(status.contains("VmHWM:") && status.hasSuffix("\n"))
    }

    @Test func removesTreesButNotWhatLinksLeadTo() throws {
        try withTemporaryFolder { folder in
            try createDirectories(joinPath(folder, "tree/a/b"))
            try writeFileAtomically("x", to: joinPath(folder, "tree/a/b/c"))
            try writeFileAtomically("x", to: joinPath(folder, "kept"))
            symlink("../kept", joinPath(folder, "tree/link"))
            symlink("..", joinPath(folder, "tree/up"))
            try removeTree(joinPath(folder, "tree"))
            try removeTree(joinPath(folder, "tree"))
            #expect(try listFolder(folder) == ["kept"])
        }
    }

    @Test func mappedFileNoticesTruncation() throws {
        try withTemporaryFile(Array("hello".utf8), "x") { path in
            let file = try MappedFile(path: path)
            #expect(Array(try file.checkedBytes(1..<3)) == Array("el".utf8) && file.count == 5)
            try writeWithoutSync(Array("he".utf8), to: path)
            #expect { try file.checkedBytes(0..<5) } throws: { "\($0)".contains("became shorter") }
            var room = [UInt8](repeating: 0, count: 4)
            #expect { try room.withUnsafeMutableBytes { try file.read(1..<5, into: $0) } } throws: {
                "\($0)".contains("became shorter")
            }
        }
        try withTemporaryFile([], "empty") { path in
            let file = try MappedFile(path: path)
            #expect(file.bytes.isEmpty)
        }
    }

    @Test(arguments: [
        ("a/b", "a", "b"), ("a/b/", "a", "b"), ("a", ".", "a"), ("/a", "/", "a"), ("/", "/", ""), ("a//b", "a", "b"),
        ("../x", "..", "x"),
    ])
    func takesPathsApart(_ path: String, _ parent: String, _ name: String) {
        #expect(parentFolder(of: path) == parent && fileName(of: path) == name)
    }

    @Test func messagesStayOnOneLine() {
        #expect { try readFile("a\u{1B}[31m\nb") } throws: { "\($0)".hasPrefix(#"a\u{1b}[31m\nb: "#) }
    }
}
