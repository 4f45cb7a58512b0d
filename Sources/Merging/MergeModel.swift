// Models opened for merging: their tensors by name, their configuration, where their tokenizer is.
internal import Diagnostics
public import Formats
internal import ModelFiles

/// A model whose tensors can be read block by block. Opening reads the headers only.
public final class MergeModel: Sendable {
    /// As the configuration names it.
    public let reference: MergeModelReference
    /// The Hugging Face folder; nil for a bare safetensors file.
    public let folder: String?
    /// PEFT adapter that is added to the weights.
    public let adapterFolder: String?
    /// Where tokenizer.json is; nil for a bare safetensors file.
    public let tokenizerFolder: String?
    /// config.json; nil for a bare safetensors file.
    public let config: JSONValue?
    /// Names of all tensors in the order of the files.
    public let tensorNames: [String]
    /// The files that hold the weights.
    public let files: [SafetensorsFile]
    private let owner: [ExactString: SafetensorsFile]
    private let adapted: AdaptedTensors?

    /// - Parameters:
    ///   - substitute: a path that takes the place of the reference's path and revision.
    ///   - report: told about slow work (a GGUF file is converted once) before it starts.
    /// - Throws: `UserError` saying what is missing or cannot be read; pickle files are refused.
    public init(
        _ reference: MergeModelReference, substitute: String? = nil, report: (String) -> Void = { _ in }
    ) throws {
        self.reference = reference
        let path = try substitute ?? Self.resolve(reference.path, reference.revision)
        if path.hasSuffix(".safetensors"), fileExists(path) {
            guard reference.adapter == nil else {
                throw UserError("\(reference): an adapter needs a model folder, not a safetensors file")
            }
            (folder, adapterFolder, tokenizerFolder, config) = (nil, nil, nil, nil)
            files = [try SafetensorsFile(path: path)]
            adapted = nil
        } else {
            let found: ModelReference
            if let adapter = reference.adapter {
                found = try ModelReference(
                    try Self.resolve(adapter, reference.adapterRevision), base: path, report: report)
            } else {
                found = try ModelReference(path, report: report)
            }
            (folder, adapterFolder, tokenizerFolder) = (found.baseFolder, found.adapterFolder, found.tokenizerFolder)
            let base = try SafetensorsFolder(folder: found.baseFolder)
            files = base.files
            adapted = try found.adapterFolder.map { try AdaptedTensors(base: base, adapterFolder: $0) }
            let json = try readJSONFile(joinPath(found.baseFolder, "config.json"))
            config = adapted?.partsTables == true ? untied(json) : json
        }
        var owner: [ExactString: SafetensorsFile] = [:]
        for file in files { for tensor in file.tensors { owner[ExactString(tensor.name)] = file } }
        self.owner = owner
        tensorNames = files.flatMap { $0.tensors.map(\.name) } + (adapted?.ownHead.map { [$0] } ?? [])
    }

    /// Type and shape of a tensor as the model uses it; nil for a name that it does not have.
    public func form(_ name: String) throws -> (elementType: ElementType, shape: [Int])? {
        guard has(name) else { return nil }
        if let info = owner[ExactString(name)]?[name], !info.elementType.isFloatingPoint || adapted == nil {
            return (info.elementType, info.shape)
        }
        let reader = try tensor(name)
        return (reader.elementType, reader.shape)
    }

    func has(_ name: String) -> Bool { owner[ExactString(name)] != nil || adapted?.ownHead == name }

    /// A floating-point tensor as the model uses it, adapter included.
    ///
    /// - Throws: `UserError` for a name that the model does not have, or a tensor of whole numbers.
    public func tensor(_ name: String) throws -> any TensorReader {
        if let adapted, has(name) { return try adapted.reader(name) }
        guard let file = owner[ExactString(name)] else { throw UserError("\(reference): no tensor \(name)") }
        return try StoredTensor(file, name)
    }

    /// Copies bytes of a tensor as they are stored, whatever its type.
    ///
    /// - Parameter range: bytes, counted from the tensor's first.
    func readBytes(_ range: Range<Int>, of name: String, into destination: UnsafeMutableRawBufferPointer) throws {
        guard let file = owner[ExactString(name)], let info = file[name] else {
            throw UserError("\(reference): no tensor \(name)")
        }
        let start = info.byteRange.lowerBound
        try file.file.read(start + range.lowerBound..<start + range.upperBound, into: destination)
    }

    /// `architectures[0]`, or what the configuration says in its place.
    var architecture: String? {
        reference.architecture ?? config?["architectures"]?.array?.first?.string ?? config?["model_type"]?.string
    }

    /// A path as it is, else a repository of the Hub that is in its cache already.
    private static func resolve(_ path: String, _ revision: String?) throws -> String {
        if pathExists(path) {
            if let revision {
                throw UserError("\(path)@\(revision): a folder has no revisions; leave @\(revision) out")
            }
            return path
        }
        guard let repository = HubRepository(path, revision: revision), let cache = HubCache(),
            folderExists(cache.folder(of: repository))
        else { return path }
        guard let snapshot = try cache.snapshot(repository) else {
            throw UserError(
                "\(path): revision \(repository.revision) is not in the Hub cache \(cache.folder(of: repository))")
        }
        return snapshot
    }
}

/// Models opened once, however many merges use them.
public final class MergeModels {
    private var opened: [MergeModelReference: MergeModel] = [:]
    /// What a name stands for instead of a path: results of earlier documents.
    public var substitutes: [String: String] = [:]
    private let report: (String) -> Void

    /// - Parameter report: told about slow work before it starts.
    public init(report: @escaping (String) -> Void = { _ in }) { self.report = report }

    public func model(_ reference: MergeModelReference) throws -> MergeModel {
        if let model = opened[reference] { return model }
        let model = try MergeModel(reference, substitute: substitutes[reference.path], report: report)
        opened[reference] = model
        return model
    }
}
