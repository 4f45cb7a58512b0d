// The weights of a model folder: one safetensors file, or shards and the index that says which tensor is where.
import Diagnostics

/// The safetensors weights of a Hugging Face folder.
public final class SafetensorsFolder: Sendable {
    public let folder: String
    /// Names of all tensors: in the order of the index, else of the file.
    public let names: [String]
    /// The shards, in the order of their names.
    public let files: [SafetensorsFile]
    private let owner: [ExactString: Int]

    public static let singleName = "model.safetensors"
    public static let indexName = "model.safetensors.index.json"

    /// Opens `model.safetensors`, else the shards that `model.safetensors.index.json` names.
    ///
    /// - Parameter baseName: `model` for models, `adapter_model` for PEFT adapters.
    /// - Throws: `UserError` for a folder without weights (weights in pickle form are named), a missing shard, a tensor
    ///   of the index that its shard lacks, a tensor of a shard that the index does not place there.
    public init(folder: String, baseName: String = "model") throws {
        self.folder = folder
        let single = joinPath(folder, "\(baseName).safetensors")
        let index = joinPath(folder, "\(baseName).safetensors.index.json")
        if fileExists(single) {
            files = [try SafetensorsFile(path: single)]
            names = files[0].tensors.map(\.name)
            owner = Dictionary(uniqueKeysWithValues: names.lazy.map { (ExactString($0), 0) })
        } else if fileExists(index) {
            let map = try Self.weightMap(index)
            let shards = try Self.openShards(of: map, folder, index)
            let position = Dictionary(uniqueKeysWithValues: zip(shards.map(\.0), 0...))
            files = shards.map(\.1)
            names = map.map(\.tensor)
            owner = Dictionary(uniqueKeysWithValues: map.map { (ExactString($0.tensor), position[$0.shard]!) })
            try Self.check(owner, files, index)
        } else {
            throw try Self.noWeights(in: folder, baseName)
        }
    }

    public func info(_ name: String) -> TensorInfo? { owner[ExactString(name)].flatMap { files[$0][name] } }

    /// The bytes of a tensor; see `SafetensorsFile.bytes(of:)`.
    public func bytes(of name: String) throws -> UnsafeRawBufferPointer {
        try file(of: name).bytes(of: name)
    }

    /// Copies the bytes of a tensor; see `SafetensorsFile.read(_:into:)`.
    public func read(_ name: String, into destination: UnsafeMutableRawBufferPointer) throws {
        try file(of: name).read(name, into: destination)
    }

    /// The shard that holds a tensor.
    public func file(of name: String) throws -> SafetensorsFile {
        guard let shard = owner[ExactString(name)] else { throw missingTensor(name, in: folder, names: names) }
        return files[shard]
    }

    private static func weightMap(_ path: String) throws -> [(tensor: String, shard: ExactString)] {
        func invalid(_ reason: String) -> UserError { UserError("\(printable(path)): \(reason)") }
        let json = try readJSONFile(path, maxBytes: SafetensorsHeader.maxHeaderBytes)
        guard let map = json["weight_map"]?.object else { throw invalid("no \"weight_map\" object") }
        guard !map.isEmpty else { throw invalid("\"weight_map\" is empty") }
        return try map.map { tensor, value in
            guard let shard = value.string else {
                throw invalid("\"\(printable(tensor))\" is mapped to \(value.kind), not to a file name")
            }
            guard isPlainFileName(shard), shard.hasSuffix(".safetensors") else {
                throw invalid("\"\(printable(shard))\" is not the plain name of a .safetensors file beside the index")
            }
            return (tensor, ExactString(shard))
        }
    }

    /// The files that an index names, in the order of their bytes.
    package static func shardNames(index path: String) throws -> [String] {
        shards(of: try weightMap(path)).map(\.string)
    }

    private static func shards(of map: [(tensor: String, shard: ExactString)]) -> [ExactString] {
        Set(map.map(\.shard)).sorted { $0.string.utf8.lexicographicallyPrecedes($1.string.utf8) }
    }

    private static func openShards(
        of map: [(tensor: String, shard: ExactString)], _ folder: String, _ index: String
    ) throws -> [(ExactString, SafetensorsFile)] {
        try shards(of: map).map { shard in
            let path = joinPath(folder, shard.string)
            guard fileExists(path) else {
                let reason = "shard named in \(printable(index)) is missing; copy or download it"
                throw UserError("\(printable(path)): \(reason)")
            }
            return (shard, try SafetensorsFile(path: path))
        }
    }

    private static func check(_ owner: [ExactString: Int], _ files: [SafetensorsFile], _ index: String) throws {
        for (position, file) in files.enumerated() {
            for tensor in file.tensors where owner[ExactString(tensor.name)] != position {
                let reason = "tensor \"\(printable(tensor.name))\" is not placed here by \(printable(index))"
                throw UserError("\(printable(file.path)): \(reason)")
            }
        }
        // Names in the index that their shard lacks; the first in the order of names, so that the message is stable.
        let lacking = owner.filter { files[$0.value][$0.key.string] == nil }
        let first = lacking.min { $0.key.string.utf8.lexicographicallyPrecedes($1.key.string.utf8) }
        if let (name, position) = first {
            let reason = "tensor \"\(printable(name.string))\", placed here by \(printable(index)), is missing"
            throw UserError("\(printable(files[position].path)): \(reason)")
        }
    }

    private static func noWeights(in folder: String, _ baseName: String) throws -> UserError {
        let entries = try listFolder(folder)
        // Weights by their usual names; a folder also holds other pickles (`training_args.bin`, `optimizer.pt`).
        let weights = entries.filter { name in
            ["pytorch_model", "consolidated", baseName].contains { name.hasPrefix($0) }
        }
        if let pickle = weights.first(where: hasPickleExtension) { return pickleRefusal(joinPath(folder, pickle)) }
        if let gguf = entries.first(where: { $0.hasSuffix(".gguf") }) {
            let path = printable(joinPath(folder, gguf))
            return UserError("\(printable(folder)): no \(baseName).safetensors; to use the GGUF file, name \(path)")
        }
        return UserError("\(printable(folder)): no \(baseName).safetensors and no \(baseName).safetensors.index.json")
    }
}

/// True for a name that stays in its folder: no separator, not `.` or `..`, no control character.
package func isPlainFileName(_ name: String) -> Bool {
    !name.isEmpty && name != "." && name != ".." && name.utf8.count <= 255
        && !name.unicodeScalars.contains { $0 == "/" || $0 == "\\" || $0.value < 0x20 || $0.value == 0x7F }
}
