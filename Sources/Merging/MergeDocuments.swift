// A file of several merges of which later ones use earlier ones' results.
internal import Diagnostics
internal import Formats

/// The configurations of one file in an order in which each comes after those it uses.
public struct MergeDocuments: Sendable {
    /// The last one makes what was asked for; the others make intermediate results.
    public let ordered: [MergeConfig]

    /// - Throws: `UserError` (65) for a name given twice, names that need each other in a circle, and when it is not clear
    ///   which document is the final one.
    public init(_ configs: [MergeConfig]) throws {
        var byName: [String: Int] = [:]
        for (i, config) in configs.enumerated() {
            guard let name = config.name else { continue }
            guard isPlainFileName(name) else {
                throw UserError("name: \(name) is not a plain name, which a folder gets")
            }
            guard byName.updateValue(i, forKey: name) == nil else {
                throw UserError("name: \(name) is given to two documents")
            }
        }
        let uses = configs.map { config in config.models.compactMap { byName[$0.path] } }
        let final = try Self.final(configs, uses)
        var order: [Int] = [], path: [Int] = []
        func visit(_ i: Int) throws {
            if order.contains(i) { return }
            if let start = path.firstIndex(of: i) {
                let circle = (path[start...] + [i]).map { configs[$0].name ?? "the unnamed document" }
                throw UserError("documents need each other in a circle: \(circle.joined(separator: " needs "))")
            }
            path.append(i)
            try uses[i].forEach(visit)
            path.removeLast()
            order.append(i)
        }
        // A document that nothing needs is made as well, as mergekit does.
        for i in configs.indices where i != final { try visit(i) }
        try visit(final)
        ordered = order.map { configs[$0] }
    }

    /// The unnamed document, else the only one that no other uses.
    private static func final(_ configs: [MergeConfig], _ uses: [[Int]]) throws -> Int {
        let unnamed = configs.indices.filter { configs[$0].name == nil }
        guard unnamed.count <= 1 else {
            throw UserError("\(counted(unnamed.count, "document")) without a name; name all but the final one")
        }
        if let final = unnamed.first { return final }
        let used = Set(uses.flatMap { $0 }), unused = configs.indices.filter { !used.contains($0) }
        if unused.count == 1 { return unused[0] }
        // In a circle every document is used; the walk from any of them finds it.
        guard !unused.isEmpty else { return 0 }
        let names = unused.compactMap { configs[$0].name }.joined(separator: ", ")
        throw UserError("which document is the final one is not clear (\(names)); leave it without a name")
    }

    /// Makes every document: intermediate ones in `intermediates`, the last at `path`.
    ///
    /// An intermediate result that is there already is used again when its fingerprint (configuration and inputs) is that
    /// of the document, and made anew otherwise.
    ///
    /// - Parameters:
    ///   - source: the text of a file with one document.
    ///   - report: told what is done, a line each.
    public func write(
        to path: String, intermediates: String, source: String? = nil, opened: MergeModels, _ options: MergeOptions,
        report: (String) -> Void
    ) throws {
        try refuseExisting(path)
        try prepare(in: intermediates)
        for config in ordered.dropLast() {
            let target = joinPath(intermediates, config.name!)
            let plan = try MergePlan(config, opened: opened)
            if try isFinished(plan, target) {
                report("\(target): used again, its configuration and inputs are unchanged")
            } else {
                try removeStale(target, report)
                try createDirectories(intermediates)
                try plan.write(to: target, nil, options)
                report("wrote \(target)")
            }
            opened.substitutes[config.name!] = target
        }
        let plan = try MergePlan(ordered[ordered.count - 1], opened: opened)
        plan.notes.forEach(report)
        try plan.write(to: path, ordered.count == 1 ? source : nil, options)
    }

    /// A name that is also a path here would be a riddle.
    private func prepare(in folder: String) throws {
        for config in ordered.dropLast() where pathExists(config.name!) {
            throw UserError("name: \(config.name!) is also a file or folder here; choose another name")
        }
    }

    private func isFinished(_ plan: MergePlan, _ folder: String) throws -> Bool {
        let record = joinPath(folder, MergePlan.recordName)
        guard fileExists(record), fileExists(joinPath(folder, "config.json")) else { return false }
        return try readJSONFile(record)["config_sha256"]?.string == plan.fingerprint
    }

    /// Removes an intermediate result of other settings; anything else at its place stays.
    private func removeStale(_ folder: String, _ report: (String) -> Void) throws {
        guard pathExists(folder) else { return }
        guard fileExists(joinPath(folder, MergePlan.recordName)) else {
            throw UserError(
                "\(folder): exists and is no result of a merge; remove it or name another --intermediates", .cannotWrite
            )
        }
        report("\(folder): made anew, its configuration or inputs have changed")
        try removeTree(folder)
    }
}
