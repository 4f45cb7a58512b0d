// Text compared by its code points. Swift's `String` compares by canonical equivalence ("é" == "e" + U+0301), which
// merges distinct vocabulary entries, keys and file names.

/// A string that equals another only if both have the same bytes; use it as dictionary key for text from files.
public struct ExactString: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    public let string: String

    public init(_ string: String) { self.string = string }
    public init(stringLiteral value: String) { string = value }
    public var description: String { string }

    public static func == (a: ExactString, b: ExactString) -> Bool { a.string.utf8.elementsEqual(b.string.utf8) }
    public func hash(into hasher: inout Hasher) {
        var copy = string
        copy.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}
