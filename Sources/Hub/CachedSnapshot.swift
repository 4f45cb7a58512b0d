// A snapshot of the cache while nobody can be asked: what is known to be missing of it, or not to be whole.
internal import Formats
internal import Glibc
internal import ModelFiles

struct CachedSnapshot {
    let folder: String
    /// Paths of its files; some may be links to blobs that are not there.
    let names: [String]

    init(_ folder: String) throws {
        self.folder = folder
        names = try Self.files(in: folder, "")
    }

    private static func files(in folder: String, _ prefix: String) throws -> [String] {
        try listFolder(folder).flatMap { name in
            let path = joinPath(folder, name)
            return folderExists(path) ? try files(in: path, prefix + name + "/") : [prefix + name]
        }
    }

    func isThere(_ name: String) -> Bool { fileExists(joinPath(folder, name)) }

    /// What a selection asks for and is not here: files, patterns that fit none, weights of a model.
    ///
    /// - Parameter isMarked: whether the commit is known to have no such file.
    func absences(_ selection: HubSelection, isMarked: (String) -> Bool) throws -> [String] {
        let known = Set((names + (try shards())).map { ExactString($0) }).map(\.string)
        let chosen = selection.chosen(known)
        var absent = chosen.filter { !isThere($0) }
        absent += selection.include.filter { !isMarked($0) && selection.fitting($0, known).isEmpty }
        // A repository of a tokenizer alone has none: then both marks are there.
        let hasNone = isMarked(SafetensorsFolder.singleName) && isMarked(SafetensorsFolder.indexName)
        if selection.wantsWeights, !hasNone, !chosen.contains(where: HubSelection.holdsWeights) {
            absent.append("weights (*.safetensors or *.gguf)")
        }
        return absent.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// The shards that the indexes which are here name.
    private func shards() throws -> [String] {
        try names.filter { $0.hasSuffix(".safetensors.index.json") && isThere($0) }.flatMap { index in
            let prefix = index.contains("/") ? parentFolder(of: index) + "/" : ""
            return try SafetensorsFolder.shardNames(index: joinPath(folder, index)).map { prefix + $0 }
        }
    }
}

/// The blob that a link of a snapshot leads to; nil for what is no link to one, whose name says nothing of its bytes.
func blobPath(behind link: String) -> String? {
    guard let real = realpath(link, nil) else { return nil }
    defer { free(real) }
    let path = String(cString: real)
    return fileName(of: parentFolder(of: path)) == "blobs" ? path : nil
}
