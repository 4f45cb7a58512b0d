// A family in a run folder: what it writes, what it keeps, and that a run ended anywhere goes on to the same end.
import Diagnostics
import Evolution
import Formats
import Glibc
import Merging
import RunLog
import Testing

@Suite struct FamilyTests {
    @Test func childrenAreTheMergesOfTheirParents() throws {
        let nursery = try Nursery(), calls = Calls(), family = try nursery.family("run", calls)
        try nursery.run(family)
        let models = family.evolution.models
        #expect(models.count >= 8 && models.contains(where: \.isExploration))
        for child in models where child.generation > 0 {
            let parents = try child.parents.map { name in
                try Nursery.read(["a", "b", "c"].contains(name) ? nursery.path(name) : family.childFolder(name))
            }
            let values = try Nursery.read(family.childFolder(child.name))
            let worst = zip(values, zip(parents[0], parents[1])).map { abs($0 - ($1.0 + $1.1) / 2) }.max()!
            #expect(worst < 1e-7, "\(child.name)")
            // The recipe beside the child makes it again, byte for byte.
            let recipe = try MergeConfig.read(nursery.path("run/recipes/\(child.name).yaml"))[0]
            let again = nursery.path("again-\(child.name)")
            var options = MergeOptions()
            options.showsProgress = false
            try MergePlan(recipe, opened: MergeModels()).write(to: again, nil, options)
            let (one, other) = ("\(again)/model.safetensors", "\(family.childFolder(child.name))/model.safetensors")
            #expect(try readFile(one, maxBytes: 1 << 20) == readFile(other, maxBytes: 1 << 20))
        }
        #expect(calls.judged.sorted() == models.map(\.name).sorted(), "every model is judged once")
    }

