// needletail merge moe
public import ArgumentParser
public import Merging

/// Makes a mixture of experts out of dense models.
public struct MergeMoECommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "moe",
        abstract: "Make a mixture of experts out of dense models.",
        discussion: """
            Reads mergekit-moe's YAML: base_model, experts with source_model and positive_prompts, gate_mode hidden, \
            hidden_avg, cheap_embed, random or uniform_random. `seed` names the random draws. What comes out follows \
            from the models, and from `architecture` where it is given:

              Mixtral       Llama and Mistral models
              DeepSeek MoE  the same, with shared_experts: one entry without prompts
              Qwen MoE      the same or Qwen2, with shared_experts: one with prompts
              Qwen3 MoE     Qwen3 models (without hidden gates)

            A shared expert sees every token; DeepSeek's has no gate, so prompts have nothing to say to it:

              base_model: ./base
              gate_mode: hidden
              experts:
                - {source_model: ./math, positive_prompts: ["What is 2 + 2?"]}
                - {source_model: ./chat, positive_prompts: ["How are you?"]}
              shared_experts:
                - {source_model: ./base}

            Example:
              needletail merge moe moe.yaml ./mixture
            """)

    @Argument(help: ArgumentHelp("A mergekit-moe configuration (YAML).", valueName: "config"), completion: .file())
    public var config: String

    @Argument(help: ArgumentHelp("The folder to write; must not exist.", valueName: "out"), completion: .directory)
    public var output: String

    @Option(
        help: "Experts as one matrix each (separate: transformers 4 and 5, others) or stacked (fused: transformers 5).")
    public var layout: ExpertLayout = .separate

    @Flag(help: "Make it although all experts are one model, to be trained afterwards.")
    public var allowEqualExperts = false

    @Option(help: ArgumentHelp("Most bytes of a shard: 20kB, 200MB, 5GB.", valueName: "size"))
    var shardSize: ByteCount = ByteCount(5_000_000_000)
    public var maxShardBytes: Int { shardSize.bytes }

    @Option(help: ArgumentHelp("Tensors written at once.", valueName: "count"))
    public var threads: Int = 2

    @OptionGroup public var compute: ComputeOptions

    public init() {}

    public func validate() throws {
        try require((1...256).contains(threads), "--threads is 1 to 256, not \(threads)")
    }
}

extension ExpertLayout: ExpressibleByArgument {}
