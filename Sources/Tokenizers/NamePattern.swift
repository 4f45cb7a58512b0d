// A pattern out of somebody's file against names.

/// A regular expression that is held against whole names, in time that grows with pattern and name only.
package struct NamePattern: Sendable {
    private let regex: SplitRegex

    /// - Throws: `UserError` saying what in the pattern is not supported.
    package init(_ pattern: String) throws { regex = try SplitRegex("^(?:\(pattern))$", .rust) }

    package func matches(_ name: String) -> Bool {
        Array(name.utf8).withUnsafeBufferPointer { text in
            var matcher = RegexMatcher(regex, text)
            return matcher.firstMatch(from: 0) != nil
        }
    }
}
