// Models in several GGUF files, as llama.cpp writes them: NAME-00001-of-00003.gguf and its siblings. The first holds the
// metadata; the others hold tensors, and which part they are.
import Diagnostics

/// Which part of a model a GGUF file is.
struct GGUFSplit {
    /// From 0.
    private let number: Int
    private let count: Int
    /// Tensors of all parts together; nil where the file does not say.
    private let tensorCount: Int?

    static let keys: Set<ExactString> = ["split.no", "split.count", "split.tensors.count"]

    /// nil for a file that is a whole model.
    init?(_ metadata: GGUFMetadata) throws {
        guard let value = metadata["split.count"] else { return nil }
        guard let count = value.int, (0...Int(UInt16.max)).contains(count) else {
            throw UserError("\(printable(metadata.path)): metadata split.count is no number of files")
        }
        if count < 2 { return nil }
        guard let number = metadata["split.no"]?.int, (0..<count).contains(number) else {
            throw UserError("\(printable(metadata.path)): metadata split.no is none of the numbers below \(count)")
        }
        (self.number, self.count, tensorCount) = (number, count, metadata["split.tensors.count"]?.int)
    }

    private static func ending(_ number: Int, _ count: Int) -> String { "-\(partName(number + 1, of: count)).gguf" }

    /// The files of all parts.
    ///
    /// - Parameter path: the first one.
    /// - Throws: `UserError` for another part, and for a name that says nothing of the others'.
    func paths(_ path: String) throws -> [String] {
        let ending = Self.ending(number, count)
        let stem = path.hasSuffix(ending) ? String(path.dropLast(ending.count)) : nil
        if number > 0 {
            let first = stem.map { printable($0 + Self.ending(0, count)) } ?? "NAME\(Self.ending(0, count))"
            throw UserError("\(printable(path)): part \(number + 1) of \(count) of a model; give the first: \(first)")
        }
        guard let stem else {
            throw UserError(
                "\(printable(path)): the first of \(count) parts of a model, which are found by their names; call it "
                    + "NAME\(ending), and the others likewise")
        }
        return (0..<count).map { stem + Self.ending($0, count) }
    }

    /// - Throws: `UserError` unless `metadata` is that of the part with this number.
    func check(_ part: Int, _ metadata: GGUFMetadata) throws {
        let other = try GGUFSplit(metadata)
        guard let other, (other.number, other.count) == (part, count) else {
            throw UserError("\(printable(metadata.path)): is not part \(part + 1) of \(count), as its name says")
        }
    }

    /// - Parameter tensors: of all parts.
    /// - Throws: `UserError` when parts are not of one model.
    func check(_ tensors: [GGUFTensor], _ path: String) throws {
        var names = Set<ExactString>()
        if let twice = tensors.first(where: { !names.insert(ExactString($0.name)).inserted }) {
            throw UserError("\(printable(path)): tensor \"\(printable(twice.name))\" is in two of its \(count) parts")
        }
        if let tensorCount, tensorCount != tensors.count {
            throw UserError(
                "\(printable(path)): its \(count) parts hold \(counted(tensors.count, "tensor")), not \(tensorCount) as it "
                    + "says; a part is of another model")
        }
    }
}
