// LongRoPE (Ding et al. 2024, arXiv:2402.13753) as config.json describes it: read alike for computing and for writing.
internal import Diagnostics
internal import Formats
internal import Glibc

/// Factors that frequencies are divided by, and from which length on the long ones are.
package struct LongRoPESettings {
    /// Of documents of up to `originalContext` tokens, and of longer ones; `[R / 2]`.
    package let short: [Double], long: [Double]
    package let originalContext: Int
    /// What cosines and sines are multiplied by.
    package let attention: Double

    /// - Parameters:
    ///   - config: the whole config.json, in which older files keep the original context.
    ///   - settings: its section on positions.
    ///   - width: R, how many numbers of a head turn.
    /// - Throws: `UserError` for missing and impossible values.
    package init(_ config: ConfigReader, _ settings: ConfigReader, width: Int) throws {
        func factors(_ key: String) throws -> [Double] {
            let factors = settings.json[key]?.array?.compactMap(\.double) ?? []
            guard factors.count == width / 2, factors.allSatisfy({ $0 > 0 }) else {
                throw UserError("\(settings.file): \"\(key)\" must be a list of \(width / 2) numbers above 0")
            }
            return factors
        }
        (short, long) = (try factors("short_factor"), try factors("long_factor"))
        let limit = try config.positive("max_position_embeddings")
        originalContext = try config.originalContext(settings) ?? limit
        let factor = try settings.number("factor", Double(limit) / Double(originalContext))
        let attention = factor <= 1 ? 1 : (1 + log(factor) / log(Double(originalContext))).squareRoot()
        self.attention = try settings.number("attention_factor", attention)
    }
}

extension ConfigReader {
    /// The section on positions: transformers 5 calls it `rope_parameters`, transformers 4 `rope_scaling`.
    package func positions() throws -> ConfigReader? { try section("rope_parameters") ?? section("rope_scaling") }

    /// How positions are stretched, in a section on them; older files call it `type`.
    package func positionScaling() throws -> String { try string("rope_type", string("type", "default")) }

    /// The length a model was first trained with, where its positions are stretched: config.json's own word goes before that
    /// of the section on positions, as in transformers, where Phi-3's is 4,096 if nothing is said. Nil: nothing is said.
    package func originalContext(_ settings: ConfigReader?) throws -> Int? {
        let key = "original_max_position_embeddings"
        if isPresent(key) { return try positive(key) }
        if let settings, settings.isPresent(key) { return try settings.positive(key) }
        return try string("model_type", "") == "phi3" ? 4096 : nil
    }
}
