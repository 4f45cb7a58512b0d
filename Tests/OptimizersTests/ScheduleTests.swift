// Learning-rate schedules against transformers (Tests/RecipesTests/Fixtures/make_goldens.py).
import Formats
import Optimizers
import TestSupport
import Testing

@Suite struct ScheduleTests {
    @Test func everyStepEqualsTransformers() throws {
        var compared = 0
        for golden in try trainingGoldens()["schedules"]!.array! {
            // Of transformers' three ways to decay, ours is the straight line of the paper.
            if let decay = golden["decay_type"]?.string, decay != "linear" { continue }
            let kind = golden["kind"]!.string!, steps = golden["steps"]!.int!, warmup = golden["warmup_steps"]!.int!
            let shape: Schedule.Shape =
                switch kind {
                case "linear": .linear
                case "cosine": .cosine
                case "warmup_stable_decay": .wsd
                default: .constant
                }
            let minRatio = golden["min_lr_ratio"]?.double ?? 0
            let schedule = Schedule(
                shape, peak: 2, steps: steps, warmupSteps: warmup, minRatio: minRatio,
                decayRatio: Double(golden["num_decay_steps"]?.int ?? 1) / Double(steps))
            let factors = golden["factors"]!.flatNumbers
            #expect(factors.count == steps)
            // With a floor, transformers' WSD begins its warm-up there; ours begins at 0 as the others do.
            for step in (minRatio > 0 ? warmup : 0)..<steps {
                #expect(abs(schedule(step) - 2 * factors[step]) < 1e-12, "\(kind) \(step)")
            }
            compared += 1
        }
        #expect(compared == 8)
    }

    @Test(arguments: Schedule.Shape.allCases) func warmUpIsALineFromZero(_ shape: Schedule.Shape) {
        let schedule = Schedule(shape, peak: 3, steps: 20, warmupSteps: 4, minRatio: 0.5)
        #expect((0...4).map { schedule($0) } == [0, 0.75, 1.5, 2.25, 3])
    }

    @Test(arguments: [Schedule.Shape.linear, .cosine, .wsd]) func theFloorIsReachedAndKept(_ shape: Schedule.Shape) {
        let schedule = Schedule(shape, peak: 1, steps: 10, minRatio: 0.25, decayRatio: 0.5)
        #expect(abs(schedule(10) - 0.25) < 1e-15 && abs(schedule(15) - 0.25) < 1e-15)
        for step in 0..<10 { #expect(schedule(step + 1) <= schedule(step) && schedule(step) > 0.25) }
    }

    /// Warm-up for the whole run, one step, decay over everything: no division by nothing.
    @Test func edgesAreFinite() {
        for shape in Schedule.Shape.allCases {
            for (steps, warmup) in [(1, 0), (1, 1), (5, 5), (5, 9)] {
                let schedule = Schedule(shape, peak: 1, steps: steps, warmupSteps: warmup, decayRatio: 1)
                for step in 0...steps { #expect(schedule(step).isFinite && schedule(step) >= 0 && schedule(step) <= 1) }
            }
        }
    }
}
