// A folder of tokens made before, by what they were made from.
internal import Diagnostics
internal import Formats

/// Tokens of data sources, one file each. Files appear complete or not at all, so any number of programs may use a folder
/// at a time; one that is damaged, or cannot be read or written, is named and never stops the work.
public struct TokenCache: Sendable {
    public let folder: String

    /// - Parameter folder: made when something is written.
    public init(folder: String) { self.folder = folder }

    /// `tokens` in the user's cache.
    ///
    /// - Throws: `UserError` when there is no place for it.
    public init() throws { self.init(folder: joinPath(try cacheFolder(), "tokens")) }

    private static let ending = ".tokens"

    private func path(_ key: TokenCacheKey) -> String { joinPath(folder, key.name + Self.ending) }

    /// The tokens under the first key that has some.
    func find(
        _ keys: [TokenCacheKey], _ sources: [RowSource], _ encoder: ExampleEncoder, threads: Int,
        _ notes: inout [String]
    ) -> StoredTokens? {
        for key in keys where fileExists(path(key)) {
            do {
                let tokens = try open(key, sources, encoder, threads: threads)
                notes.append("tokens from the cache: \(path(key))")
                return tokens
            } catch {
                notes.append("\(Self.text(error, path(key))); its rows are encoded anew")
            }
        }
        return nil
    }

    private func open(
        _ key: TokenCacheKey, _ sources: [RowSource], _ encoder: ExampleEncoder, threads: Int
    ) throws -> StoredTokens {
        let file = try TokenCacheFile(path: path(key))
        guard file.description["config"] == key.config else { throw CacheFault("was made from something else") }
        for (format, text) in file.description["printed_times"]?.object ?? JSONObject() {
            guard text == encoder.printedTime(format).map({ .string($0) }) else {
                let then = escapedForDisplay(text.string ?? "")
                throw CacheFault("holds what the chat template printed of another time, \(then)")
            }
        }
        return try file.tokens(sources, threads: threads)
    }

    /// Encodes the rows and keeps their tokens; nil, with a note, when they cannot be kept.
    ///
    /// - Throws: what is wrong with the rows.
    func make(
        _ key: TokenCacheKey, _ work: EncodingWork, _ fingerprint: DataFingerprint, _ check: (Int) throws -> Void,
        _ notes: inout [String]
    ) throws -> StoredTokens? {
        let path = path(key)
        do {
            let writer = try keeping { () throws -> TokenCacheWriter in
                try createDirectories(folder)
                try OutputFile.removeAbandoned(in: folder)
                return try TokenCacheWriter(path: path)
            }
            let rows = try work.run(check) { block in try keeping { try writer.append(block) } }
            // The same pages that were read: an edit under way must not be kept under the hash of what was there before.
            guard DataFingerprint(work.files) == fingerprint else {
                let names = work.source.paths.map { escapedForDisplay($0) }.joined(separator: ", ")
                throw UserError("\(names): changed while it was in use; another program is writing there")
            }
            let stored = try keeping { () throws -> StoredTokens in
                try writer.finish(Self.description(key, work, rows))
                return try open(key, work.sources, work.encoder, threads: work.threads)
            }
            notes.append("tokens kept in the cache: \(path)")
            return stored
        } catch let trouble as KeepingTrouble {
            notes.append("tokens are not kept: \(Self.text(trouble.error, path))")
            return nil
        }
    }

    private static func description(_ key: TokenCacheKey, _ work: EncodingWork, _ rows: Rows) -> JSONObject {
        let times = work.encoder.printedTimes.sorted { $0.key < $1.key }.map { ($0.key, JSONValue.string($0.value)) }
        var description = TokenDescription.json(rows, work.sources)
        description["config"] = key.config
        description["printed_times"] = .object(JSONObject(times))
        description["made_from"] = .array(work.sources.map { .string($0.path) })
        return description
    }

    private static func text(_ error: any Error, _ path: String) -> String {
        switch error {
        case let fault as CacheFault: "\(path): \(fault.reason)"
        case let error as any UserFacing: error.message
        default: "\(path): \(error)"
        }
    }

    // MARK: looking after it

    /// A file of the cache, as its description tells.
    public struct Entry: Sendable {
        public let path: String
        public let bytes: Int
        /// Paths of the files that the rows came from.
        public let madeFrom: [String]
        public let rows: Int, tokens: Int
        /// What is wrong with the file; nothing was checked beyond its description.
        public let fault: String?
    }

    /// What the folder holds; empty when there is none.
    public func entries() throws -> [Entry] {
        guard folderExists(folder) else { return [] }
        return try listFolder(folder).filter { $0.hasSuffix(Self.ending) }.map { name in
            let path = joinPath(folder, name), bytes = try fileSize(path)
            do {
                let description = try TokenCacheFile(path: path).description
                let files = description["made_from"]?.array?.compactMap(\.string) ?? []
                return Entry(
                    path: path, bytes: bytes, madeFrom: files, rows: description["rows"]?.int ?? 0,
                    tokens: description["tokens"]?.int ?? 0, fault: nil)
            } catch {
                return Entry(path: path, bytes: bytes, madeFrom: [], rows: 0, tokens: 0, fault: Self.text(error, path))
            }
        }
    }

    /// Removes every file of tokens, and what killed programs left.
    ///
    /// - Returns: files and bytes removed.
    public func clear() throws -> (files: Int, bytes: Int) {
        guard folderExists(folder) else { return (0, 0) }
        try OutputFile.removeAbandoned(in: folder)
        let names = try listFolder(folder).filter { $0.hasSuffix(Self.ending) }
        let bytes = try names.reduce(0) { $0 + (try fileSize(joinPath(folder, $1))) }
        for name in names { try removeTree(joinPath(folder, name)) }
        return (names.count, bytes)
    }
}

/// Tokens could not be kept; the rows are fine.
private struct KeepingTrouble: Error { let error: any Error }

private func keeping<Result>(_ body: () throws -> Result) throws -> Result {
    do { return try body() } catch { throw KeepingTrouble(error: error) }
}
