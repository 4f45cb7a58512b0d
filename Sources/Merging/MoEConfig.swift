// The configuration of a mixture of experts made from dense models, as mergekit-moe's files spell it.
internal import Diagnostics
internal import Formats
public import RunConfig

/// Where the routers' rows come from.
public enum GateMode: String, ConfigChoice {
    /// Hidden states of prompts at their last token.
    case hidden
    /// Hidden states of prompts, mean over their tokens.
    case hiddenAverage = "hidden_avg"
    /// Token embeddings of prompts, the same in every layer.
    case cheapEmbed = "cheap_embed"
    /// N(0, 1)
    case random
    /// Uniform in ±1/√H.
    case uniformRandom = "uniform_random"

    public var readsPrompts: Bool { self != .random && self != .uniformRandom }
    public var runsModel: Bool { self == .hidden || self == .hiddenAverage }
}

/// Dense models whose MLPs become the experts of one model.
public struct MoEConfig: RecipeConfig {
    public static let recipeName = "moe"

    public struct Expert: Codable, Sendable, Equatable {
        /// `path[@revision][+adapter]`
        public var sourceModel: String?
        public var positivePrompts: [String]?
        public var negativePrompts: [String]?
        /// Standard deviation of noise that is added to the MLP's weights.
        public var noiseScale: Double?
        /// Multiplies the MLP's output: its down_proj.
        public var residualScale: Double?

        public init(
            sourceModel: String?, positivePrompts: [String]? = nil, negativePrompts: [String]? = nil,
            noiseScale: Double? = nil, residualScale: Double? = nil
        ) {
            (self.sourceModel, self.positivePrompts, self.negativePrompts) = (
                sourceModel, positivePrompts, negativePrompts
            )
            (self.noiseScale, self.residualScale) = (noiseScale, residualScale)
        }
    }

    /// Gives everything but the MLPs.
    public var baseModel = ""
    public var gateMode: GateMode = .hidden
    /// Number format of the output; the base's when nil.
    public var dtype: String?
    public var expertsPerToken = 2
    public var experts: [Expert] = []
    public var sharedExperts: [Expert] = []
    /// Beginning of an output architecture's name; chosen by the models when nil.
    public var architecture: String?
    /// Names the random draws of gates and noise. Not in mergekit's files.
    public var seed: UInt64 = 0

    public init() {}

    public func resolved() -> MoEConfig { self }

    public func validate() -> [ConfigProblem] {
        var problems: [ConfigProblem] = []
        func note(_ key: String, _ message: String) { problems.append(ConfigProblem(key, message)) }
        if baseModel.isEmpty { note("base_model", "missing; name the model that gives everything but the experts") }
        if expertsPerToken < 1 { note("experts_per_token", "is \(expertsPerToken); at least 1 is needed") }
        if experts.isEmpty {
            note("experts", "missing; list the models whose MLPs become experts")
        } else if experts.count < expertsPerToken {
            note("experts", "\(counted(experts.count, "expert")), fewer than experts_per_token, \(expertsPerToken)")
        }
        if sharedExperts.count > 1 {
            note("shared_experts", "\(sharedExperts.count) are listed; at most one is possible")
        }
        for (key, list) in [("experts", experts), ("shared_experts", sharedExperts)] {
            for (i, expert) in list.enumerated() {
                let at = "\(key)[\(i)]"
                if expert.sourceModel?.isEmpty ?? true {
                    note("\(at).source_model", "missing; name the expert's model")
                }
                if let noise = expert.noiseScale, noise < 0 {
                    note("\(at).noise_scale", "is \(noise); it is 0 or more")
                }
                if gateMode.readsPrompts, key == "experts", expert.positivePrompts?.isEmpty ?? true {
                    note(
                        "\(at).positive_prompts",
                        "missing; gate_mode \(gateMode.rawValue) makes the router's row from them")
                }
            }
        }
        if let dtype, MergeConfig.elementType(named: dtype) == nil {
            note("dtype", "expected float32, float16, bfloat16 or float64, found \(dtype)")
        }
        if gateMode.readsPrompts, experts.count > 1, experts.allSatisfy({ $0.hasPrompts(of: experts[0]) }) {
            note("experts", "all have the same prompts, so nothing could tell them apart; give each its own")
        }
        return problems
    }

    /// Throws when every expert would be the same model: training may then make use of it, nothing else does.
    public func refuseEqualExperts() throws {
        guard gateMode.readsPrompts, experts.allSatisfy({ $0.sourceModel == experts[0].sourceModel }) else { return }
        throw UserError(
            "experts: all are \(experts[0].sourceModel ?? ""), so the output would compute the same as one of them; "
                + "--allow-equal-experts makes it nevertheless, to be trained")
    }
}

extension MoEConfig.Expert {
    fileprivate func hasPrompts(of other: Self) -> Bool {
        positivePrompts == other.positivePrompts && negativePrompts ?? [] == other.negativePrompts ?? []
    }
}
