// A study: models x data sets x correct or irrelevant responses, one example at a time, taken up where it stopped.
internal import Datasets
internal import Diagnostics
internal import Formats
internal import ModelFiles
internal import Models
internal import RunLog
public import Tensors
internal import Tokenizers

/// What is studied. Everything here decides the numbers of single examples; reports have options of their own.
public struct StudySettings: Sendable {
    public enum Irrelevant: Sendable, Equatable {
        /// Responses of other rows of the same set, by seed.
        case shuffle
        /// Row i's response of another file, one file a data set.
        case files([String])
    }

    public var models: [(name: String, path: String)]
    public var dataSets: [(name: String, path: String)]
    public var irrelevant: Irrelevant?
    /// Whether an irrelevant response may have the text of the correct one.
    public var allowsEqual = false
    public var template = PromptStyle.none
    public var projections: [Projection] = [.q, .k, .v, .o]
    public var maxLength = 1024
    public var limit = 500
    public var seed: UInt64 = 0
    public var savesSingularValues = false
    public var cosines = false
    /// Random weights instead of those that the models' folders would hold.
    public var isUntrained = false
    public var output: String
    public var device: Device = .cpu

    public init(models: [(name: String, path: String)], dataSets: [(name: String, path: String)], output: String) {
        (self.models, self.dataSets, self.output) = (models, dataSets, output)
    }
}

/// Rows of a data set with what stands in for their responses.
package struct StudyData {
    let name: String
    let rows: Rows
    let count: Int
    /// By row; nil where there is none. Empty without irrelevant responses.
    package let irrelevant: [String?]
    package let collisions: Int

    package init(_ settings: StudySettings, _ index: Int) throws {
        let (name, path) = settings.dataSets[index]
        self.name = name
        rows = try Rows(DataSource([path], name: "data \(name)"))
        count = min(rows.count, settings.limit)
        let data = rows
        let own: [String] = try (0..<(settings.irrelevant == nil ? 0 : count)).map { i in
            let row = try data[i]
            guard row.content.hasPrompt else {
                throw UserError("\(row.location): --irrelevant needs rows with a prompt; this is a document")
            }
            return row.content.response
        }
        switch settings.irrelevant {
        case nil: (irrelevant, collisions) = ([], 0)
        case .shuffle:
            let pairing = IrrelevantPairing(responses: own, seed: settings.seed, forbidsEqual: !settings.allowsEqual)
            (irrelevant, collisions) = (pairing.partners.map { $0.map { own[$0] } }, pairing.collisions)
        case .files(let files):
            let others = try Rows(DataSource([files[index]], name: "irrelevant \(name)"))
            guard others.count >= count else {
                throw UserError(
                    "\(files[index]): \(counted(others.count, "row")), but \(path) has \(count) to be paired with them")
            }
            let given = try (0..<count).map { try others[$0].content.response }
            let equal = zip(given, own).map { $0.utf8.elementsEqual($1.utf8) }
            collisions = equal.count { $0 }
            irrelevant = zip(given, equal).map { $1 && !settings.allowsEqual ? nil : $0 }
        }
    }

    var pairings: [Pairing] { irrelevant.isEmpty ? [.correct] : [.correct, .irrelevant] }
}

/// Runs a study and keeps its examples in a folder.
public struct GradientStudy {
    public let settings: StudySettings
    let data: [StudyData]
    private let references: [ModelReference]
    private let file: ExampleFile
    private let lock: RunLock

    /// Checks everything that is cheap, and takes up the folder or makes it.
    ///
    /// - Throws: `UserError` for files, rows and settings; for a folder made with other settings, with the differences.
    public init(_ settings: StudySettings) throws {
        self.settings = settings
        data = try settings.dataSets.indices.map { try StudyData(settings, $0) }
        references = try settings.models.map { try ModelReference($0.path) { ProgressLine.print($0) } }
        let identity = try Self.identity(settings, references)
        try createDirectories(settings.output)
        lock = try RunLock(folder: settings.output)
        try Self.settle(identity, in: settings.output)
        file = try ExampleFile(folder: settings.output)
    }

    static let settingsName = "settings.json"

    /// Examples of the whole study.
    public var exampleCount: Int { settings.models.count * data.reduce(0) { $0 + $1.count * $1.pairings.count } }

    /// Computes the examples that are missing.
    ///
    /// - Returns: false when a signal asked to stop before the end.
    public func run() throws -> Bool {
        var left = TimeLeft(), done = file.done.count
        let total = exampleCount
        if done > 0 { ProgressLine.print("going on after \(grouped(done)) of \(counted(total, "example"))") }
        defer { ProgressLine.finish() }
        for (index, model) in settings.models.enumerated() {
            let missing = missing(model.name)
            if missing.isEmpty { continue }
            let runner = try ModelRunner(settings, references[index])
            for (set, key) in missing {
                if SignalFlags.stopRequested != nil { return false }
                let record = try runner.record(key, data[set])
                try file.append(record)
                done += 1
                let seconds = left.update(step: done, of: total).map { "  \(duration(seconds: $0)) left" } ?? ""
                ProgressLine.show(
                    "example \(grouped(done))/\(grouped(total))  \(model.name), \(key.style), \(key.pairing.rawValue)"
                        + "  \(byteSize(peakMemoryBytes()))\(seconds)", isLast: done == total)
            }
        }
        return true
    }

