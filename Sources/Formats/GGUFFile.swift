// Reading GGUF (versions 2 and 3, little-endian): metadata, and tensors in place in the mapped file.
import Diagnostics

/// A tensor of a GGUF file.
public struct GGUFTensor: Sendable {
    public let name: String
    public let type: GGMLType
    /// Row-major: the reverse of the order in the file, which lists the fastest dimension first.
    public let shape: [Int]
    /// Which of the model's files it is in, from 0; most models are one file.
    let part: Int
    /// Where its blocks are in that file.
    public let byteRange: Range<Int>

    public var elementCount: Int { shape.reduce(1, *) }
}

/// A mapped GGUF file, with the other files of a model in parts, whose metadata and tensor list have been validated.
public final class GGUFFile: Sendable {
    public let metadata: GGUFMetadata
    /// In the order of the file; of a model in parts, those of all parts.
    public let tensors: [GGUFTensor]
    public let version: Int
    /// The file itself, and the other parts behind it.
    public let files: [MappedFile]
    private let index: [ExactString: Int]
    private let entryRanges: [Range<Int>]

    public var path: String { files[0].path }

    /// - Throws: `UserError` naming the path and the fault, a part that is missing included. Every count and length is
    ///   checked against what is left of the file before anything is allocated for it.
    public init(path: String) throws {
        let (file, contents) = try Self.open(path, part: 0)
        var files = [file], tensors = contents.tensors
        if let split = try GGUFSplit(contents.metadata) {
            for (part, sibling) in try split.paths(path).enumerated().dropFirst() {
                guard fileExists(sibling) else {
                    throw UserError("\(printable(sibling)): missing, a part of \(printable(path)); copy or download it")
                }
                let (file, contents) = try Self.open(sibling, part: part)
                try split.check(part, contents.metadata)
                files.append(file)
                tensors += contents.tensors
            }
            try split.check(tensors, path)
        }
        (metadata, version, entryRanges) = (contents.metadata, contents.version, contents.entryRanges)
        index = Dictionary(uniqueKeysWithValues: zip(tensors.lazy.map { ExactString($0.name) }, 0...))
        (self.files, self.tensors) = (files, tensors)
    }

    private static func open(_ path: String, part: Int) throws -> (MappedFile, GGUFReader) {
        let file = try MappedFile(path: path)
        // Some GGUF files are called `.bin`: only what is not GGUF is looked at for a pickle.
        if !file.bytes.prefix(4).elementsEqual("GGUF".utf8) { try refusePickle(path: path, beginning: file.bytes) }
        var reader = GGUFReader(bytes: try file.checkedBytes(0..<file.count), path: path, part: part)
        try reader.readAll()
        return (file, reader)
    }

    public subscript(name: String) -> GGUFTensor? { index[ExactString(name)].map { tensors[$0] } }

    /// The metadata as it stands in the file, to be written to another, which has all tensors: what is said of parts is
    /// left out.
    public func entries() throws -> [GGUFEntry] {
        try zip(metadata.keys, entryRanges).filter { !GGUFSplit.keys.contains(ExactString($0.0)) }
            .map { GGUFEntry(key: $0, bytes: Array(try files[0].checkedBytes($1))) }
    }

    /// The stored blocks of a tensor; valid while this object lives.
    ///
    /// - Throws: `UserError` when the file has been truncated since it was opened.
    public func bytes(of tensor: GGUFTensor) throws -> UnsafeRawBufferPointer {
        try files[tensor.part].checkedBytes(tensor.byteRange)
    }

    /// Copies the blocks of a tensor; see `MappedFile.read(_:into:)`.
    public func read(_ tensor: GGUFTensor, into destination: UnsafeMutableRawBufferPointer) throws {
        try files[tensor.part].read(tensor.byteRange, into: destination)
    }

    /// Writes all elements of `tensor` as 32-bit floats, row-major, bit-equal to the `gguf` package.
    ///
    /// - Parameter destination: room for `tensor.elementCount` floats.
    /// - Throws: `UserError` when the file has been truncated since it was opened.
    public func dequantize(_ tensor: GGUFTensor, into destination: UnsafeMutablePointer<Float>) throws {
        let source = try bytes(of: tensor)
        if let start = source.baseAddress {
            dequantizeBlocks(tensor.type, start, count: tensor.elementCount / tensor.type.block.elements, destination)
        }
    }
}
