// Reading GGUF (versions 2 and 3, little-endian): metadata, and tensors in place in the mapped file.
import Diagnostics

/// A tensor of a GGUF file.
public struct GGUFTensor: Sendable {
    public let name: String
    public let type: GGMLType
    /// Row-major: the reverse of the order in the file, which lists the fastest dimension first.
    public let shape: [Int]
    /// Where its blocks are in the file.
    public let byteRange: Range<Int>

    public var elementCount: Int { shape.reduce(1, *) }
}

/// A mapped GGUF file whose metadata and tensor list have been validated.
public final class GGUFFile: Sendable {
    public let metadata: GGUFMetadata
    /// In the order of the file.
    public let tensors: [GGUFTensor]
    public let version: Int
    public let file: MappedFile
    private let index: [ExactString: Int]
    private let entryRanges: [Range<Int>]

    public var path: String { file.path }

    /// - Throws: `UserError` naming the path and the fault. Every count and length is checked against what is left of
    ///   the file before anything is allocated for it.
    public init(path: String) throws {
        file = try MappedFile(path: path)
        // Some GGUF files are called `.bin`: only what is not GGUF is looked at for a pickle.
        if !file.bytes.prefix(4).elementsEqual("GGUF".utf8) { try refusePickle(path: path, beginning: file.bytes) }
        var reader = GGUFReader(bytes: try file.checkedBytes(0..<file.count), path: path)
        try reader.readAll()
        (metadata, tensors, version) = (reader.metadata, reader.tensors, reader.version)
        entryRanges = reader.entryRanges
        index = Dictionary(uniqueKeysWithValues: zip(tensors.lazy.map { ExactString($0.name) }, 0...))
    }

    public subscript(name: String) -> GGUFTensor? { index[ExactString(name)].map { tensors[$0] } }

    /// The metadata as it stands in the file, to be written to another.
    public func entries() throws -> [GGUFEntry] {
        try zip(metadata.keys, entryRanges).map { GGUFEntry(key: $0, bytes: Array(try file.checkedBytes($1))) }
    }

    /// The stored blocks of a tensor; valid while this object lives.
    ///
    /// - Throws: `UserError` when the file has been truncated since it was opened.
    public func bytes(of tensor: GGUFTensor) throws -> UnsafeRawBufferPointer {
        try file.checkedBytes(tensor.byteRange)
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
