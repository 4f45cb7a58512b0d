// Text compared by its code points. Swift's `String` compares by canonical equivalence ("é" == "e" + U+0301), which
// merges distinct vocabulary entries, keys and file names.
import Glibc

/// A string that equals another only if both have the same bytes; use it as dictionary key for text from files.
public struct ExactString: Hashable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
    public let string: String

    public init(_ string: String) { self.string = string }
    public init(stringLiteral value: String) { string = value }
    public var description: String { string }

    public static func == (a: ExactString, b: ExactString) -> Bool { sameBytes(a.string, b.string) }
    public func hash(into hasher: inout Hasher) {
        var copy = string
        copy.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    }
}

/// Whether two texts have the same bytes.
func sameBytes(_ a: String, _ b: String) -> Bool {
    guard a.utf8.count == b.utf8.count else { return false }
    var (a, b) = (a, b)
    return a.withUTF8 { a in b.withUTF8 { b in a.isEmpty || memcmp(a.baseAddress!, b.baseAddress!, a.count) == 0 } }
}
