// A few hundred rows as tokens in one block of bytes: the same in memory and in a cache file.
//
// Little-endian; n rows of N tokens, of which some rows were left out:
//
//     u32 n, u32 N, u32 D, u32 0
//     n times    u32 end      tokens of this row and all before it in the block
//                u32 trained  targets of the loss among them
//                u32 cut      tokens that truncation took
//                u32 file     place in the list of files
//                u32 number   of the row in its file, from 1
//     i32 ids[N]
//     u8  marks[N]            1 where the token is trained
//     u8  leftOut[D]          JSON: [[row of the block, reason, detail], ...]
//     zeros up to a multiple of 8 bytes
internal import Formats
internal import Glibc

/// A block read where it lies.
// Sendable: the bytes belong to a `TokenTable`, which keeps them as long as it lives and never writes.
struct TokenChunk: @unchecked Sendable {
    struct Record: Equatable {
        var end: UInt32 = 0, trained: UInt32 = 0, cut: UInt32 = 0, file: UInt32 = 0, number: UInt32 = 0
    }

    static let headerBytes = 16, recordBytes = MemoryLayout<Record>.stride

    let bytes: UnsafeRawBufferPointer
    let rows: Int, tokens: Int
    private let noteBytes: Int

    static func byteCount(rows: Int, tokens: Int, noteBytes: Int) -> Int {
        (headerBytes + rows * recordBytes + tokens * 5 + noteBytes + 7) & ~7
    }

    /// Takes a block for what it is; nil when its parts do not fit each other.
    ///
    /// - Parameters:
    ///   - bytes: begin at a multiple of 4.
    ///   - files: length of the list of files.
    init?(_ bytes: UnsafeRawBufferPointer, files: Int) {
        guard bytes.count >= Self.headerBytes else { return nil }
        let counts = (0..<3).map { Int(bytes.load(fromByteOffset: 4 * $0, as: UInt32.self)) }
        (rows, tokens, noteBytes) = (counts[0], counts[1], counts[2])
        self.bytes = bytes
        guard bytes.count == Self.byteCount(rows: rows, tokens: tokens, noteBytes: noteBytes) else { return nil }
        var end: UInt32 = 0
        for row in 0..<rows {
            let record = record(row)
            guard record.end >= end, record.trained <= record.end - end, record.file < files else { return nil }
            end = record.end
        }
        guard Int(end) == tokens, marks.allSatisfy({ $0 <= 1 }) else { return nil }
    }

    func record(_ row: Int) -> Record {
        bytes.load(fromByteOffset: Self.headerBytes + row * Self.recordBytes, as: Record.self)
    }

    /// Where the tokens of a row stand in `ids` and `marks`.
    func range(_ row: Int) -> Range<Int> { (row == 0 ? 0 : Int(record(row - 1).end))..<Int(record(row).end) }

    var ids: UnsafeBufferPointer<Int32> {
        let start = bytes.baseAddress! + Self.headerBytes + rows * Self.recordBytes
        return UnsafeBufferPointer(start: start.assumingMemoryBound(to: Int32.self), count: tokens)
    }

    var marks: UnsafeBufferPointer<UInt8> {
        let start = bytes.baseAddress! + Self.headerBytes + rows * Self.recordBytes + tokens * 4
        return UnsafeBufferPointer(start: start.assumingMemoryBound(to: UInt8.self), count: tokens)
    }

    /// Why rows of the block were left out; rows that nobody asked for are not among them.
    var leftOut: [Int: RowFault] {
        let start = Self.headerBytes + rows * Self.recordBytes + tokens * 5
        guard noteBytes > 0 else { return [:] }
        // What the writer wrote: the block's checksum was compared before.
        let notes = try? JSONValue.parse(UnsafeRawBufferPointer(rebasing: bytes[start..<start + noteBytes]))
        return (notes?.array ?? []).reduce(into: [:]) { faults, note in
            guard let note = note.array, note.count == 3, let row = note[0].int, let detail = note[2].string,
                let reason = note[1].string.flatMap(BadRowReason.init(rawValue:))
            else { return }
            faults[row] = RowFault(reason, detail)
        }
    }
}

/// Memory of a block that was made here.
// Sendable: written in `init`, afterwards only read.
final class TokenBlock: @unchecked Sendable {
    let bytes: UnsafeRawBufferPointer
    let tokens: Int, trainedTokens: Int

    fileprivate init(_ count: Int, tokens: Int, trained: Int, _ fill: (UnsafeMutableRawBufferPointer) -> Void) {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        fill(memory)
        bytes = UnsafeRawBufferPointer(memory)
        (self.tokens, trainedTokens) = (tokens, trained)
    }

    deinit { bytes.deallocate() }
}

/// A block while its rows come in.
struct TokenBlockBuilder {
    private var records: [TokenChunk.Record] = []
    private var ids: [Int32] = []
    private var marks: [UInt8] = []
    private var leftOut: [JSONValue] = []

    var rows: Int { records.count }

    mutating func keep(_ example: TokenizedExample, cut: Int, file: Int) {
        ids.append(contentsOf: example.ids)
        marks.append(contentsOf: example.trained.lazy.map { $0 ? 1 : 0 })
        add(trained: example.trainedTokens, cut: cut, file, example.source.number)
    }

    /// A row without tokens: why, or nil when nobody asked for it.
    mutating func leaveOut(_ fault: RowFault?, file: Int, number: Int) {
        if let fault { leftOut.append([.init(rows), .string(fault.reason.rawValue), .string(fault.detail)]) }
        add(trained: 0, cut: 0, file, number)
    }

    private mutating func add(trained: Int, cut: Int, _ file: Int, _ number: Int) {
        records.append(
            .init(
                end: UInt32(ids.count), trained: UInt32(trained), cut: UInt32(cut), file: UInt32(file),
                number: UInt32(number)))
    }

    /// The block's bytes.
    consuming func block() -> TokenBlock {
        let notes = leftOut.isEmpty ? [] : Array(JSONValue.array(leftOut).serialized(.compact).utf8)
        let count = TokenChunk.byteCount(rows: rows, tokens: ids.count, noteBytes: notes.count)
        let trained = records.reduce(0) { $0 + Int($1.trained) }
        return TokenBlock(count, tokens: ids.count, trained: trained) { memory in
            let header = [UInt32(records.count), UInt32(ids.count), UInt32(notes.count), 0]
            var at = 0
            func put(_ part: UnsafeRawBufferPointer) {
                if let start = part.baseAddress {
                    (memory.baseAddress! + at).copyMemory(from: start, byteCount: part.count)
                }
                at += part.count
            }
            header.withUnsafeBytes(put)
            records.withUnsafeBytes(put)
            ids.withUnsafeBytes(put)
            marks.withUnsafeBytes(put)
            notes.withUnsafeBytes(put)
        }
    }
}
