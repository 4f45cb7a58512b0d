// A text under normalization, and where each of its bytes comes from.

/// UTF-8 bytes and, where they are wanted, the bytes of the original text that each byte's character stands for.
///
/// The rules of alignment are those of the `tokenizers` package: a character takes the place of the next one, is one
/// more beside the one before, or takes a place and swallows others.
struct AlignedText {
    var bytes: [UInt8]
    /// By byte; nil when nobody asks where tokens come from.
    var origins: [Range<Int32>]?

    /// - Parameter base: offset of the stretch in the whole text.
    init(_ text: UnsafeBufferPointer<UInt8>, base: Int, tracksOrigins: Bool) {
        bytes = Array(text)
        guard tracksOrigins else { return }
        origins = [Range<Int32>](unsafeUninitializedCapacity: text.count) { origins, count in
            var at = 0
            while at < text.count {
                let length = utf8Length(text[at])
                let origin = Range(uncheckedBounds: (Int32(base + at), Int32(base + at + length)))
                for i in at..<at + length { origins.initializeElement(at: i, to: origin) }
                at += length
            }
            count = text.count
        }
    }

    init(bytes: [UInt8], origins: [Range<Int32>]?) { (self.bytes, self.origins) = (bytes, origins) }

    var isEmpty: Bool { bytes.isEmpty }

    /// Writes the text anew through `body`, which reads the old one and emits characters.
    mutating func rewrite(_ body: (inout Rewriter) -> Void) {
        let result = bytes.withUnsafeBufferPointer { old in
            var rewriter = Rewriter(old, origins)
            body(&rewriter)
            return rewriter.result
        }
        self = result
    }

    /// Maps each character to others; nil keeps it.
    mutating func map(_ change: (UInt32) -> [UInt32]?) {
        rewrite { writer in
            while let (scalar, length) = writer.peek() {
                if let new = change(scalar) {
                    writer.replaceNext(length, by: new)
                } else {
                    writer.keep(length)
                }
            }
        }
    }

    /// Leaves characters out.
    mutating func filter(_ isKept: (UInt32) -> Bool) {
        rewrite { writer in
            while let (scalar, length) = writer.peek() {
                if isKept(scalar) { writer.keep(length) } else { writer.skip(length) }
            }
        }
    }

    /// Puts text before the first character and counts it as part of that; an empty text stays empty.
    mutating func prepend(_ prefix: [UInt8]) {
        guard !bytes.isEmpty else { return }
        bytes.insert(contentsOf: prefix, at: 0)
        if let first = origins?.first { origins!.insert(contentsOf: repeatElement(first, count: prefix.count), at: 0) }
    }

    mutating func append(_ suffix: [UInt8]) {
        guard !bytes.isEmpty else { return }
        bytes += suffix
        if let last = origins?.last { origins! += repeatElement(last, count: suffix.count) }
    }

    /// Replaces matches (in order, not overlapping); what stands in their place counts as their last character.
    mutating func replace(_ matches: [Range<Int>], by content: [UInt8]) {
        if matches.isEmpty { return }
        rewrite { writer in
            for match in matches {
                writer.keep(match.lowerBound - writer.at)
                let origin = match.upperBound > 0 ? writer.origin(at: match.upperBound - 1) : 0..<0
                writer.skip(match.count)
                writer.put(content, origin)
            }
            writer.keepRest()
        }
    }

    /// The old text being read and the new one being written.
    struct Rewriter {
        let old: UnsafeBufferPointer<UInt8>
        private let oldOrigins: [Range<Int32>]?
        private(set) var at = 0
        fileprivate var result: AlignedText
        private let tracks: Bool

        fileprivate init(_ old: UnsafeBufferPointer<UInt8>, _ origins: [Range<Int32>]?) {
            (self.old, oldOrigins, tracks) = (old, origins, origins != nil)
            result = AlignedText(bytes: [], origins: origins == nil ? nil : [])
            result.bytes.reserveCapacity(old.count + 16)
            result.origins?.reserveCapacity(old.count + 16)
        }

        /// The next character of the old text.
        @inline(__always) func peek() -> (scalar: UInt32, length: Int)? {
            if at >= old.count { return nil }
            let first = old[at]
            if first < 0x80 { return (UInt32(first), 1) }
            let (value, length) = UTF8Scalars.scalar(old, at)
            return (value, length)
        }

