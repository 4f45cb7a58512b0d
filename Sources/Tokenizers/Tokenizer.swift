// Text to token ids and back: what `tokenizer.json` and its like describe.
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

/// A tokenizer of any kind. Safe to use from several threads at once.
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

    /// What happens to a text first.
    enum Normalization { case none, formC, general }
    let normalization: Normalization
    /// Whether words are cut by where they come from, so that origins are needed for ids, too.
    let needsOrigins: Bool

    init(parts: TokenizerParts, files: TokenizerFiles) {
        self.parts = parts
        self.files = files
        if case .form(.c)? = parts.normalizers.first, parts.normalizers.count == 1, case .byteLevel = parts.model {
            normalization = .formC
        } else {
            normalization = parts.normalizers.isEmpty ? .none : .general
        }
        var steps: [PreTokenizer.Step] = [], needsOrigins = false
        switch parts.model {
        case .byteLevel(_, let preTokenizer): steps = preTokenizer.steps
        case .words(_, let splitters):
            needsOrigins = splitters.contains { if case .metaspace(_, .first, _) = $0 { true } else { false } }
        case .sentencePiece: break
        }
        self.needsOrigins = needsOrigins
        // A token that is matched in normalized text is looked for, and decoded, in its normalized form.
        let content = { (token: AddedToken) in token.normalized ? parts.normalized(token.content) : token.content }
        rawAdded = AddedTokenMatcher(parts.added.filter { !$0.normalized })
        normalizedAdded = AddedTokenMatcher(parts.added.filter(\.normalized), content: content)
        addedByID = Dictionary(parts.added.map { ($0.id, $0) }) { $1 }
        addedByContent = Dictionary(parts.added.map { (ExactString($0.content), $0.id) }) { $1 }
        var byteLevel = false
        if case .byteLevel = parts.decoder { byteLevel = true }
        addedBytes = addedByID.mapValues { token in
            var text = content(token), bytes: [UInt8] = []
            text.withUTF8 { utf8 in
                if !byteLevel || !ByteAlphabet.appendBytes(of: utf8, to: &bytes) { bytes.append(contentsOf: utf8) }
            }
            return bytes
        }
        specialIDs = Set(parts.added.lazy.filter(\.special).map(\.id))
        let buffer = UnsafeMutableBufferPointer<PreTokenizer.Step>.allocate(capacity: steps.count)
        _ = buffer.initialize(fromContentsOf: steps)
        self.steps = UnsafeBufferPointer(buffer)
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
    ///
    /// - Parameter limited: truncate and pad as the sections `truncation` and `padding` of the file say.
    public func encoding(of text: String, addSpecialTokens: Bool = true, limited: Bool = false) -> Encoding {
        var places = withEncoder(text, wantsPlaces: true) { $1 }
        if limited { parts.limits.truncate(&places, added: addSpecialTokens ? parts.postProcessors.addedCount : 0) }
        for processor in parts.postProcessors { processor.apply(to: &places, addSpecialTokens: addSpecialTokens) }
        if limited {
            parts.limits.pad(&places) { PlacedToken(id: $0, start: 0, end: 0, blanksBefore: 0, blanksAfter: 0) }
        }
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
        var decoder = streamingDecoder(skipSpecialTokens: skipSpecialTokens)
        for id in ids { decoder.take(id) }
        return decoder.finish()
    }

    /// A decoder that takes ids one by one.
    public func streamingDecoder(skipSpecialTokens: Bool) -> StreamingDecoder {
        StreamingDecoder(self, skipSpecialTokens: skipSpecialTokens)
    }

    /// Bytes of a token as decoders take them; nil for what is left out.
    func bytes(of id: Int32, skipSpecialTokens: Bool) -> ArraySlice<UInt8>? {
        if skipSpecialTokens, specialIDs.contains(id) { return nil }
        if let added = addedBytes[id] { return added[...] }
        var strings = parts.vocabulary.texts
        if case .byteLevel = parts.decoder { strings = parts.vocabulary.raw }
        return strings[id].map { strings.bytes[$0] }
    }

    // MARK: Vocabulary

    /// Largest id + 1, added tokens included.
    public var vocabularySize: Int { Int(max(parts.vocabulary.maxID, addedByID.keys.max() ?? -1)) + 1 }

    /// Added tokens in the order of their ids.
    public var addedTokens: [AddedToken] { addedByID.values.sorted { $0.id < $1.id } }

    public func id(of token: String) -> Int32? {
        addedByContent[ExactString(token)] ?? parts.vocabulary.id(of: token)
    }

    /// A token as the file spells it (`Ġthe`).
    public func token(of id: Int32) -> String? { addedByID[id]?.content ?? parts.vocabulary.text(of: id) }

    /// Whether there is a token with this id.
    public func hasToken(_ id: Int32) -> Bool { parts.vocabulary.texts[id] != nil || addedByID[id] != nil }

    public func isSpecial(_ id: Int32) -> Bool { specialIDs.contains(id) }
}

/// Turns ids into text as they come; never half a character. Texts of all pushes and `finish` together are what
/// `Tokenizer.decode` gives.
public struct StreamingDecoder: Sendable {
    private let tokenizer: Tokenizer
    private let skipSpecialTokens: Bool
    private var pending: [UInt8] = []
    private var isFirst = true
    private var chain: DecoderChain?
    private var sentence: SentencePieceDecoder?

    init(_ tokenizer: Tokenizer, skipSpecialTokens: Bool) {
        (self.tokenizer, self.skipSpecialTokens) = (tokenizer, skipSpecialTokens)
        switch tokenizer.parts.decoder {
        case .chain(let decoders): chain = DecoderChain(decoders)
        case .sentencePiece(let model): sentence = SentencePieceDecoder(model)
        case .byteLevel, .joined: break
        }
    }

    /// The text that the next id completes; may be empty.
    public mutating func push(_ id: Int32) -> String {
        take(id)
        let complete = pending.count - unfinishedBytes(pending)
        defer { pending.removeFirst(complete) }
        return String(decoding: pending[..<complete], as: UTF8.self)
    }

    /// What is left: U+FFFD for a character that was never completed.
    public mutating func finish() -> String {
        chain?.finish(to: &pending)
        sentence?.finish(to: &pending)
        defer { pending = [] }
        return String(decoding: pending, as: UTF8.self)
    }

    mutating func take(_ id: Int32) {
        guard let bytes = tokenizer.bytes(of: id, skipSpecialTokens: skipSpecialTokens) else { return }
        if chain != nil {
            chain!.push(Array(bytes), to: &pending)
        } else if sentence != nil {
            sentence!.push(id, bytes, to: &pending)
        } else {
            if case .joined = tokenizer.parts.decoder, !isFirst { pending.append(0x20) }
            pending += bytes
        }
        isFirst = false
    }
}
