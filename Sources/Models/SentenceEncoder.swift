// Texts to vectors: an encoder's folder with what sentence-transformers writes beside it.
internal import Checkpoints
internal import Diagnostics
internal import Formats
internal import Layers
internal import ModelFiles
public import Tensors
public import Tokenizers

/// How the states of a text's tokens become one vector.
public enum Pooling: String, CaseIterable, Sendable {
    /// Their mean.
    case mean
    /// The first token's.
    case cls
    /// The first token's through the model's pooler.
    case pooler
}

/// An encoder with its tokenizer.
public final class SentenceEncoder {
    public let tokenizer: Tokenizer
    /// Tokens of a text that are read, those that the tokenizer adds among them.
    public let longestText: Int
    public let pooling: Pooling
    /// Whether vectors are divided by their length.
    public let normalizes: Bool
    private let model: BERT

    /// Reads a folder of transformers or of sentence-transformers.
    ///
    /// - Parameters:
    ///   - pooling: in place of what the folder's modules.json says; without either the mean.
    ///   - normalizes: likewise; without either no.
    /// - Throws: `UserError` for files that do not fit each other, and for modules that are not supported.
    public init(
        folder: String, dtype: DType = .float32, device: Device = .cpu, pooling: Pooling? = nil, normalizes: Bool? = nil
    ) throws {
        let file = joinPath(folder, "config.json")
        guard fileExists(file) else { throw UserError("\(folder): no config.json; a folder of a BERT model is needed") }
        let weights = try SafetensorsFolder(folder: folder)
        let config = try BERTConfig(
            readJSONFile(file), file: file, hasPooler: weights.names.contains { $0.hasSuffix("pooler.dense.weight") })
        let modules = try SentenceModules(folder)
        self.pooling = pooling ?? modules.pooling ?? .mean
        self.normalizes = normalizes ?? modules.normalizes
        if self.pooling == .pooler, !config.hasPooler {
            throw UserError("\(folder): has no pooler (pooler.dense.weight); use mean or cls", .usage)
        }
        tokenizer = try Tokenizer(modelPath: folder)
        longestText = min(config.contextLength, modules.longestText ?? config.contextLength)
        let source = try FolderWeights(weights, fitting: config)
        model = BERT(config, dtype, on: device)
        for (name, parameter) in model.namedParameters() { parameter.fill(fromFile: try source.tensor(name)) }
    }

    /// Width of the vectors.
    public var width: Int { model.config.hiddenSize }

    /// The tokens of a text as the model reads them.
    ///
    /// - Returns: the ids, and how many tokens of the text were left out. What the tokenizer puts at the end stays there.
    /// - Throws: `UserError` for an id that the model has no row for.
    public func tokens(of text: String) throws -> (ids: [Int32], leftOut: Int) {
        let ids = tokenizer.encode(text)
        if let id = ids.first(where: { $0 >= model.config.vocabSize }) {
            throw UserError("the tokenizer gives id \(id); the model has \(model.config.vocabSize) rows")
        }
        guard ids.count > longestText else { return (ids, 0) }
        let tail = ids.count - tokenizer.encode(text, addSpecialTokens: false).count > 1 ? 1 : 0
        return (Array(ids.prefix(longestText - tail) + ids.suffix(tail)), ids.count - longestText)
    }

    /// A vector for each sequence of tokens, none of them empty or longer than `longestText`.
    public func vectors(_ sequences: [[Int32]]) -> [[Float]] {
        if sequences.isEmpty { return [] }
        let starts = sequences.reduce(into: [0]) { $0.append($0.last! + $1.count) }
        let result = withoutGradients {
            let pooled = pool(model.hiddenStates(Array(sequences.joined()), starts: starts), starts).to(.float32)
            return normalizes ? pooled / lengths(pooled) : pooled
        }
        let numbers = result.values(Float.self)
        return sequences.indices.map { Array(numbers[$0 * width..<($0 + 1) * width]) }
    }

    /// States `[N, D]` -> `[documents, D]`.
    private func pool(_ states: Tensor, _ starts: [Int]) -> Tensor {
        if pooling == .mean {
            let means = zip(starts, starts.dropFirst()).map { begin, end in
                states.narrow(0, begin, end - begin).to(.float32).sum(dim: 0, keepDim: true) / Double(end - begin)
            }
            return .cat(means, dim: 0)
        }
        let first = states.indexSelect(0, Tensor(starts.dropLast().map(Int64.init), on: states.device))
        return pooling == .pooler ? model.pooled(first)! : first
    }

    /// `[M, 1]`, never 0.
    private func lengths(_ vectors: Tensor) -> Tensor { (vectors * vectors).sum(dim: 1, keepDim: true).sqrt() + 1e-12 }
}

/// What sentence-transformers says beside a model: modules.json and the files it names.
private struct SentenceModules {
    var pooling: Pooling?
    var normalizes = false
    /// Tokens.
    var longestText: Int?

    init(_ folder: String) throws {
        let limits = joinPath(folder, "sentence_bert_config.json")
        if fileExists(limits) {
            let reader = ConfigReader(json: try readJSONFile(limits), file: limits)
            if reader.isPresent("max_seq_length") { longestText = try reader.positive("max_seq_length") }
        }
        let list = joinPath(folder, "modules.json")
        guard fileExists(list) else { return }
        guard let modules = try readJSONFile(list).array else {
            throw UserError("\(list): a list of modules is needed")
        }
        for module in modules {
            let reader = ConfigReader(json: module, file: list)
            let type = try reader.string("type")
            switch type.split(separator: ".").last {
            case "Transformer": break
            case "Pooling": pooling = try Self.pooling(joinPath(joinPath(folder, reader.string("path")), "config.json"))
            case "Normalize": normalizes = true
            default: throw UserError("\(list): modules of type \(type) are not supported")
            }
        }
    }

    private static func pooling(_ file: String) throws -> Pooling {
        let reader = ConfigReader(json: try readJSONFile(file), file: file)
        // Newer files name the mode; older ones have a key for each.
        if let mode = reader.json["pooling_mode"]?.string {
            guard let pooling = ["mean": Pooling.mean, "cls": .cls][mode] else {
                throw UserError("\(file): pooling_mode \(mode) is not supported; mean and cls are")
            }
            return pooling
        }
        let begin = "pooling_mode_"
        let modes = try (reader.json.object?.keys ?? []).filter { $0.hasPrefix(begin) && $0 != begin }
            .filter { try reader.bool($0, false) }
        switch modes {
        case ["pooling_mode_mean_tokens"]: return .mean
        case ["pooling_mode_cls_token"]: return .cls
        default:
            throw UserError(
                "\(file): \(modes.joined(separator: " with ")) is not supported; mean or first token alone are")
        }
    }
}
