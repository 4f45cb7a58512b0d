// needletail-engine: the verbs that need tensors. `needletail` executes this program in its place.
import CommandLineInterface
import Diagnostics
import Tensors

Engine.prepareForTraining()
Program.main { command in
    if let threads = (command as? any ThreadedCommand)?.workers.threads { Engine.threads = threads }
    switch command {
    case let command as TrainCommand: try train(command)
    case let command as FinetuneCommand: try finetune(command)
    case let command as GenerateCommand: try generate(command)
    case let command as ChatCommand: try chat(command)
    case let command as EvalCommand: try evaluate(command)
    case let command as ScoreCommand: try score(command)
    case let command as EmbedCommand: try embed(command)
    case let command as DataCommand.Decontaminate: try decontaminate(command)
    case let command as ConvertCommand: try convert(command)
    case let command as MergeAdapterCommand: try mergeAdapter(command)
    case let command as ExportCommand: try export(command)
    case let command as QuantizeCommand: try quantize(command)
    case let command as MergeMoECommand: try mergeMoE(command)
    case let command as ExtractLoRACommand: try extractLoRA(command)
    case let command as EvolveRunCommand: try evolve(command)
    case let command as EvolvePlotCommand: try plotRuns(command)
    case let command as DemoCommand: try demo(command)
    case let command as GradientsCommand: try analyzeGradients(command)
    case let command as BenchGemmCommand: try benchGemm(command)
    case let command as BenchTrainCommand: try benchTrain(command)
    case let command as BenchGenerateCommand: try benchGenerate(command)
    case let command as RecipesCommand.Explain: try explain(command)
    case is DoctorCommand: try doctor()
    default: throw UserError("needletail-engine and needletail are of different versions; build both again", .internal)
    }
}
