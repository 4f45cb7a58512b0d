// The rotation that a config.json describes: transformers 5 keeps it in `rope_parameters`, transformers 4 in keys beside
// `rope_scaling`.
internal import Diagnostics
internal import Formats
internal import Glibc
internal import Layers
internal import ModelFiles

extension ConfigReader {
    /// Frequencies and scaling.
    ///
    /// - Parameters:
    ///   - name: of the kind of layers, where `rope_parameters` has a section for each kind.
    ///   - thetaKey, theta: transformers 4's key, and its value where nothing is said.
    ///   - width: how many numbers of a head turn.
    /// - Throws: `UserError` for missing and impossible values and for kinds that are not supported.
    func rotary(
        _ name: String? = nil, thetaKey: String = "rope_theta", theta: Double = 10_000, width: Int,
        scales: Bool = true
    ) throws -> Rotary {
        let older = try scales ? section("rope_scaling") : nil, newer = try section("rope_parameters")
        let settings = try name.flatMap { try newer?.section($0) } ?? (newer ?? older)
        let theta = try settings?.number("rope_theta", number(thetaKey, theta)) ?? number(thetaKey, theta)
        guard let settings else { return Rotary(theta: theta) }
        return Rotary(theta: theta, scaling: try scaling(settings, theta: theta, width: width))
    }

    /// Tokens of the longest document: dynamic scaling goes beyond the length first trained with by its factor.
    func contextLength(_ fallback: Int? = nil) throws -> Int {
        let trained = try positive("max_position_embeddings", fallback)
        guard let settings = try positions(), try settings.positionScaling() == "dynamic" else { return trained }
        return Int(min(Double(trained) * max(try settings.number("factor"), 1), 0x1p30))
    }

    /// How many numbers of a head of `headDim` turn.
    func rotaryWidth(_ headDim: Int, key: String = "partial_rotary_factor", share: Double = 1) throws -> Int {
        let share =
            try section("rope_parameters")?.number("partial_rotary_factor", number(key, share)) ?? number(key, share)
        let width = Int(Double(headDim) * share)
        guard share > 0, share <= 1, width > 0, width % 2 == 0 else {
            throw UserError(
                "\(file): \"\(key)\" \(share) of heads of \(headDim) would turn \(width) numbers; rotary positions need pairs"
            )
        }
        return width
    }

    /// - Throws: `UserError` for heads that cannot be shared out or cannot turn.
    func checkHeads(_ heads: Int, _ kvHeads: Int, _ headDim: Int) throws {
        guard heads % kvHeads == 0 else {
            throw UserError("\(file): num_attention_heads \(heads) is not a multiple of num_key_value_heads \(kvHeads)")
        }
        guard headDim % 2 == 0 else {
            throw UserError("\(file): head_dim \(headDim) is odd; rotary positions need pairs")
        }
    }

    private func scaling(_ settings: ConfigReader, theta: Double, width: Int) throws -> RotaryScaling {
        let type = try settings.positionScaling()
        switch type {
        case "default": return .none
        case "dynamic":
            guard width > 2 else { throw UserError("\(settings.file): dynamic scaling needs more than one frequency") }
            return .dynamic(factor: try settings.number("factor"), context: try positive("max_position_embeddings"))
        case "linear": return .linear(factor: try settings.number("factor"))
        case "llama3":
            return .llama3(
                factor: try settings.number("factor"), lowFrequencyFactor: try settings.number("low_freq_factor"),
                highFrequencyFactor: try settings.number("high_freq_factor"),
                originalContext: try settings.positive("original_max_position_embeddings"))
        case "yarn" where try string("model_type") != "phi3": return .yarn(try yarn(settings))
        case "longrope", "su", "yarn":  // Phi-3's first configurations used the other names
            let found = try LongRoPESettings(self, settings, width: width)
            return .longRoPE(
                .init(
                    short: found.short, long: found.long, originalContext: found.originalContext,
                    attention: found.attention))
        default:
            throw UserError(
                "\(settings.file): type \(type) is not supported; default, linear, dynamic, llama3, yarn and longrope are"
            )
        }
    }

    private func yarn(_ settings: ConfigReader) throws -> RotaryScaling.Yarn {
        let context = try originalContext(settings) ?? positive("max_position_embeddings")
        let factor =
            try settings.isPresent("factor")
            ? settings.number("factor") : Double(positive("max_position_embeddings")) / Double(context)
        func magnitude(_ scale: Double) -> Double { factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1 }
        // Both or neither, as in the published code; 0 counts as absent.
        let scale = try settings.number("mscale", 0), everywhere = try settings.number("mscale_all_dim", 0)
        let attention = scale != 0 && everywhere != 0 ? magnitude(scale) / magnitude(everywhere) : magnitude(1)
        return .init(
            factor: factor, fast: try settings.number("beta_fast", 32), slow: try settings.number("beta_slow", 1),
            originalContext: context, attention: try settings.number("attention_factor", attention),
            roundsEnds: try settings.bool("truncate", true))
    }
}
