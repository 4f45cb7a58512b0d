// Text to token ids and back: what `tokenizer.json` describes, for byte-level BPE models.
import Diagnostics
import Formats
import Synchronization

/// Token ids of a text and where each came from.
public struct Encoding: Sendable, Equatable {
    public var ids: [Int32]
    /// Of each token, in Unicode scalars of the text; `0..<0` for tokens that the template put there. Tokens that share
    /// a character have overlapping offsets.
    public var offsets: [Range<Int>]
}

/// A byte-level BPE tokenizer. Safe to use from several threads at once.
public final class Tokenizer: Sendable {
    let parts: TokenizerParts
    let files: TokenizerFiles
    let rawAdded: AddedTokenMatcher
    let normalizedAdded: AddedTokenMatcher
    private let addedByID: [Int32: AddedToken]
    private let addedByContent: [ExactString: Int32]
    /// Bytes that added tokens decode to.
    private let addedBytes: [Int32: [UInt8]]
    private let specialIDs: Set<Int32>
    /// The pre-tokenizer's steps, where the encoder reads them without reference counting.
    nonisolated(unsafe) let steps: UnsafeBufferPointer<PreTokenizer.Step>  // written in init, freed in deinit
    private let scratches = Mutex<[Scratch]>([])

    init(parts: TokenizerParts, files: TokenizerFiles) {
        self.parts = parts
        self.files = files
        // A token that is matched in normalized text is looked for, and decoded, in its normalized form.
        let content = { (token: AddedToken) in
            token.normalized && parts.normalizesNFC ? NormalFormC.normalize(token.content) : token.content
        }
        rawAdded = AddedTokenMatcher(parts.added.filter { !$0.normalized })
        normalizedAdded = AddedTokenMatcher(parts.added.filter(\.normalized), content: content)
        addedByID = Dictionary(parts.added.map { ($0.id, $0) }) { $1 }
        addedByContent = Dictionary(parts.added.map { (ExactString($0.content), $0.id) }) { $1 }
        let byteLevel = parts.decoder == .byteLevel
        addedBytes = addedByID.mapValues { token in
            var text = content(token), bytes: [UInt8] = []
            text.withUTF8 { utf8 in
                if !byteLevel || !ByteAlphabet.appendBytes(of: utf8, to: &bytes) { bytes.append(contentsOf: utf8) }
            }
            return bytes
        }
        specialIDs = Set(parts.added.lazy.filter(\.special).map(\.id))
        let steps = UnsafeMutableBufferPointer<PreTokenizer.Step>.allocate(capacity: parts.preTokenizer.steps.count)
        _ = steps.initialize(fromContentsOf: parts.preTokenizer.steps)
        self.steps = UnsafeBufferPointer(steps)
    }

    deinit { steps.deallocate() }

    // MARK: Text to ids

    /// Token ids of a text. Added tokens that stand in the text are recognised, special ones too.
    ///
    /// - Parameter addSpecialTokens: also add what the tokenizer's post-processor puts around a text.
    public func encode(_ text: String, addSpecialTokens: Bool = true) -> [Int32] {
        var ids = withEncoder(text, wantsPlaces: false) { ids, _ in ids }
        for processor in parts.postProcessors { processor.apply(to: &ids, addSpecialTokens: addSpecialTokens) }
        return ids
    }

    /// Token ids and offsets of a text, both as the `tokenizers` package reports them.
    public func encoding(of text: String, addSpecialTokens: Bool = true) -> Encoding {
        var places = withEncoder(text, wantsPlaces: true) { $1 }
        for processor in parts.postProcessors { processor.apply(to: &places, addSpecialTokens: addSpecialTokens) }
        return Encoding(ids: places.map(\.id), offsets: places.map { $0.start..<$0.end })
    }

    private func withEncoder<R>(_ text: String, wantsPlaces: Bool, _ result: ([Int32], [PlacedToken]) -> R) -> R {
        let scratch = scratches.withLock { $0.popLast() } ?? Scratch()
        defer { scratches.withLock { $0.append(scratch) } }
        var text = text
        return text.withUTF8 { utf8 in
            var encoder = TextEncoder(self, utf8, scratch, wantsPlaces: wantsPlaces)
            encoder.encode()
            return result(encoder.takeIDs(), encoder.places)
        }
    }

