// A merge as it is asked for: mergekit's configuration as values.
public import Formats

/// What to merge, and how. Read from a file with `MergeConfig.read`, or built in memory.
public struct MergeConfig: Sendable, Equatable {
    /// Where the output's layers come from; exactly one of the three.
    public enum Layout: Sendable, Equatable {
        /// Whole models in parallel.
        case models([MergeSource])
        /// Runs of layers, stacked in this order.
        case slices([MergeSlice])
        /// Parts of a model (encoder, decoder, vision tower), each with a layout of its own.
        case modules([MergeModule])
    }

    /// Of a file with several documents: what later documents call the result.
    public var name: String?
    public var method: MergeMethod
    public var layout: Layout
    public var base: MergeModelReference?
    /// Settings that hold wherever nothing nearer gives the parameter.
    public var parameters: MergeParameters
    /// Number format the inputs are read in, as mergekit has it. Here elements are always combined in F32 (F64 where an
    /// input is F64) and rounded once, so it matters only where `outDtype` is nil: then the output has this format.
    public var dtype: ElementType?
    public var outDtype: ElementType?
    public var tokenizer: MergeTokenizer?
    public var chatTemplate: String?

    public init(
        method: MergeMethod, layout: Layout, base: MergeModelReference? = nil, parameters: MergeParameters = [:],
        dtype: ElementType? = nil, outDtype: ElementType? = nil, tokenizer: MergeTokenizer? = nil,
        chatTemplate: String? = nil, name: String? = nil
    ) {
        (self.method, self.layout, self.base, self.parameters) = (method, layout, base, parameters)
        (self.dtype, self.outDtype, self.tokenizer, self.chatTemplate) = (dtype, outDtype, tokenizer, chatTemplate)
        self.name = name
    }

    /// Every model named, once each, in the order of the file, the base last unless it is named earlier.
    public var models: [MergeModelReference] {
        var seen: Set<MergeModelReference> = []
        return (sources.map(\.model) + slices.compactMap(\.base) + (base.map { [$0] } ?? [])).filter {
            seen.insert($0).inserted
        }
    }

    private var slices: [MergeSlice] {
        switch layout {
        case .models: []
        case .slices(let slices): slices
        case .modules(let modules): modules.flatMap(\.slices)
        }
    }

    private var sources: [MergeSource] {
        switch layout {
        case .models(let sources): sources
        case .slices(let slices): slices.flatMap(\.sources)
        case .modules(let modules): modules.flatMap(\.sources)
        }
    }
}

extension MergeModule {
    fileprivate var slices: [MergeSlice] { if case .slices(let slices) = layout { slices } else { [] } }

    fileprivate var sources: [MergeSource] {
        switch layout {
        case .models(let sources): sources
        case .slices(let slices): slices.flatMap(\.sources)
        }
    }
}

/// A model as a configuration names it: `path[@revision][+adapter[@revision]]`.
public struct MergeModelReference: Hashable, Sendable, CustomStringConvertible {
    /// A Hugging Face, adapter or run folder, a GGUF or safetensors file, a name in the Hub cache, or the `name` of an
    /// earlier document.
    public var path: String
    public var revision: String?
    /// A PEFT adapter that is added to the weights.
    public var adapter: String?
    public var adapterRevision: String?
    /// Taken for the first of config.json's `architectures`.
    public var architecture: String?

    public init(
        _ path: String, revision: String? = nil, adapter: String? = nil, adapterRevision: String? = nil,
        architecture: String? = nil
    ) {
        (self.path, self.revision, self.architecture) = (path, revision, architecture)
        (self.adapter, self.adapterRevision) = (adapter, adapterRevision)
    }

    public var description: String {
        let base = path + (revision.map { "@\($0)" } ?? "")
        return base + (adapter.map { "+\($0)" + (adapterRevision.map { "@\($0)" } ?? "") } ?? "")
    }
}

/// A model's part in a merge.
public struct MergeSource: Sendable, Equatable {
    public var model: MergeModelReference
    /// Half open; nil for all layers.
    public var layers: Range<Int>?
    public var parameters: MergeParameters

    public init(_ model: MergeModelReference, layers: Range<Int>? = nil, parameters: MergeParameters = [:]) {
        (self.model, self.layers, self.parameters) = (model, layers, parameters)
    }
}

/// A run of output layers: the sources' layers, as many of each, are merged one by one.
public struct MergeSlice: Sendable, Equatable {
    public var sources: [MergeSource]
    /// Takes the place of the configuration's base.
    public var base: MergeModelReference?
    public var parameters: MergeParameters

    public init(_ sources: [MergeSource], base: MergeModelReference? = nil, parameters: MergeParameters = [:]) {
        (self.sources, self.base, self.parameters) = (sources, base, parameters)
    }
}

/// A part of a model with a layout of its own.
public struct MergeModule: Sendable, Equatable {
    public enum Layout: Sendable, Equatable { case models([MergeSource]), slices([MergeSlice]) }

    public var name: String
    public var layout: Layout
    public var parameters: MergeParameters

    public init(_ name: String, _ layout: Layout, parameters: MergeParameters = [:]) {
        (self.name, self.layout, self.parameters) = (name, layout, parameters)
    }
}

/// Settings by the name of the parameter.
public typealias MergeParameters = [String: MergeSetting]

/// A parameter's value, possibly different from layer to layer or from tensor to tensor.
public indirect enum MergeSetting: Sendable, Equatable {
    case value(MergeValue)
    /// Numbers are interpolated over the layers of a slice; flags and words are picked.
    case gradient([MergeValue])
    /// The first entry whose filter fits the tensor's name decides.
    case filtered([Filtered])

    public struct Filtered: Sendable, Equatable {
        /// Part of a tensor's name; nil and "*" fit every name.
        public var filter: String?
        public var setting: MergeSetting

        public init(_ filter: String?, _ setting: MergeSetting) { (self.filter, self.setting) = (filter, setting) }
    }

    public static func number(_ value: Double) -> MergeSetting { .value(.number(value)) }
}

/// Which vocabulary the output has.
public struct MergeTokenizer: Sendable, Equatable {
    public enum Source: Sendable, Equatable {
        /// Every token of every model.
        case union
        case base
        case model(MergeModelReference)
    }

    /// Where the row of a token comes from.
    public struct TokenRow: Sendable, Equatable {
        public enum Source: Sendable, Equatable {
            /// The same token of this model.
            case model(MergeModelReference)
            /// Another token of this model.
            case token(MergeModelReference, String)
            case tokenID(MergeModelReference, Int)
            case zero
        }
        public var source: Source?
        /// Also for models that have the token.
        public var force: Bool

        public init(_ source: Source?, force: Bool = false) { (self.source, self.force) = (source, force) }
    }

    public var source: Source
    public var tokens: [(token: String, row: TokenRow)]
    /// The vocabulary's size is rounded up to a multiple of this with mean rows.
    public var padToMultipleOf: Int?

    public init(_ source: Source, tokens: [(token: String, row: TokenRow)] = [], padToMultipleOf: Int? = nil) {
        (self.source, self.tokens, self.padToMultipleOf) = (source, tokens, padToMultipleOf)
    }

    public static func == (a: MergeTokenizer, b: MergeTokenizer) -> Bool {
        a.source == b.source && a.padToMultipleOf == b.padToMultipleOf
            && a.tokens.elementsEqual(b.tokens) { ExactString($0.token) == ExactString($1.token) && $0.row == $1.row }
    }
}
