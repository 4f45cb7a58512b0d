// The sizes that every decoder of equal blocks has, as most config.json name them.
internal import ModelFiles

/// Sizes of a decoder.
public struct DecoderSizes: Sendable, Equatable {
    public let hiddenSize: Int, intermediateSize: Int, layers: Int
    public let heads: Int, kvHeads: Int, headDim: Int
    public let vocabSize: Int
    /// Longest document the model was made for.
    public let contextLength: Int
    public let normEpsilon: Double
    /// Whether the output table is the token table.
    public let tiedHead: Bool
}

extension DecoderSizes {
    /// Reads them; what is not given here and not in the file is an error, but for heads: as many key/value heads as query
    /// heads, of hidden size / heads.
    ///
    /// - Throws: `UserError` for missing and impossible values.
    init(
        _ reader: ConfigReader, kvHeads: Int? = nil, headDim: Int? = nil, vocabSize: Int? = nil,
        contextLength: Int? = nil, normEpsilon: Double, tiedHead: Bool = false
    ) throws {
        let hidden = try reader.positive("hidden_size"), heads = try reader.positive("num_attention_heads")
        self.init(
            hiddenSize: hidden, intermediateSize: try reader.positive("intermediate_size"),
            layers: try reader.layers(), heads: heads,
            kvHeads: try reader.positive("num_key_value_heads", kvHeads ?? heads),
            headDim: try reader.positive("head_dim", headDim ?? hidden / heads),
            vocabSize: try reader.positive("vocab_size", vocabSize),
            contextLength: try reader.contextLength(contextLength),
            normEpsilon: try reader.number("rms_norm_eps", normEpsilon),
            tiedHead: try reader.bool("tie_word_embeddings", tiedHead))
        try reader.checkHeads(heads, self.kvHeads, self.headDim)
    }
}

/// A configuration that has them.
public protocol DecoderConfiguration {
    var sizes: DecoderSizes { get }
}

extension DecoderConfiguration {
    public var hiddenSize: Int { sizes.hiddenSize }
    public var intermediateSize: Int { sizes.intermediateSize }
    public var layers: Int { sizes.layers }
    public var heads: Int { sizes.heads }
    public var kvHeads: Int { sizes.kvHeads }
    public var headDim: Int { sizes.headDim }
    public var vocabSize: Int { sizes.vocabSize }
    public var contextLength: Int { sizes.contextLength }
    public var normEpsilon: Double { sizes.normEpsilon }
    public var tiedHead: Bool { sizes.tiedHead }
    /// Width of all query heads of a layer together.
    public var queryWidth: Int { heads * headDim }
}
