// What a genotype stands for, and the search over merge parameters: resuming, the best merge, merges without a number.
import Diagnostics
import Evolution
import Formats
import Merging
import RunLog
import Testing

private let references = ["a", "b"].map { MergeModelReference($0) }, ancestor = MergeModelReference("base")

private func searched(_ method: String, _ change: (inout Genome.Options) -> Void = { _ in }) throws -> Genome {
    var options = Genome.Options()
    change(&options)
    return try Genome(method: method, models: references, base: ancestor, layers: 4, options)
}

/// Parameters of the sources of `.models`.
private func settings(_ config: MergeConfig) -> [MergeParameters] {
    guard case .models(let sources) = config.layout else { return [] }
    return sources.map(\.parameters)
}

@Suite struct GenomeTests {
    @Test func oneGroupIsWholeModels() throws {
        let genome = try searched("ties")
        #expect(genome.count == 4 && genome.start() == [0.5, 1, 0.5, 1])
        let config = genome.config([-0.25, 1.5, 0.75, -0.5])
        #expect(
            settings(config) == [
                ["weight": .number(0.25), "density": .number(1)],
                ["weight": .number(0.75), "density": .number(0.5)],
            ])
        #expect(config.base == ancestor && config.parameters == ["normalize": .value(.flag(true))])
        let signed = try searched("task_arithmetic") { $0.allowsNegativeWeights = true }
        #expect(settings(signed.config([-0.25, 2])) == [["weight": .number(-0.25)], ["weight": .number(2)]])
        #expect(signed.config([1, 1]).parameters == ["normalize": .value(.flag(false))])
        #expect(try searched("linear").config([1, 1]).base == nil)
    }

    @Test func groupsAreSlicesOrGradients() throws {
        let stepped = try searched("task_arithmetic") { $0.layerGranularity = 2 }
        #expect(stepped.count == 4)
        // [groups, models]: group 0 has 0.1 and 0.2.
        guard case .slices(let slices) = stepped.config([0.1, 0.2, 0.3, 0.4]).layout else {
            Issue.record("no slices")
            return
        }
        #expect(slices.map { $0.sources.map(\.layers) } == [[0..<2, 0..<2, 0..<2], [2..<4, 2..<4, 2..<4]])
        #expect(slices.map { $0.sources.map(\.model.path) } == [["a", "b", "base"], ["a", "b", "base"]])
        #expect(slices[1].sources.prefix(2).map(\.parameters) == [["weight": .number(0.3)], ["weight": .number(0.4)]])
        let smooth = try searched("task_arithmetic") { ($0.layerGranularity, $0.smooth) = (2, true) }
        #expect(
            settings(smooth.config([0.1, 0.2, 0.3, 0.4])) == [
                ["weight": .gradient([.number(0.1), .number(0.3)])],
                ["weight": .gradient([.number(0.2), .number(0.4)])],
            ])
    }

    @Test func filtersHaveSetsOfTheirOwn() throws {
        let genome = try searched("linear") { $0.filters = ["mlp", "self_attn"] }
        #expect(genome.count == 6)
        #expect(
            settings(genome.config([1, 2, 3, 4, 5, 6]))[1] == [
                "weight": .filtered([.init("mlp", .number(4)), .init("self_attn", .number(5)), .init(nil, .number(6))])
            ])
    }

    @Test func slerpTakesTheTwoHighest() throws {
        let three = try Genome(
            method: "slerp", models: ["a", "b", "c"].map { MergeModelReference($0) }, base: ancestor, layers: 4)
        guard case .slices(let slices) = three.config([0.1, 0.9, 0.4]).layout else {
            Issue.record("no slices")
            return
        }
        #expect(slices.count == 1 && slices[0].sources.map(\.model.path) == ["b", "c"] && slices[0].base?.path == "b")
        // softmax(0.9, 0.4)[1] = 1 / (1 + e^0.5)
        guard case .value(.number(let t)) = slices[0].parameters["t"] else {
            Issue.record("no t")
            return
        }
        #expect(abs(t - 0.3775406687981454) < 1e-15)
    }

    @Test(arguments: [
        ("slrp", 0, false, "cannot be searched"), ("ties", 3, false, "does not divide"),
        ("slerp", 0, true, "no place in slerp"),
    ])
    func whatCannotBeSearchedIsRefused(_ method: String, _ step: Int, _ hasFilter: Bool, _ message: String) {
        do {
            _ = try searched(method) { ($0.layerGranularity, $0.filters) = (step, hasFilter ? ["mlp"] : []) }
            Issue.record("accepted")
        } catch let error as UserError {
            #expect(error.exitStatus == .usage && error.message.contains(message), "\(error.message)")
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test func randomStartsDependOnTheSeed() throws {
        let genome = try searched("ties")
        #expect(genome.start(randomSeed: 1) == genome.start(randomSeed: 1))
        #expect(genome.start(randomSeed: 1) != genome.start(randomSeed: 2))
        #expect(genome.start(randomSeed: 1).allSatisfy { (0..<1).contains($0) })
    }
}

@Suite struct ParameterSearchTests {
    /// Worth most at weights 0.8 and 0.1.
    private static func score(_ config: MergeConfig) -> [Double] {
        let weights = settings(config).map { parameters -> Double in
            guard case .value(.number(let weight)) = parameters["weight"] else { return .nan }
            return weight
        }
        return [100 - 100 * abs(weights[0] - 0.8), 50 - 100 * (weights[1] - 0.1) * (weights[1] - 0.1)]
    }

    private func search(
        _ folder: String, lives: Int? = nil, judged: @escaping (Int) -> Void = { _ in },
        judge: @escaping (MergeConfig) -> [Double] = score
    ) throws -> ParameterSearch {
        var count = 0
        return try ParameterSearch(
            folder: folder, genome: searched("task_arithmetic"), tasks: [("one", 1), ("two", 0.5)], log: { _ in },
            pause: {
                count += 1
                judged(count)
                if let lives, count > lives { throw Killed() }
            }, judge: judge)
    }

    private func run(_ search: ParameterSearch, budget: Int = 60) throws -> Bool {
        try search.run(start: search.genome.start(), sigma: 1.0 / 6, seed: 3, budget: budget, deadline: nil)
    }

    @Test func findsTheBestAndKeepsItAsAFile() throws {
        let nursery = try Nursery(), search = try search(nursery.folder)
        #expect(try run(search))
        let best = try #require(search.best)
        #expect(best.trial.objective > 120 && search.trials[0].objective < 90, "\(best.trial)")
        #expect(best.trial.objective == search.trials.map(\.objective).max()!)
        #expect(try MergeConfig.read(nursery.path("best.yaml")) == [best.config])
        #expect(Self.score(best.config) == best.trial.scores)
        // A generation of 4 + ⌊3 ln 2⌋ = 6 that is begun is finished.
        #expect(search.trials.count == 1 + 6 * 10)
        #expect(search.csv().split(separator: "\n").count == 62)
    }

    @Test(arguments: [1, 6, 7, 30]) func aSearchEndedAnywhereGoesOnToTheSameEnd(_ lives: Int) throws {
        let nursery = try Nursery()
        for name in ["whole", "ended"] { try createDirectories(nursery.path(name)) }
        let undisturbed = try search(nursery.path("whole"))
        #expect(try run(undisturbed))
        let first = try search(nursery.path("ended"), lives: lives)
        #expect(throws: Killed.self) { _ = try run(first) }
        try appendHalfLine("{\"index\":", to: nursery.path("ended/journal.jsonl"))
        var judged = 0
        let second = try search(nursery.path("ended"), judged: { judged = $0 })
        #expect(try run(second))
        #expect(judged == undisturbed.trials.count - lives - 1, "what the journal has is not judged again")
        #expect(second.trials.map(\.objective) == undisturbed.trials.map(\.objective))
        #expect(try readTextFile(nursery.path("ended/best.yaml")) == readTextFile(nursery.path("whole/best.yaml")))
        // A larger budget goes on from the same journal.
        let longer = try search(nursery.path("ended"))
        #expect(try run(longer, budget: 70))
        #expect(
            longer.trials.count == 73 && longer.trials.prefix(61).map(\.objective) == second.trials.map(\.objective))
    }

    @Test func mergesWithoutANumberAreWorst() throws {
        let nursery = try Nursery()
        func halfBlind(_ config: MergeConfig) -> [Double] {
            let scores = Self.score(config)
            return scores[0] > 75 ? scores : [.nan, scores[1]]  // the start has no number
        }
        let search = try search(nursery.folder, judge: halfBlind)
        #expect(try run(search))
        #expect(!search.trials[0].objective.isFinite)
        #expect(try #require(search.best).trial.objective > 115)
        #expect(!search.chart().svg().contains("nan"))
        let again = try self.search(nursery.folder, judge: { _ in [0, 0] })
        #expect(try run(again))
        #expect(again.best?.trial.objective == search.best?.trial.objective, "NaN comes back from the journal")
    }

    @Test func timeOverEndsTheSearch() throws {
        let nursery = try Nursery(), search = try search(nursery.folder)
        let inTime = try search.run(
            start: search.genome.start(), sigma: 0.1, seed: 0, budget: 60, deadline: .now - .seconds(1))
        #expect(!inTime && search.trials.count == 1)
    }
}
