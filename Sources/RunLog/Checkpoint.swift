// One saved step on the disk: its manifest, and the proof that nothing in it changed since it was written.

internal import Diagnostics
public import Formats

/// A checkpoint whose every byte was verified.
public struct Checkpoint: Sendable {
    /// Optimiser steps done.
    public let step: Int
    public let folder: String
    /// What the caller gave to `CheckpointStore.save`.
    public let state: JSONValue
    /// Validation loss at the save, if there was one; the checkpoint with the lowest is kept as the best.
    public let score: Double?
    /// Step of the save before it.
    public let parent: Int?
    /// Names of the caller's files.
    public let files: [String]
    public let bytes: Int

    public func path(of file: String) -> String { "\(folder)/\(file)" }
}

/// Why a folder is not a checkpoint.
struct CheckpointRefusal: Error {
    let reason: String
}

/// The list of files with lengths and hashes that is written last. `manifest.json` is
/// `{"manifest":{...},"sha256":"<of the text of the object>"}`, compact, and is accepted only byte for byte, so that
/// no bit of it can change unnoticed.
struct Manifest {
    static let fileName = "manifest.json"
    static let stateName = "state.json"
    static let version = 1

    struct File {
        let name: String
        let bytes: Int
        let sha256: String
    }

    let run: String
    let step: Int
    let parent: Int?
    let score: Double?
    let files: [File]

    var json: JSONValue {
        [
            "schema_version": .init(Self.version), "run": .init(run), "step": .init(step),
            "parent": parent.map { .init($0) } ?? nil, "score": score.map { .init($0) } ?? nil,
            "files": .array(
                files.map { ["name": .init($0.name), "bytes": .init($0.bytes), "sha256": .init($0.sha256)] }),
        ]
    }

    var bytes: [UInt8] { Self.sealed(json) }

    private static func sealed(_ json: JSONValue) -> [UInt8] {
        let text = json.serialized()
        return Array("{\"manifest\":\(text),\"sha256\":\"\(Files.sha256(text.utf8))\"}\n".utf8)
    }

    /// Reads and checks a manifest by itself; the files it names are not looked at.
    init(reading folder: String) throws {
        let path = "\(folder)/\(Self.fileName)"
        guard fileExists(path), let size = try? fileSize(path) else {
            throw CheckpointRefusal(reason: "no \(Self.fileName)")
        }
        guard size <= 1 << 24 else {
            throw CheckpointRefusal(reason: "\(Self.fileName) is damaged: \(counted(Int(size), "byte"))")
        }
        guard let bytes = try? readFile(path), let document = try? JSONValue.parse(bytes),
            let json = document["manifest"], Self.sealed(json) == bytes
        else { throw CheckpointRefusal(reason: "\(Self.fileName) is damaged: its hash does not fit its content") }
        guard json["schema_version"]?.int == Self.version else {
            let version = json["schema_version"]?.serialized() ?? "none"
            throw CheckpointRefusal(reason: "manifest version \(version), this program reads \(Self.version)")
        }
        guard let run = json["run"]?.string, let step = json["step"]?.int, let list = json["files"]?.array else {
            throw CheckpointRefusal(reason: "\(Self.fileName) lacks run, step or files")
        }
        self.run = run
        self.step = step
        parent = json["parent"]?.int
        score = json["score"]?.double
        files = try list.map {
            guard let name = $0["name"]?.string, let bytes = $0["bytes"]?.int, let sha256 = $0["sha256"]?.string,
                isPlainFileName(name)
            else { throw CheckpointRefusal(reason: "\(Self.fileName) has an unreadable list of files") }
            return File(name: name, bytes: bytes, sha256: sha256)
        }
    }

    init(run: String, step: Int, parent: Int?, score: Double?, files: [File]) {
        (self.run, self.step, self.parent, self.score, self.files) = (run, step, parent, score, files)
    }
}

/// One name without a path: what a checkpoint may hold.
func isPlainFileName(_ name: String) -> Bool {
    !name.isEmpty && name != "." && name != ".." && !name.utf8.contains(UInt8(ascii: "/")) && !name.utf8.contains(0)
}

extension Checkpoint {
    /// Reads a folder and verifies every byte of it.
    ///
    /// - Parameters:
    ///   - step: the step that the folder's name says.
    ///   - run: the run it must belong to; nil for any.
    /// - Throws: `CheckpointRefusal` naming what is wrong.
    init(verifying folder: String, step: Int, run: String?) throws {
        let manifest = try Manifest(reading: folder)
        guard manifest.step == step else {
            throw CheckpointRefusal(reason: "its manifest is of step \(manifest.step)")
        }
        guard run == nil || manifest.run == run else { throw CheckpointRefusal(reason: "it belongs to another run") }
        for file in manifest.files {
            let path = "\(folder)/\(file.name)"
            guard fileExists(path), let size = try? fileSize(path) else {
                throw CheckpointRefusal(reason: "\(file.name) is missing")
            }
            guard size == file.bytes else {
                throw CheckpointRefusal(
                    reason: "\(file.name) has \(counted(Int(size), "byte")) instead of \(file.bytes)")
            }
            guard let digest = try? Files.digest(path) else {
                throw CheckpointRefusal(reason: "\(file.name) cannot be read")
            }
            guard digest.sha256 == file.sha256 else {
                throw CheckpointRefusal(reason: "\(file.name) is damaged: its SHA-256 is not the manifest's")
            }
        }
        guard manifest.files.contains(where: { $0.name == Manifest.stateName }),
            let text = try? readFile("\(folder)/\(Manifest.stateName)"), let state = try? JSONValue.parse(text)
        else { throw CheckpointRefusal(reason: "no readable \(Manifest.stateName)") }
        self.init(
            step: step, folder: folder, state: state, score: manifest.score, parent: manifest.parent,
            files: manifest.files.map(\.name).filter { $0 != Manifest.stateName },
            bytes: manifest.files.reduce(0) { $0 + $1.bytes })
    }
}
