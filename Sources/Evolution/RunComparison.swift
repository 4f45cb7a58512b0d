// Several runs of iterated merging side by side: the best score by generation, as curves and as a table.
internal import Diagnostics
internal import Formats
internal import Merging
public import RunLog

/// The best average scores of finished or running families, by generation.
public struct RunComparison: Sendable {
    public struct Run: Sendable, Equatable {
        /// The last part of the folder's path, more of it where two are alike.
        public let name: String
        /// Best so far after each generation; the first is the best foundation.
        public let best: [Double]
    }

    public private(set) var runs: [Run] = []

    /// - Parameter folders: run folders of `evolve`.
    /// - Throws: `UserError` for a folder without `models.jsonl`, a damaged line, and runs that were judged on other tasks.
    public init(folders: [String]) throws {
        var first: (folder: String, tasks: [String])?
        for (name, folder) in zip(shortNames(folders), folders) {
            let (best, tasks) = try Self.read(folder)
            if let first, first.tasks != tasks {
                throw UserError(
                    "\(folder): was judged on \(tasks.joined(separator: ", ")), \(first.folder) on "
                        + "\(first.tasks.joined(separator: ", ")); such scores cannot be compared")
            }
            first = first ?? (folder, tasks)
            runs.append(Run(name: name, best: best))
        }
    }

    private static func read(_ folder: String) throws -> (best: [Double], tasks: [String]) {
        let path = joinPath(folder, Family.modelsName)
        guard fileExists(path) else {
            throw UserError("\(folder): has no \(Family.modelsName); name run folders of evolve with search: iterate")
        }
        var best: [Double] = [], tasks: [String] = []
        try forEachRow(of: path, remedy: "start the run again, which writes this file anew") { row in
            guard let generation = row["generation"]?.int, let average = row["average"]?.double,
                let scores = row["scores"]?.object, (best.count - 1...best.count).contains(generation), generation >= 0
            else { return false }
            if generation == best.count { best.append(best.last ?? -.infinity) }
            best[generation] = max(best[generation], average)
            tasks = scores.keys
            return true
        }
        guard !best.isEmpty else { throw UserError("\(path): empty; let the run judge its foundations first") }
        return (best, tasks)
    }

    /// A curve for each run.
    public var chart: LineChart {
        LineChart(
            title: "Best average score by generation", xLabel: "generation", yLabel: "average task score",
            series: runs.enumerated().map { i, run in
                .init(
                    name: run.name, points: run.best.enumerated().map { (Double($0.offset), $0.element) }, style: .dots,
                    color: i)
            })
    }

    /// A row for each generation, a column for each run.
    public var table: [String] {
        let generations = runs.map(\.best.count).max() ?? 0
        return aligned(
            [["generation"] + runs.map(\.name)]
                + (0..<generations).map { g in
                    ["\(g)"] + runs.map { g < $0.best.count ? decimals($0.best[g], 2) : "-" }
                })
    }
}
