// Weights of a model that starts from nothing.
internal import Diagnostics
internal import Formats
internal import Layers
internal import ModelFiles
internal import RandomStreams
internal import Tensors

extension CausalLanguageModel {
    /// Fills every weight as transformers does for a new model of the family. Each tensor is a function of (seed, its
    /// place in the tree) alone.
    ///
    /// - Parameter finished: told of each weight before the next is begun.
    func initialize(
        _ shape: any ModelShape, seed: UInt64, range: Double, finished: (String, Parameter) throws -> Void
    ) rethrows {
        for (index, (name, parameter)) in namedParameters().enumerated() {
            switch shape.beginning(of: name, range: range) {
            case .constant(let value): parameter.fill(.full(parameter.shape, value))
            case .normal(let deviation):
                let stream = RandomStream(seed: seed, weightStream, UInt64(index))
                parameter.fill(stream.normal(parameter.shape, deviation: deviation))
            }
            try finished(name, parameter)
        }
    }
}

private let weightStream: UInt64 = 0x1417

/// `initializer_range` of config.json; 0.02 when it says nothing, as in transformers.
func initializerRange(_ config: JSONValue, file: String) throws -> Double {
    let range = try ConfigReader(json: config, file: file).number("initializer_range", 0.02)
    guard range > 0, range.isFinite else {
        throw UserError("\(file): \"initializer_range\" is \(range); a number above 0 is needed")
    }
    return range
}

/// Whether a file of that name may hold weights, in a form that is read or in one that is not.
func hasWeightsExtension(_ name: String) -> Bool {
    name.hasSuffix(".safetensors") || name.hasSuffix(".safetensors.index.json") || hasPickleExtension(name)
}

/// Random weights would silently take the place of those that are there.
func refuseWeights(in folder: String) throws {
    guard try listFolder(folder).contains(where: hasWeightsExtension) else { return }
    throw UserError(
        "\(folder): holds weights, which model.initialize: random would not use; leave it out, or name a folder with only "
            + "config.json and the tokenizer's files", .usage)
}