    @Test func reportsNameEveryModel() throws {
        let nursery = try Nursery(), family = try nursery.family("run")
        try nursery.run(family)
        let names = family.evolution.models.map(\.name)
        let rows = try readTextFile(nursery.path("run/models.jsonl")).split(separator: "\n").map {
            try JSONValue.parse(Array($0.utf8))
        }
        #expect(rows.map { $0["name"]!.string! } == names)
        #expect(try nursery.table("run").count == names.count + 1)
        for row in rows where row["generation"]!.int! > 0 {
            #expect(row["parents"]!.array!.count == 2 && row["gain"]!.double != nil && row["kinship"]!.double != nil)
        }
        let kinship = try readJSONFile(nursery.path("run/kinship.json"))
        #expect(kinship["models"]!.array!.map { $0.string! } == names)
        #expect(kinship["pcc"]!.array!.count == names.count)
        let plots = try listFolder(nursery.path("run/plots"))
        for name in ["best-by-generation", "family-tree", "gain-and-kinship", "kinship", "kinship-and-score"] {
            #expect(plots.contains("\(name).svg"))
        }
        let tree = try readTextFile(nursery.path("run/plots/family-tree.svg"))
        for name in names { #expect(tree.contains(name)) }
    }

    /// v_pre, v_greedy and v_exp by numpy's definition, tensor by tensor, from the children's weights.
    @Test func weightChangesAreMeasuredFromTheBetterParent() throws {
        let nursery = try Nursery(), family = try nursery.family("run")
        try nursery.run(family)
        let models = family.evolution.models
        let explored = try #require(models.last { $0.isExploration })
        func values(_ name: String) throws -> [Double] {
            try Nursery.read(["a", "b", "c"].contains(name) ? nursery.path(name) : family.childFolder(name)).map(
                Double.init)
        }
        let parent = try #require(models.first { $0.name == explored.parents[0] })
        let greedy = try #require(
            models.filter {
                $0.generation == explored.generation && $0.name != explored.name && $0.parents.contains(parent.name)
            }.max { $0.average < $1.average })
        let origin = try values(parent.name)
        let steps =
            try [greedy.name, explored.name].map { zip(try values($0), origin).map { $0 - $1 } }
            + [zip(origin, try values(try #require(parent.parents.first))).map { $0 - $1 }]
        let lines = try readTextFile(nursery.path("run/weight-changes.csv")).split(separator: "\n").map {
            $0.split(separator: ",").map(String.init)
        }
        #expect(lines.count == Nursery.shapes.count + 1)
        var start = 0
        for (name, shape) in Nursery.shapes {
            let range = start..<start + shape.reduce(1, *)
            start = range.upperBound
            let row = try #require(lines.first { $0[0] == name })
            func dot(_ i: Int, _ j: Int) -> Double {
                zip(steps[i][range], steps[j][range]).reduce(0) { $0 + $1.0 * $1.1 }
            }
            for i in 0..<3 { #expect(abs(Double(row[3 + i])! - dot(i, i).squareRoot()) < 1e-12, "\(name) norm \(i)") }
            for (k, (i, j)) in [(0, 1), (0, 2), (1, 2)].enumerated() {
                let cosine = dot(i, j) / (dot(i, i) * dot(j, j)).squareRoot()
                #expect(abs(Double(row[6 + k])! - cosine) < 1e-9, "\(name) cosine \(i) \(j)")
            }
        }
    }

    @Test func topKRemovesWhatNoRuleCanAskFor() throws {
        let nursery = try Nursery(), all = try nursery.family("all"), some = try nursery.family("some", keepsAll: false)
        let end = try nursery.run(all)
        #expect(try nursery.run(some) == end)
        #expect(try nursery.table("some") == nursery.table("all"), "what is kept changes no score")
        let evolution = some.evolution, last = evolution.generations.count
        let gone = evolution.models.filter { !some.hasWeights($0) }
        #expect(!gone.isEmpty, "some child is dropped in a run of this length")
        for model in evolution.models where model.generation > 0 {
            let isTop = evolution.top.contains { $0.name == model.name }
            let mayBeMerged = isTop || model.generation >= last - 1
            #expect(some.hasWeights(model) || !mayBeMerged, "\(model.name)")
            #expect(fileExists(nursery.path("some/recipes/\(model.name).yaml")))
        }
        #expect(all.evolution.models.allSatisfy(all.hasWeights))
        let kinship = try readJSONFile(nursery.path("some/kinship.json"))
        #expect(kinship["models"]!.array!.count == evolution.models.count - gone.count)
    }

    /// Ended after every child in turn, with the half line and the half folder that a kill leaves.
    @Test(arguments: [true, false]) func aRunEndedAnywhereGoesOnToTheSameEnd(_ keepsAll: Bool) throws {
        let nursery = try Nursery(), whole = try nursery.family("whole", keepsAll: keepsAll)
        try nursery.run(whole)
        let children = whole.evolution.models.count { $0.generation > 0 }
        for lives in 0..<children {
            let calls = Calls(), name = "ended-\(lives)"
            let first = try nursery.family(name, calls, keepsAll: keepsAll, lives: lives)
            #expect(throws: Killed.self) { try nursery.run(first) }
            let journal = nursery.path("\(name)/journal.jsonl"), half = nursery.path("\(name)/models/9-9.partial-1")
            try appendHalfLine("{\"model\":\"9-9\",\"sco", to: journal)
            try createDirectories(half)
            let second = try nursery.family(name, calls, keepsAll: keepsAll)
            try nursery.run(second)
            #expect(try nursery.table(name) == nursery.table("whole"))
            #expect(Set(calls.judged).count == calls.judged.count, "nothing is judged twice: \(calls.judged)")
            #expect(!folderExists(half))
            #expect(
                try listFolder(nursery.path("\(name)/models")) == listFolder(nursery.path("whole/models")),
                "the same children are kept")
            #expect(
                try readTextFile(nursery.path("\(name)/kinship.json"))
                    == readTextFile(nursery.path("whole/kinship.json")))
        }
    }

    /// One line, and the way out works: without the line the run ends as it would have.
    @Test(arguments: [1, 5, 8]) func aDamagedJournalIsNamed(_ number: Int) throws {
        let nursery = try Nursery(), whole = try nursery.family("whole")
        try nursery.run(whole)
        let first = try nursery.family("run", lives: 4)
        #expect(throws: Killed.self) { try nursery.run(first) }
        let path = nursery.path("run/journal.jsonl")
        var lines = try readTextFile(path).split(separator: "\n").map(String.init)
        for damage in [
            String(lines[number - 1].dropLast(4)), "{\"model\":\"1-1\",\"scores\":[1,2],\"seconds\":1}", "{}",
        ] {
            lines[number - 1] = damage
            try writeFileAtomically(lines.joined(separator: "\n") + "\n", to: path)
            let error = #expect(throws: UserError.self) { _ = try nursery.family("run") }
            #expect(
                error?.exitStatus == .badData && error?.message.hasPrefix("\(path), line \(number): damaged; ") == true)
        }
        lines.remove(at: number - 1)
        try writeFileAtomically(lines.joined(separator: "\n") + "\n", to: path)
        try nursery.run(try nursery.family("run"))
        #expect(try nursery.table("run") == nursery.table("whole"))
    }

    /// Counted down by the work that may follow; the last child says nothing of what is left.
    @Test func progressSaysWhatMayFollow() throws {
        let nursery = try Nursery(), calls = Calls()
        var settings = EvolutionSettings()
        (settings.strategy, settings.maxGenerations, settings.earlyStop) = (.kinship, 1, nil)
        try nursery.run(try nursery.family("one", calls, settings))
        let lines = calls.log.filter { $0.hasPrefix("1-") }
        #expect(lines.count == 3)
        #expect(lines[0].contains(", at most 2 merges (") && lines[1].contains(", at most 1 merge ("))
        #expect(!lines[2].contains("left"), "\(lines[2])")
        let more = Calls()
        settings.maxGenerations = 3
        try nursery.run(try nursery.family("three", more, settings))
        // Generations 2 and 3 have at most three pairs of the best three and an exploration.
        #expect(more.log.first { $0.hasPrefix("1-1 ") }?.contains("at most 10 merges (") == true, "\(more.log)")
        #expect(more.log.first { $0.hasPrefix("1-3 ") }?.contains("at most 8 merges (") == true)
        #expect(more.log.first { $0.hasPrefix("2-exp ") }?.contains("at most 4 merges (") == true)
        #expect(more.log.last { $0.hasPrefix("3-") }?.contains("left") == false)
    }

    /// Mean over the tasks of |P_a - P_b| of the parents, from the scores in the same table.
    @Test func parentsDifferenceIsInTheTables() throws {
        let nursery = try Nursery(), family = try nursery.family("run")
        try nursery.run(family)
        let rows = try readTextFile(nursery.path("run/models.jsonl")).split(separator: "\n").map {
            try JSONValue.parse(Array($0.utf8))
        }
        func scores(_ name: String) throws -> [Double] {
            let row = try #require(rows.first { $0["name"]?.string == name })
            return ["a", "b", "c"].map { row["scores"]![$0]!.double! }
        }
        for row in rows {
            guard let parents = row["parents"]?.array, parents.count == 2 else {
                #expect(row["parents_atpd"]?.isNull == true)
                continue
            }
            let (a, b) = (try scores(parents[0].string!), try scores(parents[1].string!))
            let expected = (abs(a[0] - b[0]) + abs(a[1] - b[1]) + abs(a[2] - b[2])) / 3
            #expect(expected > 0 && abs(row["parents_atpd"]!.double! - expected) < 1e-12)
        }
        let table = try nursery.table("run").map { $0.split(separator: ",", omittingEmptySubsequences: false) }
        let column = try #require(table[0].firstIndex(of: "parents_atpd"))
        #expect(table.dropFirst().map { Double($0[column]) } == rows.map { $0["parents_atpd"]?.double })
        #expect(
            Family.gains(family.evolution.models).map(\.parentsDifference)
                == rows.compactMap { $0["parents_atpd"]?.double })
    }

