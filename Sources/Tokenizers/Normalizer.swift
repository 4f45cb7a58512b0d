// The normalizers of `tokenizer.json`.

/// One normalizer; a sequence is a list of them.
enum Normalizer: Sendable {
    case form(NormalForm)
    case lowercase
    case strip(left: Bool, right: Bool)
    case stripAccents
    case bert(cleansText: Bool, spacesChinese: Bool, stripsAccents: Bool, lowercases: Bool)
    case nmt
    case charsmap(Charsmap)
    case replace(SplitRegex, [UInt8])
    case prepend([UInt8])
    case byteLevel

    func apply(to text: inout AlignedText) {
        switch self {
        case .form(let form): form.apply(to: &text)
        case .lowercase: Self.lowercase(&text)
        case .strip(let left, let right): Self.strip(&text, left, right)
        case .stripAccents: Self.filter(&text, CharacterProperties.isCombiningMark)
        case .bert(let cleansText, let spacesChinese, let stripsAccents, let lowercases):
            Self.bert(&text, cleansText, spacesChinese)
            if stripsAccents {
                NormalForm.d.apply(to: &text)
                Self.filter(&text, CharacterProperties.isNonspacingMark)
            }
            if lowercases { Self.lowercase(&text) }
        case .nmt: Self.nmt(&text)
        case .charsmap(let map): map.apply(to: &text)
        case .replace(let pattern, let content):
            let matches = text.bytes.withUnsafeBufferPointer { bytes in
                var matcher = RegexMatcher(pattern, bytes)
                return bytes.isEmpty ? [] : matcher.matches()
            }
            text.replace(matches, by: content)
        case .prepend(let prefix): text.prepend(prefix)
        case .byteLevel: ByteAlphabet.spell(&text)
        }
    }

    private static func isASCII(_ text: AlignedText) -> Bool { !text.bytes.contains { $0 >= 0x80 } }

    private static func lowercase(_ text: inout AlignedText) {
        if isASCII(text) {
            for i in text.bytes.indices where text.bytes[i] &- 0x41 < 26 { text.bytes[i] |= 0x20 }
            return
        }
        text.map { scalar in
            if scalar < 0x80 { return scalar &- 0x41 < 26 ? [scalar | 0x20] : nil }
            return CharacterProperties.lowerCase[scalar]
        }
    }

    private static func strip(_ text: inout AlignedText, _ left: Bool, _ right: Bool) {
        let range = text.bytes.withUnsafeBufferPointer { bytes in
            var start = 0, end = bytes.count
            while left, start < end, case let (scalar, length) = UTF8Scalars.scalar(bytes, start),
                CharacterProperties.isSpace(scalar)
            {
                start += length
            }
            while right, end > start, case let last = UTF8Scalars.start(bytes, before: end),
                CharacterProperties.isSpace(UTF8Scalars.scalar(bytes, last).0)
            {
                end = last
            }
            return start..<end
        }
        if range.count == text.bytes.count { return }
        text = AlignedText(bytes: Array(text.bytes[range]), origins: text.origins.map { Array($0[range]) })
    }

    /// Leaves marks out.
    private static func filter(_ text: inout AlignedText, _ isMark: (UInt32) -> Bool) {
        if isASCII(text) { return }
        text.filter { $0 < 0x80 || !isMark($0) }
    }

    private static func bert(_ text: inout AlignedText, _ cleans: Bool, _ spacesChinese: Bool) {
        if isASCII(text), !text.bytes.contains(where: { $0 < 0x20 || $0 == 0x7F }) { return }
        if cleans {
            text.rewrite { writer in
                while let (scalar, length) = writer.peek() {
                    if scalar == 0x20 || (scalar > 0x20 && scalar < 0x7F) {
                        writer.keep(length)
                    } else if scalar == 0x09 || scalar == 0x0A || scalar == 0x0D {
                        writer.replaceNext(length, by: [0x20])
                    } else if scalar == 0 || scalar == 0xFFFD || CharacterProperties.isOther(scalar) {
                        writer.skip(length)
                    } else if CharacterProperties.isSpace(scalar) {
                        writer.replaceNext(length, by: [0x20])
                    } else {
                        writer.keep(length)
                    }
                }
            }
        }
        if spacesChinese {
            text.map { $0 >= 0x3400 && CharacterProperties.isChinese($0) ? [0x20, $0, 0x20] : nil }
        }
    }

    /// Rules of Google's translation models (`nmt` in SentencePiece): blanks and invisible characters.
    private static func nmt(_ text: inout AlignedText) {
        text.filter { scalar in
            switch scalar {
            case 0x01...0x08, 0x0B, 0x0E...0x1F, 0x7F, 0x8F, 0x9F: false
            default: true
            }
        }
        text.map { scalar in
            switch scalar {
            case 0x09, 0x0A, 0x0C, 0x0D, 0x1680, 0x200B...0x200F, 0x2028, 0x2029, 0x2581, 0xFEFF, 0xFFFD: [0x20]
            default: nil
            }
        }
    }
}

extension ByteAlphabet {
    /// UTF-8 of each byte's character.
    static let spelling: [[UInt8]] = scalars.map { scalar in
        var bytes: [UInt8] = []
        appendUTF8(scalar, to: &bytes)
        return bytes
    }

    /// Spells a text in the byte alphabet; all bytes of a character count as the whole of it.
    static func spell(_ text: inout AlignedText) {
        var bytes: [UInt8] = [], origins: [Range<Int32>] = []
        bytes.reserveCapacity(text.bytes.count + text.bytes.count / 4)
        for (i, byte) in text.bytes.enumerated() {
            bytes += spelling[Int(byte)]
            if let origin = text.origins?[i] {
                origins += repeatElement(origin, count: spelling[Int(byte)].count)
            }
        }
        text = AlignedText(bytes: bytes, origins: text.origins == nil ? nil : origins)
    }
}
