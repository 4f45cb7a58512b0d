// The cache of the Hugging Face Hub as its own client lays it out (huggingface.co/docs/huggingface_hub/guides/manage-cache):
// models--ORG--NAME/{refs, blobs, snapshots}, a snapshot's files being links into blobs.
internal import Diagnostics
internal import Formats

/// `ORG/NAME`, or `NAME` for the oldest models, perhaps with `@REVISION`.
public struct HubRepository: Sendable, Equatable, CustomStringConvertible {
    public let id: String
    public let revision: String

    /// nil for what cannot be a repository's name.
    ///
    /// - Parameter revision: a branch, tag or commit; what stands behind an `@` when nil, else `main`.
    public init?(_ text: String, revision: String? = nil) {
        let parts = text.split(separator: "@", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        if parts.count == 2, revision != nil { return nil }
        id = parts[0]
        self.revision = revision ?? (parts.count == 2 ? parts[1] : "main")
        let names = id.split(separator: "/", omittingEmptySubsequences: false)
        guard (1...2).contains(names.count), names.allSatisfy(Self.isName), Self.isRevision(self.revision) else {
            return nil
        }
    }

    /// The repository whose snapshot a folder of a cache is; nil for any other folder.
    init?(snapshot folder: String) {
        let snapshots = parentFolder(of: folder), root = parentFolder(of: snapshots), name = fileName(of: root)
        guard fileName(of: snapshots) == "snapshots", name.hasPrefix("models--") else { return nil }
        let id = name.dropFirst("models--".count).split(separator: "--").joined(separator: "/")
        guard let repository = HubRepository(id) else { return nil }
        let isNewest = (try? HubCache(folder: parentFolder(of: root)).snapshot(repository)) == folder
        self.init(id, revision: isNewest ? nil : fileName(of: folder))
    }

    public var description: String { revision == "main" ? id : "\(id)@\(revision)" }

    /// The name of its folder in a cache.
    public var folderName: String { "models--" + id.split(separator: "/").joined(separator: "--") }

    /// What the Hub allows: letters, digits, `-`, `_` and `.`, none of the marks doubled or at an end.
    private static func isName(_ name: Substring) -> Bool {
        guard (1...96).contains(name.utf8.count), name.utf8.allSatisfy(isNameByte) else { return false }
        guard let first = name.first, let last = name.last, first != "-", first != ".", last != "-", last != "." else {
            return false
        }
        return !name.contains("--") && !name.contains("..")
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."): true
        default: false
        }
    }

    /// A name of a branch becomes a path of the cache, so no part of it may lead out.
    private static func isRevision(_ revision: String) -> Bool {
        isPathInside(revision) && !revision.hasSuffix(".lock")
    }
}

/// Whether a path with slashes names something inside the folder it is joined to.
package func isPathInside(_ path: String) -> Bool {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    return path.utf8.allSatisfy { $0 >= 0x20 && $0 != UInt8(ascii: "\\") && $0 != 0x7F }
        && parts.allSatisfy { !$0.isEmpty && $0 != "." && $0 != ".." }
}

/// Whether it names a file or folder right inside another.
package func isPlainName(_ name: String) -> Bool { isPathInside(name) && !name.contains("/") }

/// The cache on this machine. Nothing here asks the network.
public struct HubCache: Sendable {
    public let folder: String

    public init(folder: String) { self.folder = folder }

    /// `$HF_HUB_CACHE`, else `$HUGGINGFACE_HUB_CACHE`, else `hub` in `hubHome`; nil where no variable says where that is.
    public init?(_ variable: VariableReader) {
        if let folder = hubPath("HF_HUB_CACHE", variable) ?? hubPath("HUGGINGFACE_HUB_CACHE", variable) {
            self.folder = folder
        } else if let home = hubHome(variable) {
            folder = joinPath(home, "hub")
        } else {
            return nil
        }
    }

    /// The cache that the environment names.
    public init?() { self.init(environmentVariable) }

    /// The folder of a repository; it may not be there.
    public func folder(of repository: HubRepository) -> String { joinPath(folder, repository.folderName) }

    /// The commit that the repository's revision was when it was last asked for; nil while it never was.
    ///
    /// - Throws: `UserError` for a file that names no commit.
    public func commit(of repository: HubRepository) throws -> String? {
        let reference = joinPath(folder(of: repository), "refs/" + repository.revision)
        if fileExists(reference) {
            let commit = try readTextFile(reference, maxBytes: 1 << 10).filter { !$0.isWhitespace }
            guard isPlainName(commit) else {
                throw UserError("\(reference): names no commit; remove it and download \(repository) again")
            }
            return commit
        }
        return folderExists(joinPath(folder(of: repository), "snapshots/" + repository.revision))
            ? repository.revision : nil
    }

    /// The folder of the revision's files; nil when it is not in the cache.
    public func snapshot(_ repository: HubRepository) throws -> String? {
        guard let commit = try commit(of: repository) else { return nil }
        let path = joinPath(folder(of: repository), "snapshots/" + commit)
        return folderExists(path) ? path : nil
    }
}

extension HubCache {
    /// The mark that a commit has no such file, as the Hub's own client keeps it.
    public func absenceMark(of name: String, in repository: HubRepository, commit: String) -> String {
        joinPath(folder(of: repository), ".no_exist/\(commit)/\(name)")
    }
}