    @Test func runsAreComparedByGeneration() throws {
        let nursery = try Nursery()
        for strategy in [EvolutionSettings.Strategy.greedy, .random] {
            var settings = EvolutionSettings()
            (settings.strategy, settings.maxGenerations, settings.earlyStop) = (strategy, 3, nil)
            try nursery.run(try nursery.family(strategy.rawValue, Calls(), settings))
        }
        let comparison = try RunComparison(folders: ["greedy", "random"].map(nursery.path))
        #expect(comparison.runs.map(\.name) == ["greedy", "random"])
        for run in comparison.runs {
            // The other table of the same run says the same of every generation.
            let lines = try readTextFile(nursery.path("\(run.name)/generations.csv")).split(separator: "\n").dropFirst()
            let best = lines.map { Double($0.split(separator: ",", omittingEmptySubsequences: false)[3])! }
            #expect(Array(run.best.dropFirst()) == Array(best.prefix(run.best.count - 1)) && run.best.count >= 3)
        }
        #expect(
            comparison.runs[0].best[0] == comparison.runs[1].best[0]
                && comparison.runs[0].best != comparison.runs[1].best)
        #expect(comparison.table[0].hasPrefix("generation") && comparison.table.count == 5)
        let svg = comparison.chart.svg()
        #expect(
            svg.contains(">greedy</text>") && svg.contains(">random</text>")
                && svg.split(separator: "<polyline").count == 3)

        #expect(throws: UserError.self) { try RunComparison(folders: [nursery.path("a")]) }
        let path = nursery.path("random/models.jsonl"), rows = try readTextFile(path)
        try writeFileAtomically(rows.replacing("\"c\":", with: "\"d\":"), to: path)
        let other = #expect(throws: UserError.self) {
            try RunComparison(folders: ["greedy", "random"].map(nursery.path))
        }
        #expect(other?.message.contains("was judged on a, b, d, ") == true)
        try writeFileAtomically(rows + "{}\n", to: path)
        let damaged = #expect(throws: UserError.self) { try RunComparison(folders: [nursery.path("random")]) }
        #expect(damaged?.message.hasPrefix("\(path), line ") == true)
    }

    /// Folders that were taken away while the run was down are merged again, parents first.
    @Test func aMissingFolderIsMadeAgain() throws {
        let nursery = try Nursery(), whole = try nursery.family("whole")
        try nursery.run(whole)
        let first = try nursery.family("run", lives: 4)
        #expect(throws: Killed.self) { try nursery.run(first) }
        try removeTree(nursery.path("run/models"))
        let second = try nursery.family("run")
        try nursery.run(second)
        #expect(try nursery.table("run") == nursery.table("whole"))
    }

    @Test func aScoreThatIsNoNumberEndsTheRun() throws {
        let nursery = try Nursery()
        let family = try Family(
            folder: nursery.path("run"), foundations: ["a", "b"].map(nursery.path),
            base: MergeModelReference(nursery.path("base")), tasks: ["t"],
            merge: PairMerge(method: "slerp", parameters: [:], base: MergeModelReference(nursery.path("base"))),
            metric: .pcc, settings: EvolutionSettings(), keepsAll: true, log: { _ in }, pause: {}
        ) { $0.path.hasSuffix("a") ? [1] : [.nan] }
        #expect(throws: UserError("b: a score is not a number: t nan")) { try nursery.run(family) }
    }
}