    // MARK: Ids to text

    /// The text of token ids. Ids without a token are left out; bytes that are no UTF-8 become U+FFFD.
    public func decode(_ ids: [Int32], skipSpecialTokens: Bool = false) -> String {
        var bytes: [UInt8] = [], isFirst = true
        for id in ids { append(id, to: &bytes, skipSpecialTokens, &isFirst) }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// A decoder that takes ids one by one.
    public func streamingDecoder(skipSpecialTokens: Bool) -> StreamingDecoder {
        StreamingDecoder(self, skipSpecialTokens: skipSpecialTokens)
    }

    func append(_ id: Int32, to bytes: inout [UInt8], _ skipSpecialTokens: Bool, _ isFirst: inout Bool) {
        if skipSpecialTokens, specialIDs.contains(id) { return }
        let vocabulary = parts.bpe.vocabulary
        let strings = parts.decoder == .byteLevel ? vocabulary.raw : vocabulary.texts
        let added = addedBytes[id]
        guard added != nil || strings[id] != nil else { return }
        if parts.decoder == .joined, !isFirst { bytes.append(0x20) }
        isFirst = false
        if let added { bytes += added } else { bytes += strings.bytes[strings[id]!] }
    }

    // MARK: Vocabulary

    /// Largest id + 1, added tokens included.
    public var vocabularySize: Int { Int(max(parts.bpe.vocabulary.maxID, addedByID.keys.max() ?? -1)) + 1 }

    /// Added tokens in the order of their ids.
    public var addedTokens: [AddedToken] { addedByID.values.sorted { $0.id < $1.id } }

    public func id(of token: String) -> Int32? {
        addedByContent[ExactString(token)] ?? parts.bpe.vocabulary.id(of: token)
    }

    /// A token as the file spells it (`Ġthe`).
    public func token(of id: Int32) -> String? { addedByID[id]?.content ?? parts.bpe.vocabulary.text(of: id) }

    /// Whether there is a token with this id.
    public func hasToken(_ id: Int32) -> Bool { parts.bpe.vocabulary.texts[id] != nil || addedByID[id] != nil }

    public func isSpecial(_ id: Int32) -> Bool { specialIDs.contains(id) }
}

/// Turns ids into text as they come; never half a character. Texts of all pushes and `finish` together are what
/// `Tokenizer.decode` gives.
public struct StreamingDecoder: Sendable {
    private let tokenizer: Tokenizer
    private let skipSpecialTokens: Bool
    private var pending: [UInt8] = []
    private var isFirst = true

    init(_ tokenizer: Tokenizer, skipSpecialTokens: Bool) {
        (self.tokenizer, self.skipSpecialTokens) = (tokenizer, skipSpecialTokens)
    }

    /// The text that the next id completes; may be empty.
    public mutating func push(_ id: Int32) -> String {
        tokenizer.append(id, to: &pending, skipSpecialTokens, &isFirst)
        let complete = pending.count - unfinishedBytes()
        defer { pending.removeFirst(complete) }
        return String(decoding: pending[..<complete], as: UTF8.self)
    }

    /// What is left: U+FFFD for a character that was never completed.
    public mutating func finish() -> String {
        defer { pending = [] }
        return String(decoding: pending, as: UTF8.self)
    }

    /// Bytes at the end that begin a character which more bytes can complete.
    private func unfinishedBytes() -> Int {
        for length in 1...3 where length <= pending.count {
            let tail = pending.suffix(length), lead = tail.first!
            if lead & 0xC0 == 0x80 { continue }
            let needed = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1
            guard needed > length, lead < 0xF5 else { return 0 }
            // The second byte decides whether this can be a character at all.
            if length >= 2 {
                let second = tail[tail.startIndex + 1]
                let range: ClosedRange<UInt8> =
                    switch lead {
                    case 0xE0: 0xA0...0xBF
                    case 0xED: 0x80...0x9F
                    case 0xF0: 0x90...0xBF
                    case 0xF4: 0x80...0x8F
                    default: 0x80...0xBF
                    }
                if !range.contains(second) { return 0 }
            }
            return length
        }
        return 0
    }
}