        @inline(__always) func origin(at index: Int) -> Range<Int32> { oldOrigins.map { $0[index] } ?? 0..<0 }

        @inline(__always) mutating func keep(_ length: Int) {
            if length == 0 { return }
            result.bytes.append(contentsOf: UnsafeBufferPointer(rebasing: old[at..<at + length]))
            if tracks { result.origins!.append(contentsOf: oldOrigins![at..<at + length]) }
            at += length
        }

        mutating func keepRest() { keep(old.count - at) }

        @inline(__always) mutating func skip(_ length: Int) { at += length }

        @inline(__always) mutating func put(_ bytes: [UInt8], _ origin: Range<Int32>) {
            result.bytes += bytes
            if tracks { result.origins! += repeatElement(origin, count: bytes.count) }
        }

        @inline(__always) mutating func put(_ scalar: UInt32, _ origin: Range<Int32>) {
            let before = result.bytes.count
            appendUTF8(scalar, to: &result.bytes)
            if tracks { result.origins! += repeatElement(origin, count: result.bytes.count - before) }
        }

        /// Puts characters in the place of the next one.
        mutating func replaceNext(_ length: Int, by scalars: [UInt32]) {
            if tracks {
                let origin = oldOrigins![at], last = oldOrigins![at + length - 1]
                for (i, scalar) in scalars.enumerated() { put(scalar, i == 0 ? origin : last) }
            } else {
                for scalar in scalars { appendUTF8(scalar, to: &result.bytes) }
            }
            at += length
        }

        /// One character with its change: 0 takes the place of the next one, 1 is one more, -n swallows n besides.
        mutating func put(_ scalar: UInt32, change: Int) {
            if change > 0 { return put(scalar, at > 0 ? origin(at: at - 1) : 0..<0) }
            put(scalar, at < old.count ? origin(at: at) : 0..<0)
            for _ in 0...(-change) where at < old.count { at += utf8Length(old[at]) }
        }
    }
}

/// Length of the character that a lead byte begins.
@inline(__always) func utf8Length(_ lead: UInt8) -> Int { lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4 }

@inline(__always) func appendUTF8(_ scalar: UInt32, to bytes: inout [UInt8]) {
    if scalar < 0x80 {
        bytes.append(UInt8(scalar))
    } else if scalar < 0x800 {
        bytes.append(UInt8(0xC0 | scalar >> 6))
        bytes.append(UInt8(0x80 | scalar & 0x3F))
    } else if scalar < 0x10000 {
        bytes.append(UInt8(0xE0 | scalar >> 12))
        bytes.append(UInt8(0x80 | scalar >> 6 & 0x3F))
        bytes.append(UInt8(0x80 | scalar & 0x3F))
    } else {
        bytes.append(UInt8(0xF0 | scalar >> 18))
        bytes.append(UInt8(0x80 | scalar >> 12 & 0x3F))
        bytes.append(UInt8(0x80 | scalar >> 6 & 0x3F))
        bytes.append(UInt8(0x80 | scalar & 0x3F))
    }
}

/// Characters of valid UTF-8.
enum UTF8Scalars {
    @inline(__always) static func scalar(_ text: UnsafeBufferPointer<UInt8>, _ at: Int) -> (UInt32, Int) {
        let first = UInt32(text[at])
        if first < 0x80 { return (first, 1) }
        let second = UInt32(text[at + 1] & 0x3F)
        if first < 0xE0 { return ((first & 0x1F) << 6 | second, 2) }
        let third = UInt32(text[at + 2] & 0x3F)
        if first < 0xF0 { return ((first & 0x0F) << 12 | second << 6 | third, 3) }
        return ((first & 0x07) << 18 | second << 12 | third << 6 | UInt32(text[at + 3] & 0x3F), 4)
    }

    /// Start of the character that ends before `at` (which is > 0).
    @inline(__always) static func start(_ text: UnsafeBufferPointer<UInt8>, before at: Int) -> Int {
        var at = at - 1
        while text[at] & 0xC0 == 0x80 { at -= 1 }
        return at
    }
}