@Suite struct PairMergeTests {
    private let base = MergeModelReference("base"), a = MergeModelReference("a"), b = MergeModelReference("b")

    @Test(arguments: [
        ("slerp", "a"), ("nearswap", "a"), ("arcee_fusion", "a"), ("task_arithmetic", "base"),
        ("ties", "base"), ("linear", nil), ("karcher", nil),
    ])
    func theBaseFollowsFromTheMethod(_ method: String, _ expected: String?) throws {
        let config = try PairMerge(method: method, parameters: [:], base: base).config(better: a, other: b)
        #expect(config.base?.path == expected)
        #expect(config.models.prefix(2) == [a, b] && config.method.rawValue == method)
    }

    @Test func parametersAreReadAsInAMergeFile() throws {
        let merge = try PairMerge(method: "slerp", parameters: ["t": "[0, 0.5, 1]"], base: base)
        #expect(
            merge.config(better: a, other: b).parameters == ["t": .gradient([.number(0), .number(0.5), .number(1)])])
        let middle = try PairMerge(method: "slerp", parameters: [:], base: base).config(better: a, other: b)
        #expect(middle.parameters == ["t": .number(0.5)])
    }

    @Test(
        arguments: [
            ("slrp", [:], "did you mean slerp?"), ("passthrough", [:], "no method passthrough for two models"),
            ("ties", ["densty": "0.5"], "densty"),
        ] as [(String, [String: String], String)])
    func whatDoesNotExistIsRefused(_ method: String, _ parameters: [String: String], _ message: String) {
        do {
            _ = try PairMerge(method: method, parameters: parameters, base: base)
            Issue.record("accepted")
        } catch let error as UserError {
            #expect(error.exitStatus == .usage && error.message.contains(message), "\(error.message)")
        } catch {
            Issue.record("\(error)")
        }
    }
}
