// Options that several verbs share: where a model comes from and how answers are drawn.
public import ArgumentParser

/// The model a verb uses, and how it is computed with.
public struct ModelOptions: ParsableArguments {
    @Argument(
        help: ArgumentHelp(
            "A Hugging Face folder (Llama, Mistral, Qwen2 and 3, OLMo 2, Phi-3, Gemma 2 and 3, GPT-NeoX, GPT-2), an adapter or "
                + "run folder, a step of a run, or a GGUF file of one of them.", valueName: "model"),
        completion: .file())
    public var model: String

    @Option(
        help: ArgumentHelp(
            "The base model of an adapter folder, when its adapter_config.json does not lead to it.", valueName: "model"
        ),
        completion: .file())
    public var base: String?

    @Option(
        help: ArgumentHelp(
            "Keep the linear maps of the blocks quantised, as model.quantize does in training: \(BaseForm.list); CPU only.",
            valueName: "form"))
    public var quantize: BaseForm?

    @OptionGroup public var compute: ComputeOptions

    public init() {}
}

/// Quantised forms of the linear maps of a model's blocks.
public enum BaseForm: String, CaseIterable, ExpressibleByArgument, Sendable {
    case nf4, int8
    case asStored = "as_stored"

    static let list = allCases.map(\.rawValue).joined(separator: ", ")
}

/// How many threads an operation of the engine may use.
public struct ThreadOptions: ParsableArguments {
    @Option(help: ArgumentHelp("Worker threads; one a physical core when not given.", valueName: "count"))
    public var threads: Int?

    public init() {}

    public func validate() throws {
        try require((1...256).contains(threads ?? 1), "--threads is 1 to 256, not \(threads ?? 0)")
    }

    /// The same as changes to a config.
    var settings: [String] { threads.map { ["threads=\($0)"] } ?? [] }
}

/// Device and number format.
public struct ComputeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("Where to compute: cpu, cuda, cuda:N; auto is cuda where there is one.", valueName: "device")
    )
    public var device: String = "auto"

    @Option(help: "Number format of weights and activations; auto is bf16 where the device is fast with it, else fp32.")
    public var dtype: ComputeType = .auto

    public init() {}

    public func validate() throws {
        let parts = device.split(separator: ":", omittingEmptySubsequences: false)
        let index = parts.count == 2 ? UInt8(parts[1]) : 0
        guard ["auto", "cpu"].contains(device) || (parts[0] == "cuda" && parts.count <= 2 && index != nil) else {
            throw ValidationError("unknown device '\(device)'; use auto, cpu, cuda or cuda:N")
        }
    }
}

/// What becomes of the weights of a GGUF file.
public enum WeightForm: String, CaseIterable, ExpressibleByArgument, Sendable {
    case converted
    case asIs = "as-is"
}

/// Number format of a computation.
public enum ComputeType: String, CaseIterable, ExpressibleByArgument, Sendable { case auto, fp32, bf16 }

/// Number format of written weights.
public enum StorageType: String, CaseIterable, ExpressibleByArgument, Sendable { case fp32, bf16, fp16 }

/// How the next token is drawn.
public struct SamplingOptions: ParsableArguments {
    @Option(help: "Divides the logits before drawing; 0 always takes the likeliest token.")
    public var temperature: Double = 0.7

    @Option(help: "Draw among this many likeliest tokens; 0: all.")
    public var topK: Int = 0

    @Option(help: "Draw among the fewest tokens that hold this share of probability.")
    public var topP: Double = 1

    @Option(help: "Leave out tokens less likely than this share of the likeliest one's probability.")
    public var minP: Double = 0

    @Option(help: "Divides (or multiplies, below 0) the logits of tokens that stand in the text already; 1: off.")
    public var repetitionPenalty: Double = 1

    @Option(help: ArgumentHelp("Text that ends the answer; may be given more than once.", valueName: "text"))
    public var stop: [String] = []

    @Option(help: "Seed of the random draws; the same seed gives the same answer.")
    public var seed: UInt64 = 0

    @Option(help: ArgumentHelp("Longest answer, in tokens.", valueName: "tokens"))
    public var maxNewTokens: Int = 256

    public init() {}

    public func validate() throws {
        try requireDrawing(temperature: temperature, topP: topP)
        try require(topK >= 0, "--top-k is 0 or more, not \(topK)")
        try require(minP >= 0 && minP < 1, "--min-p is at least 0 and below 1, not \(minP)")
        try require(
            repetitionPenalty > 0 && repetitionPenalty.isFinite,
            "--repetition-penalty is above 0, not \(repetitionPenalty)")
        try require(maxNewTokens > 0, "--max-new-tokens is 1 or more, not \(maxNewTokens)")
        try require(!stop.contains(""), "--stop is empty; leave it out to stop at the end token only")
    }
}

/// Throws unless tokens can be drawn so.
func requireDrawing(temperature: Double, topP: Double) throws {
    try require(temperature >= 0 && temperature.isFinite, "--temperature is 0 or more, not \(temperature)")
    try require(topP > 0 && topP <= 1, "--top-p is above 0 and at most 1, not \(topP)")
}

/// Throws the message as a usage error unless the condition holds.
func require(_ condition: Bool, _ message: String) throws {
    if !condition { throw ValidationError(message) }
}

/// Throws unless every word is `key=value`, the form of a change to a config.
func requireOverrides(_ words: [String]) throws {
    for word in words where !word.dropFirst().contains("=") {
        throw ValidationError("'\(word)' is not of the form key=value (for example optimizer.learning_rate=1e-4)")
    }
}
