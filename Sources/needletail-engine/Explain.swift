// recipes explain --time: the report with what some of the run's steps took.
import CommandLineInterface
import Diagnostics
import Recipes
import RunConfig
import RunLog
import Tensors

func explain(_ command: RecipesCommand.Explain) throws {
    try command.explain { config, operations in
        if let threads = config.threads { Engine.threads = threads }
        let time = try RunTime(config)
        let speed = "\(grouped(Int((Double(time.tokens) / time.seconds).rounded()))) tokens/s"
        return [
            (
                "time a step",
                "\(decimals(time.seconds / Double(time.steps), 2)) s, \(speed), measured in "
                    + "\(counted(time.steps, "step")) on \(counted(Engine.threads, "thread")); "
                    + "\(operationCount(operations / time.trainingSeconds)) a second"
            ),
            (
                "time in all",
                "about \(duration(seconds: time.trainingSeconds + time.judgingSeconds)): steps "
                    + "\(duration(seconds: time.trainingSeconds)), \(counted(time.judgements, "judgement")) "
                    + "\(duration(seconds: time.judgingSeconds)); loading and saving not counted"
            ),
            ("memory measured", "\(byteSize(time.peakMemoryBytes)) at its peak"),
        ]
    }
}