    private func missing(_ model: String) -> [(set: Int, key: ExampleKey)] {
        data.indices.flatMap { set in
            data[set].pairings.flatMap { pairing in
                (0..<data[set].count).compactMap { row in
                    let key = ExampleKey(model, data[set].name, pairing, row)
                    return file.done.contains(key) ? nil : (set, key)
                }
            }
        }
    }

    /// What has been computed, as a report.
    public func report(_ options: ReportOptions) throws -> StudyReport {
        try StudyReport(settings, data, file, options)
    }

    // MARK: identity

    private static func identity(_ settings: StudySettings, _ references: [ModelReference]) throws -> JSONObject {
        var identity = JSONObject()
        for (model, reference) in zip(settings.models, references) {
            var hash = try reference.baseHash()
            if let adapter = reference.adapterFolder {
                hash += " " + (try sha256(ofFile: joinPath(adapter, AdapterFiles.weightsName)))
            }
            hash += " " + sha256(ofBytes: try Tokenizer(modelPath: reference.tokenizerFolder).fingerprintBytes)
            identity["model \(model.name)"] = .string(hash)
        }
        for (name, path) in settings.dataSets {
            identity["data \(name)"] = .string(try DataFingerprint(DataSource([path])).sha256)
        }
        switch settings.irrelevant {
        case nil: identity["irrelevant"] = .null
        case .shuffle: identity["irrelevant"] = "shuffle"
        case .files(let files):
            identity["irrelevant"] = .array(try files.map { .string(try DataFingerprint(DataSource([$0])).sha256) })
        }
        identity["allow-equal"] = .init(settings.allowsEqual)
        identity["template"] = .string(settings.template.rawValue)
        identity["projections"] = .array(settings.projections.map { .string($0.rawValue) })
        identity["max-length"] = .init(settings.maxLength)
        identity["limit"] = .init(settings.limit)
        identity["seed"] = .string("\(settings.seed)")
        identity["save-singular-values"] = .init(settings.savesSingularValues)
        identity["cosines"] = .init(settings.cosines)
        identity["untrained"] = .init(settings.isUntrained)
        return identity
    }

    /// Writes the settings of a new folder, or holds them against those of an old one.
    private static func settle(_ identity: JSONObject, in folder: String) throws {
        let path = joinPath(folder, settingsName)
        guard fileExists(path) else {
            guard !fileExists(joinPath(folder, ExampleFile.name)) else {
                throw UserError(
                    "\(folder): has \(ExampleFile.name) but no \(settingsName); name another folder with --output")
            }
            return try writeFileAtomically(JSONValue.object(identity).serialized(.pretty) + "\n", to: path)
        }
        let old = try readJSONFile(path).object ?? JSONObject()
        let names = identity.keys + old.keys.filter { identity[$0] == nil }
        let different = names.filter { old[$0] != identity[$0] }
        guard different.isEmpty else {
            throw UserError(
                "\(folder): was made with another \(different.joined(separator: ", ")); name another folder with --output"
            )
        }
    }
}

/// One model with its probes.
private final class ModelRunner {
    private let settings: StudySettings
    private let loaded: LoadedModel
    private let capture: GradientCapture
    private let encoder: ResponseEncoder

    init(_ settings: StudySettings, _ reference: ModelReference) throws {
        self.settings = settings
        encoder = try ResponseEncoder(
            Tokenizer(modelPath: reference.tokenizerFolder), settings.template, maxLength: settings.maxLength)
        loaded = try LoadedModel(
            reference, dtype: .float32, device: settings.device, randomSeed: settings.isUntrained ? settings.seed : nil)
        capture = try GradientCapture(loaded.model, settings.projections, cosines: settings.cosines)
    }

    func record(_ key: ExampleKey, _ data: StudyData) throws -> JSONValue {
        let row = try data.rows[key.row], source = "\(row.location)"
        var response: String?
        if key.pairing == .irrelevant {
            guard let other = data.irrelevant[key.row] else {
                return ExampleRecord.skipped(key, source: source, .sameResponse)
            }
            response = other
        }
        guard let example = try encoder.encode(row, response: response) else {
            return ExampleRecord.skipped(key, source: source, .responseCut)
        }
        if let id = example.ids.first(where: { Int($0) >= loaded.model.vocabSize }) {
            throw UserError("\(source): token \(id) is beyond the model's \(loaded.model.vocabSize) rows")
        }
        let gradients = capture.gradients(example.ids, trained: example.trained)
        return ExampleRecord.line(
            key, source: source, tokens: example.ids.count, responseTokens: example.trained.count { $0 }, gradients,
            savesSingularValues: settings.savesSingularValues)
    }
}
