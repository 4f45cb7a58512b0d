// Scripts of letters, for whoever wants to know what a text is written in.

/// Unicode's property Script, as the tables of patterns have it.
public enum Script {
    /// The scripts that are told apart: `Latin`, `Cyrillic`, `Han`, ...
    public static var names: [String] { unicodeScriptNames }

    /// Letters (categories Lu, Ll, Lt and Lo) of a text by script.
    ///
    /// - Returns: element i counts those of `names[i]`; the last, behind all names, those of no script that has a name here.
    public static func letterCounts(_ text: String) -> [Int] {
        var counts = [Int](repeating: 0, count: names.count + 1)
        for scalar in text.unicodeScalars where isLetter(scalar.value) {
            let script = Int(CharacterProperties.scripts[scalar.value])
            counts[script == 0 ? names.count : script - 1] += 1
        }
        return counts
    }

    private static let letters = ["Lu", "Ll", "Lt", "Lo"].reduce(UInt32(0)) { mask, name in
        mask | 1 << UInt32(unicodeCategoryNames.firstIndex(of: name)!)
    }

    private static func isLetter(_ scalar: UInt32) -> Bool {
        letters >> UInt32(CharacterProperties.categories[scalar] & 31) & 1 != 0
    }
}
