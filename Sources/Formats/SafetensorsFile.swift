// Reading safetensors: one file, or a folder of shards with an index.
import Diagnostics

/// A mapped safetensors file whose header has been validated.
public final class SafetensorsFile: Sendable {
    /// In the order of their bytes in the file.
    public let tensors: [TensorInfo]
    /// `__metadata__` in the order of the file.
    public let metadata: [(String, String)]
    public let file: MappedFile
    private let index: [ExactString: Int]

    public var path: String { file.path }

    /// - Throws: `UserError` naming the path and the fault: unreadable, a pickle, or not valid (limits: header 25 MB,
    ///   100,000 tensors; no hole, no overlap, no byte too many or too few, no key twice).
    public init(path: String) throws {
        file = try MappedFile(path: path)
        try refusePickle(path: path, beginning: file.bytes)
        let header = try SafetensorsHeader(try file.checkedBytes(0..<file.count), path: path)
        (tensors, metadata) = (header.tensors, header.metadata)
        index = Dictionary(uniqueKeysWithValues: zip(tensors.lazy.map { ExactString($0.name) }, 0...))
    }

    public subscript(name: String) -> TensorInfo? { index[ExactString(name)].map { tensors[$0] } }

    /// The value of a `__metadata__` key.
    public func metadata(_ key: String) -> String? {
        metadata.first { ExactString($0.0) == ExactString(key) }?.1
    }

    /// The bytes of a tensor, little-endian, valid while this object lives; possibly unaligned.
    ///
    /// - Throws: `UserError` for a name that is not in the file, or a file that has been truncated since.
    public func bytes(of name: String) throws -> UnsafeRawBufferPointer {
        try file.checkedBytes(try existing(name).byteRange)
    }

    /// Copies the bytes of a tensor; unlike reading through `bytes(of:)` it survives a truncation at any moment.
    ///
    /// - Precondition: `destination` is as long as the tensor.
    public func read(_ name: String, into destination: UnsafeMutableRawBufferPointer) throws {
        try file.read(try existing(name).byteRange, into: destination)
    }

    private func existing(_ name: String) throws -> TensorInfo {
        guard let info = self[name] else { throw missingTensor(name, in: path, names: tensors.map(\.name)) }
        return info
    }
}

/// "No such tensor", with the nearest name that exists.
func missingTensor(_ name: String, in path: String, names: [String]) -> UserError {
    // A whole-vocabulary edit distance over a hundred thousand names would take longer than the person waits.
    let nearest = names.count <= 5_000 ? nearestName(to: name, among: names) : nil
    let hint = nearest.map { "; did you mean \"\(printable($0))\"?" } ?? ""
    return UserError("\(printable(path)): no tensor \"\(printable(name))\"\(hint)")
}
