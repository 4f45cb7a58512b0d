// The file that keeps the tokens of a source: checked to the last byte before anything in it is believed.
//
//     8 bytes magic, u32 version, u32 0
//     blocks as `TokenChunk` has them, one behind the other
//     a description, JSON: what the tokens were made from, counts, and the length and SHA-256 of every block
//     u64 offset and u64 length of the description, its SHA-256 (32 bytes), 8 bytes magic
//
// Blocks are full and tile the file, so that every byte is either compared or under a checksum.
internal import Crypto
internal import Diagnostics
internal import Formats

/// Why a cache file is not used; a clause behind its path.
struct CacheFault: Error {
    let reason: String
    init(_ reason: String) { self.reason = reason }
}

/// A cache file whose description has been checked.
struct TokenCacheFile {
    static let magic = Array("NDLTOKEN".utf8), version: UInt32 = 3
    static let headerBytes = 16, footerBytes = 56
    static var header: [UInt8] { magic + [version, 0].flatMap { withUnsafeBytes(of: $0.littleEndian) { Array($0) } } }

    let mapped: MappedFile
    let description: JSONValue

    /// - Throws: `CacheFault`; `UserError` when the file cannot be read.
    init(path: String) throws {
        mapped = try MappedFile(path: path)
        let bytes = mapped.bytes
        guard bytes.count >= Self.headerBytes + Self.footerBytes else { throw CacheFault("is cut off") }
        guard bytes.starts(with: Self.magic) else { throw CacheFault("is no file of tokens") }
        guard bytes.starts(with: Self.header) else {
            throw CacheFault("is of another version (\(bytes.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))")
        }
        let footer = bytes.count - Self.footerBytes
        guard bytes[(bytes.count - Self.magic.count)...].elementsEqual(Self.magic) else {
            throw CacheFault("is cut off or damaged at its end")
        }
        func number(_ place: Int) -> Int? {
            Int(exactly: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: footer + place, as: UInt64.self)))
        }
        guard let offset = number(0), let length = number(8), Self.headerBytes...footer ~= offset,
            length == footer - offset
        else { throw CacheFault("is damaged: its end does not fit its length") }
        let text = UnsafeRawBufferPointer(rebasing: bytes[offset..<footer])
        var hash = SHA256()
        hash.update(bufferPointer: text)
        guard hash.finalize().elementsEqual(bytes[footer + 16..<footer + 48]) else {
            throw CacheFault("is damaged: the checksum of its description differs")
        }
        guard let description = try? JSONValue.parse(text) else { throw CacheFault("is damaged: no description") }
        self.description = description
        blocks = Self.headerBytes..<offset
    }

    /// Where the blocks lie.
    private let blocks: Range<Int>

    /// Checks all blocks, and gives the tokens.
    ///
    /// - Parameter sources: the files as they are called now; as many as the tokens were made from.
    func tokens(_ sources: [RowSource], threads: Int) throws -> StoredTokens {
        let table = TokenTable(try chunks(sources.count, threads: threads), sources, keeping: [mapped])
        let described = TokenDescription(description, sources)
        guard let described, described.rows == table.count else { throw CacheFault("is damaged: counts do not fit") }
        return StoredTokens(
            table: table, statistics: described.statistics, remarks: described.remarks)
    }

    private func chunks(_ files: Int, threads: Int) throws -> [TokenChunk] {
        var at = blocks.lowerBound
        let listed = try (description["blocks"]?.array ?? []).map { entry -> (range: Range<Int>, sha256: String) in
            guard let entry = entry.array, entry.count == 2, let length = entry[0].int, let sha256 = entry[1].string,
                length > 0, length <= blocks.upperBound - at
            else { throw CacheFault("is damaged: its list of blocks") }
            at += length
            return (at - length..<at, sha256)
        }
        guard at == blocks.upperBound else { throw CacheFault("is damaged: its blocks do not fill it") }
        var chunks: [TokenChunk] = []
        let mapped = mapped, size = TokenTable.rowsPerChunk
        try runInOrder(listed.count, threads: threads) { i in
            let bytes = UnsafeRawBufferPointer(rebasing: mapped.bytes[listed[i].range])
            guard hexadecimalSHA256(bytes) == listed[i].sha256, let chunk = TokenChunk(bytes, files: files),
                chunk.rows == size || i == listed.count - 1 && 1...size ~= chunk.rows
            else {
                throw CacheFault("is damaged: the checksum of rows \(i * size + 1) to \((i + 1) * size) differs")
            }
            return chunk
        } consume: {
            chunks.append($0)
        }
        return chunks
    }
}

/// Writes a cache file from front to back.
final class TokenCacheWriter {
    private let file: OutputFile
    private var blocks: [JSONValue] = []
    private var tokens = 0, trainedTokens = 0

    /// - Throws: `UserError` (73).
    init(path: String) throws {
        file = try OutputFile(replacing: path)
        try file.append(TokenCacheFile.header)
    }

