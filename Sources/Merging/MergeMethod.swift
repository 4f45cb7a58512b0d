// The merge methods: their names and parameters as mergekit's files spell them, and how many inputs each takes.

/// A way to merge the tensors of several models into one.
public enum MergeMethod: String, CaseIterable, Sendable {
    case linear, slerp, nuslerp, multislerp, karcher
    case taskArithmetic = "task_arithmetic"
    case ties
    case dareLinear = "dare_linear"
    case dareTies = "dare_ties"
    case dellaLinear = "della_linear"
    case della, breadcrumbs
    case breadcrumbsTies = "breadcrumbs_ties"
    case sce
    case modelStock = "model_stock"
    case nearswap
    case arceeFusion = "arcee_fusion"
    case ram
    case ramplusTL = "ramplus_tl"
    case passthrough
}

/// The value of a parameter for one tensor.
public enum MergeValue: Sendable, Equatable {
    case number(Double)
    case flag(Bool)
    case text(String)
}

/// A parameter of a method.
public struct MergeParameter: Sendable, Equatable {
    /// Whose value it is.
    public enum Scope: Sendable {
        /// One for the whole merge.
        case shared
        /// One for each input, the base included.
        case input
        /// One for each input but the base.
        case nonBase
    }
    public enum Kind: Sendable, Equatable { case number, flag, choice([String]) }

    public let name: String
    public let scope: Scope
    public let kind: Kind
    /// Nil when the file must give a value.
    public let fallback: MergeValue?
}

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
