// The merge methods: their names and parameters as mergekit's files spell them, and how many inputs each takes.

/// A way to merge the tensors of several models into one. Equations: the files beside this one.
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
    public enum Kind: Sendable, Equatable {
        case number, flag
        /// One of these words.
        case choice([String])
        /// true, false, or one of these words.
        case flagOrChoice([String])
    }

    public let name: String
    public let scope: Scope
    public let kind: Kind
    /// Nil when the file must give a value.
    public let fallback: MergeValue?
}

/// What a method does with a base model.
public enum BaseRule: Sendable {
    case required, optional
    /// No base in the formula: a given base is one more input.
    case ignoredButCounts
    /// One input is all there is.
    case none
}

/// What happens to a tensor that some architectures of a family have and others do not, when an input lacks it.
public enum MissingTensorRule: Sendable {
    case error
    /// The only model that has it gives it unchanged.
    case copyOnly
    /// The base gives it unchanged when no other model has it; otherwise an error.
    case copyBaseOnly
    /// As `copyBaseOnly`, but left out with a warning when there are too few inputs.
    case copyBaseOrSkip
}

extension MergeMethod {
    public var base: BaseRule {
        switch self {
        case .linear, .karcher: .ignoredButCounts
        case .nuslerp, .multislerp: .optional
        case .passthrough: .none
        default: .required
        }
    }

    public var missingTensorRule: MissingTensorRule {
        switch self {
        case .slerp, .nuslerp, .arceeFusion: .copyOnly
        case .nearswap: .copyBaseOnly
        case .modelStock: .copyBaseOrSkip
        default: .error
        }
    }

    /// Why the method cannot take these inputs, in one line; nil when it can.
    /// - Parameter inputCount: all models of a tensor, the base among them.
    public func check(inputCount: Int, hasBase: Bool) -> String? {
        if base == .required, !hasBase { return "\(rawValue) needs base_model" }
        switch self {
        case .slerp, .nearswap, .arceeFusion:
            if inputCount != 2 { return "\(rawValue) takes two models, the base one of them; got \(inputCount)" }
        case .nuslerp:
            let others = inputCount - (hasBase ? 1 : 0)
            if others != 2 { return "nuslerp takes two models and perhaps a base; got \(others) besides the base" }
        case .multislerp:
            if inputCount - (hasBase ? 1 : 0) < 1 { return "multislerp needs at least one model besides the base" }
        case .modelStock:
            if inputCount < 3 { return "model_stock needs the base and at least two models; got \(inputCount) in all" }
        case .passthrough:
            if inputCount != 1 { return "passthrough takes one model; got \(inputCount)" }
        default:
            if inputCount < 1 { return "\(rawValue) needs at least one model" }
        }
        return nil
    }

    /// The parameters that a configuration may give, with mergekit's defaults. Beyond mergekit's: `sign_vote`, the words
    /// of `rescale`, `seed`, `compat`.
    public var parameters: [MergeParameter] {
        switch self {
        case .linear: [.number("weight", .input), .flag("normalize", true)]
        case .slerp: [.number("t", .shared)]
        case .nuslerp: [.number("weight", .nonBase), .flag("nuslerp_flatten", true), .flag("nuslerp_row_wise", false)]
        case .multislerp:
            [.number("weight", .nonBase), .flag("normalize_weights", true), .number("eps", .shared, 1e-8)]
        case .karcher: [.number("max_iter", .shared, 10), .number("tol", .shared, 1e-5)]
        case .sce: [.number("select_topk", .shared, 1), .flag("int8_mask", false), .compat]
        case .modelStock: [.flag("filter_wise", false), .compat]
        case .nearswap: [.number("t", .shared)]
        case .arceeFusion: []
        case .ram: [.number("epsilon", .shared, 1e-5)]
        case .ramplusTL:
            [.number("epsilon", .shared, 1e-5), .number("r", .shared, 0.1), .number("alpha", .shared, 0.2)]
        case .passthrough: [.number("scale", .input, 1)]
        case .taskArithmetic, .ties, .dareLinear, .dareTies, .dellaLinear, .della, .breadcrumbs, .breadcrumbsTies:
            taskVectorParameters
        }
    }

    private var taskVectorParameters: [MergeParameter] {
        var list: [MergeParameter] = [
            .number("weight", .nonBase), .number("density", .nonBase, 1), .number("lambda", .shared, 1),
            .flag("normalize", self == .ties || self == .della),
            // Accepted because mergekit's files have it; there it chooses the type of a mask, never the result.
            .flag("int8_mask", false),
        ]
        let words = ["l1", "l2", "linf", "none"] + (drawsRandomly ? ["inverse_probability"] : [])
        list.append(
            MergeParameter(name: "rescale", scope: .shared, kind: .flagOrChoice(words), fallback: .flag(drawsRandomly)))
        if hasSignVote {
            list.append(
                MergeParameter(
                    name: "sign_vote", scope: .shared, kind: .choice(["weighted", "unweighted"]),
                    fallback: .text("weighted")))
        }
        switch self {
        case .breadcrumbs, .breadcrumbsTies: list.append(.number("gamma", .nonBase, 0.01))
        case .della, .dellaLinear: list.append(.number("epsilon", .nonBase, 0.15))
        default: break
        }
        if drawsRandomly { list.append(.number("seed", .shared, 0)) }
        return list
    }

    /// Whether a seed decides the result.
    public var drawsRandomly: Bool {
        switch self {
        case .dareLinear, .dareTies, .dellaLinear, .della: true
        default: false
        }
    }

    /// Whether entries whose sign loses a vote are left out.
    var hasSignVote: Bool {
        switch self {
        case .ties, .dareTies, .della, .breadcrumbsTies: true
        default: false
        }
    }
}

extension MergeParameter {
    static func number(_ name: String, _ scope: Scope, _ fallback: Double? = nil) -> Self {
        Self(name: name, scope: scope, kind: .number, fallback: fallback.map { .number($0) })
    }
    static func flag(_ name: String, _ fallback: Bool) -> Self {
        Self(name: name, scope: .shared, kind: .flag, fallback: .flag(fallback))
    }
    /// `mergekit` where its rule depends on the scale of the task vectors and ours does not.
    static var compat: Self {
        Self(name: "compat", scope: .shared, kind: .choice(["exact", "mergekit"]), fallback: .text("exact"))
    }
}
