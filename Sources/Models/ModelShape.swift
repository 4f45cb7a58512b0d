// What loading, saving and measuring need to know of a family: its shape, read from config.json before any weight is.
internal import Diagnostics
public import Formats
internal import Layers
public import ModelFiles
public import Tensors

/// Which weights a folder must hold.
public protocol WeightLayout: Sendable {
    /// Names of the weights.
    static var naming: TensorNaming { get }
    var layers: Int { get }
    /// Whether the output table is the token table.
    var tiedHead: Bool { get }
    /// Name and shape of every weight, as files hold it, without making any.
    var parameterShapes: [(name: String, shape: [Int])] { get }
}

/// The shape of a family's models.
public protocol ModelShape: WeightLayout {
    /// Values of config.json's `model_type` that it reads.
    static var modelTypes: [String] { get }

    /// - Parameter file: the path named in messages.
    /// - Throws: `UserError` for a missing or impossible value and for every setting that would change the computation
    ///   and is not supported.
    init(_ json: JSONValue, file: String) throws

    /// Width of all query heads of a layer together.
    var queryWidth: Int { get }
    /// Memory for the weights, to be filled.
    func makeModel(_ dtype: DType, on device: Device) -> any CausalLanguageModel
    /// How transformers begins the weight of that name, given config.json's `initializer_range`.
    func beginning(of name: String, range: Double) -> WeightBeginning
}

/// What a new weight holds.
public enum WeightBeginning: Sendable, Equatable {
    case constant(Double)
    /// Normal around 0.
    case normal(deviation: Double)
}

extension ModelShape {
    /// Number of weights.
    public var parameterCount: Int { parameterShapes.reduce(0) { $0 + $1.shape.reduce(1, *) } }

    /// The reader of config.json, with the `model_type` it was asked for.
    static func reader(_ json: JSONValue, file: String) throws -> (ConfigReader, type: String) {
        let reader = ConfigReader(json: json, file: file), type = try reader.string("model_type")
        guard modelTypes.contains(type) else { throw unsupported(type, modelTypes, file) }
        return (reader, type)
    }
}

/// Every family, one line each.
private let families: [any ModelShape.Type] = [
    LlamaConfig.self, OLMo2Config.self, Phi3Config.self, GemmaConfig.self, GPTNeoXConfig.self, GPT2Config.self,
]

/// The shape that config.json describes.
///
/// - Throws: `UserError`, naming all families for an unknown one.
public func modelShape(_ json: JSONValue, file: String) throws -> any ModelShape {
    let type = try ConfigReader(json: json, file: file).string("model_type")
    guard let family = families.first(where: { $0.modelTypes.contains(type) }) else {
        throw unsupported(type, families.flatMap { $0.modelTypes }, file)
    }
    return try family.init(json, file: file)
}

private func unsupported(_ type: String, _ known: [String], _ file: String) -> UserError {
    UserError("\(file): model_type \(type) is not supported; \(known.joined(separator: ", ")) are")
}
