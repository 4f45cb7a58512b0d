// The merge of one tensor: what goes in, what is checked before anything is read, and what comes out block by block.
public import Diagnostics
internal import Formats

/// One model's tensor in a merge.
public struct MergeInput {
    public var reader: any TensorReader
    /// Position of the model in the configuration: with the seed and the tensor's name it decides random draws.
    public var model: Int
    public var isBase: Bool
    /// Values of the parameters of scope `input` and `nonBase`, by name.
    public var settings: [String: MergeValue]

    public init(_ reader: any TensorReader, model: Int, isBase: Bool = false, settings: [String: MergeValue] = [:]) {
        (self.reader, self.model, self.isBase, self.settings) = (reader, model, isBase, settings)
    }
}

/// Merged elements on their way out, in row-major order.
public enum MergedBlock {
    case float32(UnsafeBufferPointer<Float>)
    /// When an input is F64.
    case float64(UnsafeBufferPointer<Double>)
}

/// An input that holds a NaN or an infinity. The merge knows the model only by its position: the caller, who knows its
/// name, says `named`.
public struct NonFiniteInput: UserFacing, Equatable {
    /// Name of the output tensor.
    public let tensor: String
    /// `MergeInput.model` of the input.
    public let model: Int
    /// Row-major position of the first such element.
    public let element: Int
    /// "nan", "inf" or "-inf".
    public let value: String

    public init(tensor: String, model: Int, element: Int, value: String) {
        (self.tensor, self.model, self.element, self.value) = (tensor, model, element, value)
    }

    public var message: String { named("model \(model + 1)") }
    public var exitStatus: ExitStatus { .badData }

    public func named(_ model: String) -> String {
        "\(model): tensor \(tensor): element \(element) is \(value); a merge of it would be useless"
    }
}

/// The merge of one tensor.
public struct TensorMerge {
    /// Name of the output tensor.
    public var name: String
    public var method: MergeMethod
    /// In the order of the configuration, the base among them.
    public var inputs: [MergeInput]
    /// Values of the parameters of scope `shared`, by name, `seed` and `compat` included where the configuration gives them.
    public var settings: [String: MergeValue]

    public init(name: String, method: MergeMethod, inputs: [MergeInput], settings: [String: MergeValue] = [:]) {
        (self.name, self.method, self.inputs, self.settings) = (name, method, inputs, settings)
    }
}

extension TensorMerge {
    /// Throws the first thing wrong with the inputs' number and shapes or with a setting's value: all that is known
    /// before an element is read. `run` checks it too.
    public func check() throws {
        let hasBase = inputs.contains { $0.isBase }
        if let reason = method.check(inputCount: inputs.count, hasBase: hasBase) { throw problem(reason) }
        for input in inputs where input.reader.shape != inputs[0].reader.shape {
            throw problem("shapes differ: \(inputs[0].reader.shape) and \(input.reader.shape)")
        }
        for parameter in method.parameters { try checkValues(of: parameter) }
        try checkWeights()
    }

    func problem(_ text: String) -> UserError { UserError("tensor \(name): \(text)") }

    /// The values that the inputs use for a parameter, or the one shared value.
    private func values(of parameter: MergeParameter) throws -> [MergeValue] {
        let maps =
            switch parameter.scope {
            case .shared: [settings]
            case .input: inputs.map(\.settings)
            case .nonBase: inputs.filter { !$0.isBase }.map(\.settings)
            }
        return try maps.map {
            guard let value = $0[parameter.name] ?? parameter.fallback else {
                throw problem("\(method.rawValue) needs a value for \(parameter.name)")
            }
            return value
        }
    }

    private func checkValues(of parameter: MergeParameter) throws {
        for value in try values(of: parameter) {
            switch (parameter.kind, value) {
            case (.number, .number(let number)):
                guard number.isFinite else { throw problem("\(parameter.name) is \(number)") }
                try checkRange(parameter.name, number)
            case (.flag, .flag), (.flagOrChoice, .flag): break
            case (.choice(let words), .text(let word)) where words.contains(word): break
            case (.flagOrChoice(let words), .text(let word)) where words.contains(word): break
            case (.choice(let words), _):
                throw problem("\(parameter.name) must be one of \(words.joined(separator: ", "))")
            case (.flagOrChoice(let words), _):
                throw problem("\(parameter.name) must be true, false or one of \(words.joined(separator: ", "))")
            case (.number, _): throw problem("\(parameter.name) must be a number")
            case (.flag, _): throw problem("\(parameter.name) must be true or false")
            }
        }
    }

    private func checkRange(_ parameter: String, _ value: Double) throws {
        switch (method, parameter) {
        case (_, "density"), (_, "gamma"), (_, "select_topk"):
            if !(0...1 ~= value) { throw problem("\(parameter) \(value) is not between 0 and 1") }
        case (.multislerp, "eps"), (.karcher, "tol"), (.ram, "epsilon"), (.ramplusTL, "epsilon"), (.nearswap, "t"):
            if value < 0 { throw problem("\(parameter) \(value) is negative") }
        case (.karcher, "max_iter"):
            if value < 0 || value > 1e6 || value.rounded() != value {
                throw problem("max_iter \(value) is not a whole number from 0 to 1000000")
            }
        case (_, "seed"):
            if value < 0 || value > 0x1p53 || value.rounded() != value {
                throw problem("seed \(value) is not a whole number from 0 to 2^53")
            }
        default: break
        }
    }

    /// Rules about several values at once.
    private func checkWeights() throws {
        switch method {
        case .linear where try flag("normalize"):
            if try inputs.map({ Float(try number("weight", $0)) }).reduce(0, +) == 0 {
                throw problem("the weights sum to 0")
            }
        case .multislerp where try flag("normalize_weights"):
            if try nonBase.map({ try number("weight", $0) }).reduce(0, +) == 0 { throw problem("the weights sum to 0") }
        case .della, .dellaLinear:
            for input in nonBase {
                let density = try number("density", input), epsilon = try number("epsilon", input)
                if density > 0, density < 1, density - epsilon <= 0 || density + epsilon >= 1 || epsilon < 0 {
                    throw problem(
                        "density \(density) with epsilon \(epsilon): density - epsilon and density + epsilon must be between 0 and 1"
                    )
                }
            }
        default: break
        }
    }

    var nonBase: [MergeInput] { inputs.filter { !$0.isBase } }

    /// A parameter's value where nothing but the fallback can be missing (`check` has run, or is about to say so).
    private func value(_ parameter: String, _ given: MergeValue?) throws -> MergeValue {
        guard let value = given ?? method.parameters.first(where: { $0.name == parameter })?.fallback else {
            throw problem("\(method.rawValue) needs a value for \(parameter)")
        }
        return value
    }

    func number(_ parameter: String, _ input: MergeInput? = nil) throws -> Double {
        guard
            case .number(let number) = try value(parameter, input.map { $0.settings[parameter] } ?? settings[parameter])
        else { throw problem("\(parameter) must be a number") }
        return number
    }

    func flag(_ parameter: String) throws -> Bool {
        guard case .flag(let flag) = try value(parameter, settings[parameter]) else {
            throw problem("\(parameter) must be true or false")
        }
        return flag
    }

    /// The word of a choice; true and false as words where the parameter takes both.
    func word(_ parameter: String) throws -> String {
        switch try value(parameter, settings[parameter]) {
        case .text(let word): return word
        case .flag(let flag): return flag ? "true" : "false"
        case .number: throw problem("\(parameter) must be a word")
        }
    }
}