    func append(_ block: TokenBlock) throws {
        blocks.append([.init(block.bytes.count), .string(hexadecimalSHA256(block.bytes))])
        try file.append(block.bytes)
        tokens += block.tokens
        trainedTokens += block.trainedTokens
    }

    /// Adds what the blocks hold to the description, and puts the file in place.
    func finish(_ description: JSONObject) throws {
        var description = description
        description["tokens"] = .init(tokens)
        description["trained_tokens"] = .init(trainedTokens)
        description["blocks"] = .array(blocks)
        let offset = UInt64(file.offset), text = Array(JSONValue.object(description).serialized(.compact).utf8)
        try file.append(text)
        var footer: [UInt8] = []
        for number in [offset, UInt64(text.count)] {
            withUnsafeBytes(of: number.littleEndian) { footer.append(contentsOf: $0) }
        }
        var hash = SHA256()
        text.withUnsafeBytes { hash.update(bufferPointer: $0) }
        footer += Array(hash.finalize()) + TokenCacheFile.magic
        try file.append(footer)
        try file.close()
    }
}

/// The counts in a description: what a run says of the rows without reading them again.
struct TokenDescription {
    let rows: Int
    let statistics: RowStatistics
    let remarks: [RowRemark]

    static func json(_ rows: Rows, _ sources: [RowSource]) -> JSONObject {
        let statistics = rows.statistics
        func place(_ location: RowLocation, _ name: String?) -> [JSONValue] {
            let file = sources.firstIndex { $0.path == location.file && $0.name == name ?? $0.name } ?? 0
            return [.init(file), .init(location.number)]
        }
        func subject(_ subject: RowRemark.Subject) -> [JSONValue] {
            [.string(subject.kind.rawValue), .string(subject.name.string)]
        }
        let dropped = BadRowReason.allCases.compactMap { reason -> (String, JSONValue)? in
            guard let count = statistics.dropped[reason], let example = statistics.examples[reason] else { return nil }
            return (
                reason.rawValue,
                .array([.init(count)] + place(example.location, example.source) + [.string(example.detail)])
            )
        }
        return JSONObject([
            ("rows_in", .init(statistics.rows)), ("duplicates", .init(statistics.duplicates)),
            ("rows", .init(rows.count)), ("dropped", .object(JSONObject(dropped))),
            (
                "filtered",
                .object(JSONObject(statistics.filtered.sorted { $0.key < $1.key }.map { ($0.key, .init($0.value)) }))
            ),
            ("sources", .array(statistics.sources.map { [.init($0.rowsIn), .init($0.rowsOut)] })),
            ("remarks", .array(rows.remarks.map { .array(subject($0.subject) + place($0.place, nil)) })),
        ])
    }

    /// nil for what `json` does not write.
    init?(_ description: JSONValue, _ sources: [RowSource]) {
        func source(_ value: JSONValue) -> RowSource? {
            value.int.flatMap { sources.indices.contains($0) ? sources[$0] : nil }
        }
        guard let rowsIn = description["rows_in"]?.int, let duplicates = description["duplicates"]?.int,
            let rows = description["rows"]?.int, let drops = description["dropped"]?.object,
            let remarked = description["remarks"]?.array, let stages = description["filtered"]?.object,
            let counts = description["sources"]?.array
        else { return nil }
        var filtered: [String: Int] = [:], perSource: [RowStatistics.Source] = []
        for (stage, count) in stages {
            guard let count = count.int else { return nil }
            filtered[stage] = count
        }
        for value in counts {
            guard let entry = value.array, entry.count == 2, let rowsIn = entry[0].int, let rowsOut = entry[1].int
            else { return nil }
            perSource.append(.init(rowsIn: rowsIn, rowsOut: rowsOut))
        }
        var dropped: [BadRowReason: Int] = [:], examples: [BadRowReason: BadRow] = [:]
        for (name, value) in drops {
            guard let reason = BadRowReason(rawValue: name), let entry = value.array, entry.count == 4,
                let count = entry[0].int, let source = source(entry[1]), let number = entry[2].int,
                let detail = entry[3].string
            else { return nil }
            dropped[reason] = count
            examples[reason] = BadRow(
                RowFault(reason, detail), source: source.name, location: source.location(number))
        }
        var remarks: [RowRemark] = []
        for value in remarked {
            guard let entry = value.array, entry.count == 4,
                let kind = entry[0].string.flatMap(RowRemark.Subject.Kind.init), let name = entry[1].string,
                let source = source(entry[2]), let number = entry[3].int
            else { return nil }
            remarks.append(RowRemark(subject: .init(kind, name), place: source.location(number)))
        }
        (self.rows, self.remarks) = (rows, remarks)
        statistics = RowStatistics(
            rows: rowsIn, duplicates: duplicates, dropped: dropped, examples: examples, filtered: filtered,
            sources: perSource)
    }
}
