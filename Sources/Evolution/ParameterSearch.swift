// CMA-ES over merge parameters in a run folder: every value is in a journal, the best merge in best.yaml.
internal import Diagnostics
internal import Formats
public import Merging
public import RunLog

/// The search. The objective that is maximised is Σ weight · score over the tasks.
///
///     journal.jsonl   one row a merge: index, scores, objective
///     best.yaml       the best merge so far as a mergekit file, rewritten at every improvement
public final class ParameterSearch {
    public struct Trial: Sendable {
        public let index: Int
        public let scores: [Double]
        public let objective: Double
        public let seconds: Double
    }

    public let folder: String
    public let genome: Genome
    public private(set) var trials: [Trial] = []
    public private(set) var best: (trial: Trial, config: MergeConfig)?
    private let tasks: [(name: String, weight: Double)]
    private let journal: Journal
    private let log: (String) -> Void
    private let pause: () throws -> Void
    private let judge: (MergeConfig) throws -> [Double]
    private var earlier: [Int: Trial] = [:]

    /// - Parameters:
    ///   - judge: scores of a merge, by task, merged in memory.
    ///   - pause: called after each merge; what it throws ends the run.
    public init(
        folder: String, genome: Genome, tasks: [(name: String, weight: Double)], log: @escaping (String) -> Void,
        pause: @escaping () throws -> Void, judge: @escaping (MergeConfig) throws -> [Double]
    ) throws {
        (self.folder, self.genome, self.tasks) = (folder, genome, tasks)
        (self.log, self.pause, self.judge) = (log, pause, judge)
        var known: [(index: Int, scores: [Double], seconds: Double)] = []
        journal = try Journal(joinPath(folder, "journal.jsonl")) { row in
            guard let index = row["index"]?.int, let scores = row["scores"]?.array, scores.count == tasks.count,
                let seconds = row["seconds"]?.double
            else { return false }
            known.append((index, scores.map { $0.double ?? .nan }, seconds))
            return true
        }
        for (index, scores, seconds) in known {
            earlier[index] = Trial(index: index, scores: scores, objective: objective(scores), seconds: seconds)
        }
        if !earlier.isEmpty { log("going on with \(counted(earlier.count, "merge")) judged already") }
    }

    private func objective(_ scores: [Double]) -> Double { zip(tasks, scores).reduce(0) { $0 + $1.0.weight * $1.1 } }

    /// Runs until the budget is spent; a generation that is begun is finished.
    ///
    /// - Parameter budget: merges; the first is the start, equal weights.
    /// - Returns: false when the time was over first.
    public func run(start: [Double], sigma: Double, seed: UInt64, budget: Int, deadline: ContinuousClock.Instant?)
        throws -> Bool
    {
        var search = CMAES(start: start, sigma: sigma, seed: seed)
        _ = try trial(start, budget)
        while trials.count < budget {
            if let deadline, deadline < .now { return false }
            let candidates = search.ask()
            search.tell(try candidates.map { -(try trial($0, budget).objective) })
        }
        return true
    }

    private func trial(_ x: [Double], _ budget: Int) throws -> Trial {
        let config = genome.config(x), index = trials.count
        let done = try earlier[index] ?? judged(config, index)
        trials.append(done)
        if done.objective > best?.trial.objective ?? -.infinity {
            best = (done, config)
            try writeFileAtomically(config.yaml, to: joinPath(folder, "best.yaml"))
        }
        if earlier[index] == nil { report(done, budget) }
        return done
    }

    private func judged(_ config: MergeConfig, _ index: Int) throws -> Trial {
        let began = ContinuousClock.now
        // A merge that has no number is worth nothing to the search, and CMA-ES ranks it last.
        let scores = try judge(config)
        let trial = Trial(
            index: index, scores: scores, objective: objective(scores), seconds: began.duration(to: .now) / .seconds(1))
        try journal.append([
            "index": .init(index), "scores": .array(scores.map { .init($0) }), "objective": .init(trial.objective),
            "seconds": .init(trial.seconds),
        ])
        try pause()
        return trial
    }

    private func report(_ trial: Trial, _ budget: Int) {
        let mean = trials.map(\.seconds).reduce(0, +) / Double(trials.count)
        let left = mean * Double(max(0, budget - trials.count))
        let scores = zip(tasks, trial.scores).map { "\($0.name) \(decimals($1, 2))" }.joined(separator: "  ")
        log(
            "merge \(trials.count)/\(budget)  \(scores)  objective \(decimals(trial.objective, 3))  best "
                + "\(best.map { decimals($0.trial.objective, 3) } ?? "none")  \(duration(seconds: left)) left")
    }

    /// Best objective so far against merges judged; a merge without a number is left out.
    public func chart() -> LineChart {
        let trials = trials.filter(\.objective.isFinite)
        var best = -Double.infinity
        let running = trials.map { trial -> (x: Double, y: Double) in
            best = max(best, trial.objective)
            return (Double(trial.index + 1), best)
        }
        return LineChart(
            title: "Search over merge parameters (\(genome.method.rawValue))", xLabel: "merges judged",
            yLabel: "objective",
            series: [
                .init(name: "best so far", points: running, color: 0),
                .init(
                    name: "each", points: trials.map { (Double($0.index + 1), $0.objective) }, style: .scatter, color: 1
                ),
            ])
    }

    /// One row a merge.
    public func csv() -> String {
        csvLine(["merge"] + tasks.map(\.name) + ["objective", "seconds"])
            + trials.map { trial in
                csvLine(
                    ["\(trial.index + 1)"] + trial.scores.map { "\($0)" } + ["\(trial.objective)", "\(trial.seconds)"])
            }.joined()
    }
}
