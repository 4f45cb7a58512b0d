// Sets of characters in patterns: `[^\s\p{L}]`, `\d`, `.`.

/// A set of code points. Categories, scripts and word characters are those of the `tokenizers` package's Unicode.
indirect enum RegexSet: Sendable {
    case ranges([ClosedRange<UInt32>])
    /// Bit i for category i of `unicodeCategoryNames`.
    case categories(UInt32)
    /// Number in `unicodeScriptNames`, from 1.
    case script(UInt8)
    case word
    case not(RegexSet)
    case union([RegexSet])
    case intersection(RegexSet, RegexSet)
    /// Also every character that differs from a member in case only.
    case anyCase(RegexSet)

    static let space = RegexSet.ranges([
        0x09...0x0D, 0x20...0x20, 0x85...0x85, 0xA0...0xA0, 0x1680...0x1680, 0x2000...0x200A, 0x2028...0x2029,
        0x202F...0x202F, 0x205F...0x205F, 0x3000...0x3000,
    ])
    static let lineFeed = RegexSet.ranges([0x0A...0x0A])
    static let any = RegexSet.not(.ranges([]))

    func contains(_ scalar: UInt32) -> Bool {
        switch self {
        case .ranges(let ranges): ranges.contains { $0.contains(scalar) }
        case .categories(let mask): mask >> UInt32(CharacterProperties.categories[scalar] & 31) & 1 != 0
        case .script(let number): CharacterProperties.scripts[scalar] == number
        case .word: CharacterProperties.words[scalar] & 2 != 0
        case .not(let set): !set.contains(scalar)
        case .union(let sets): sets.contains { $0.contains(scalar) }
        case .intersection(let a, let b): a.contains(scalar) && b.contains(scalar)
        case .anyCase(let set): caseVariants(of: scalar).contains { set.contains($0) }
        }
    }

    /// The set of `\p{name}`; nil for a name that is not known.
    static func property(_ name: String) -> RegexSet? {
        let plain = String(name.lowercased().filter { $0 != "_" && $0 != " " && $0 != "-" })
        if plain == "any" { return .any }
        if plain == "space" || plain == "whitespace" { return .space }
        if plain == "word" { return .word }
        let long = longNames[plain] ?? plain
        let members = unicodeCategoryNames.indices.filter { index in
            let category = unicodeCategoryNames[index].lowercased()
            return category == long || (long.utf8.count == 1 && category.hasPrefix(long))
        }
        if !members.isEmpty { return .categories(members.reduce(0) { $0 | 1 << UInt32($1) }) }
        let scriptName = plain.hasPrefix("script=") ? String(plain.dropFirst(7)) : plain
        return unicodeScriptNames.firstIndex { $0.lowercased() == scriptName }.map { .script(UInt8($0 + 1)) }
    }

    private static let longNames = [
        "letter": "l", "mark": "m", "number": "n", "punctuation": "p", "symbol": "s", "separator": "z", "other": "c",
        "uppercaseletter": "lu", "lowercaseletter": "ll", "titlecaseletter": "lt", "modifierletter": "lm",
        "otherletter": "lo", "nonspacingmark": "mn", "spacingmark": "mc", "enclosingmark": "me", "decimalnumber": "nd",
        "letternumber": "nl", "othernumber": "no", "connectorpunctuation": "pc", "dashpunctuation": "pd",
        "openpunctuation": "ps", "closepunctuation": "pe", "initialpunctuation": "pi", "finalpunctuation": "pf",
        "otherpunctuation": "po", "mathsymbol": "sm", "currencysymbol": "sc", "modifiersymbol": "sk",
        "othersymbol": "so", "spaceseparator": "zs", "lineseparator": "zl", "paragraphseparator": "zp",
        "control": "cc", "format": "cf", "privateuse": "co", "unassigned": "cn",
    ]
}

/// A character and those that differ from it in case only (simple foldings).
func caseVariants(of scalar: UInt32) -> [UInt32] {
    func single(_ text: String) -> UInt32? {
        let scalars = text.unicodeScalars
        return scalars.count == 1 ? scalars.first!.value : nil
    }
    var found = [scalar]
    // The closure under case mappings takes two rounds: ſ to S to s.
    var at = 0
    while at < found.count, found.count < 8 {
        let properties = Unicode.Scalar(found[at])?.properties
        let mapped = [properties?.lowercaseMapping, properties?.uppercaseMapping, properties?.titlecaseMapping]
        for value in mapped.compactMap({ $0.flatMap(single) }) where !found.contains(value) { found.append(value) }
        for pair in unmappedCases {
            for (a, b) in [pair, (pair.1, pair.0)] where a == found[at] && !found.contains(b) { found.append(b) }
        }
        at += 1
    }
    return found
}

/// Characters whose lower case no character maps back to.
private let unmappedCases: [(UInt32, UInt32)] = [
    (0x73, 0x17F), (0x6B, 0x212A), (0xE5, 0x212B), (0x3C9, 0x2126), (0x3B8, 0x3D1), (0x3B8, 0x3F4), (0x3B2, 0x3D0),
    (0x3B5, 0x3F5), (0x3BA, 0x3F0), (0x3C0, 0x3D6), (0x3C1, 0x3F1), (0x3C3, 0x3C2), (0x3C6, 0x3D5), (0x3BC, 0xB5),
    (0x3B9, 0x1FBE), (0x3B9, 0x345), (0x1E61, 0x1E9B), (0xDF, 0x1E9E),
]

/// A set made ready for matching: ASCII by a bit map.
struct CompiledSet: Sendable {
    private let low: UInt64, high: UInt64
    private let set: RegexSet
    /// Category bits when the set is nothing else, so that no tree is walked.
    private let categories: UInt32?

    init(_ set: RegexSet) {
        var bits: [UInt64] = [0, 0]
        for scalar in UInt32(0)..<128 where set.contains(scalar) { bits[Int(scalar >> 6)] |= 1 << UInt64(scalar & 63) }
        (low, high, self.set) = (bits[0], bits[1], set)
        categories = Self.categories(set)
    }

    /// The set beyond ASCII as categories, where it is one.
    private static func categories(_ set: RegexSet) -> UInt32? {
        switch set {
        case .categories(let mask): return mask
        case .union(let sets):
            var all: UInt32 = 0
            for set in sets {
                if case .ranges(let ranges) = set, ranges.allSatisfy({ $0.upperBound < 0x80 }) { continue }
                guard let mask = categories(set) else { return nil }
                all |= mask
            }
            return all
        case .not(let set): return categories(set).map { ~$0 }
        default: return nil
        }
    }

    @inline(__always) func contains(_ scalar: UInt32) -> Bool {
        if scalar < 64 { return low >> UInt64(scalar) & 1 != 0 }
        if scalar < 128 { return high >> UInt64(scalar - 64) & 1 != 0 }
        if let categories { return categories >> UInt32(CharacterProperties.categories[scalar] & 31) & 1 != 0 }
        return set.contains(scalar)
    }

    /// Whether a character that begins with this byte may be a member.
    func mayStart(_ byte: UInt8) -> Bool { byte >= 0x80 || contains(UInt32(byte)) }
}
