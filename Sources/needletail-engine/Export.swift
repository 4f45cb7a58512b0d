// export and quantize: models as GGUF files, and what writing them has changed.
import CommandLineInterface
import Diagnostics
import Formats
import Layers
import ModelFiles
import Models
import RunLog
import Tensors
import Tokenizers

func export(_ command: ExportCommand) throws {
    if fileExists(command.model) {
        throw UserError("\(command.model): a file; needletail quantize writes a GGUF file in another type", .usage)
    }
    try exportFolder(command.model, base: command.base, to: command.output, command.type.type, command.workers)
}

func quantize(_ command: QuantizeCommand) throws {
    let type = command.type.type
    guard fileExists(command.model) else {
        return try exportFolder(command.model, base: command.base, to: command.output, type, command.workers)
    }
    try ModelReference.refuse(command.base, command.model)
    try refuseExistingFile(command.output)
    let file = try GGUFFile(path: command.model)
    // Of an architecture that is not computed here the file can be written all the same.
    let source: GGUFModel?, reason: String
    do { (source, reason) = (try GGUFModel(path: command.model), "") } catch let error as UserError {
        (source, reason) = (nil, error.message)
    }
    if file.tensors.contains(where: { $0.type.block.elements > 1 }) {
        ProgressLine.print("note: \(command.model) is quantised already; what that has lost stays lost")
    }
    let before = try source.map { try ReferenceText($0.tokenizer, LoadedModel($0)) }
    let counts = try GGUFRequantization.write(
        file, to: command.output, type, threads: command.workers.count, progress: showProgress(command.output))
    report(command.output, counts, type)
    if let before { try compare(before, command.output) } else { ProgressLine.print("not compared: \(reason)") }
}

private func exportFolder(
    _ model: String, base: String?, to output: String, _ type: GGMLType, _ workers: ThreadOptions
) throws {
    try refuseExistingFile(output)
    let reference = try ModelReference(model, base: base) { ProgressLine.print($0) }
    let tokenizer = try Tokenizer(modelPath: reference.tokenizerFolder)
    let before: ReferenceText, counts: [(type: GGMLType, count: Int)]
    do {  // both models at once would take twice the memory
        let loaded = try LoadedModel(reference, dtype: .float32)
        let file = joinPath(reference.baseFolder, "config.json")
        let plan = try GGUFExport(config: loaded.config, file: file, tokenizer: tokenizer, name: modelName(model))
        for note in plan.notes { ProgressLine.print("note: \(note)") }
        before = try ReferenceText(tokenizer, loaded)
        let weights = loaded.floatsByName
        counts = try plan.write(
            to: output, type, threads: workers.count,
            values: { name in
                guard let floats = weights[name] else {
                    throw UserError("\(file): asks for a weight \(name) that the model does not have", .internal)
                }
                return floats()
            }, progress: showProgress(output))
    }
    report(output, counts, type)
    try compare(before, output)
}

/// The last part of a path, for `general.name`.
private func modelName(_ path: String) -> String {
    fileName(of: String(path.reversed().drop { $0 == "/" }.reversed()))
}

private func refuseExistingFile(_ path: String) throws {
    if fileExists(path) || folderExists(path) {
        throw UserError("\(path): exists already; remove it or name another file", .cannotWrite)
    }
}

private func showProgress(_ path: String) -> (Double) -> Void {
    var shown = -1
    return { share in
        let percent = Int(share * 100)
        if percent == shown { return }
        shown = percent
        ProgressLine.show("writing \(path): \(percent) %", isLast: percent == 100)
    }
}

private func report(_ path: String, _ counts: [(type: GGMLType, count: Int)], _ type: GGMLType) {
    let list = counts.map { "\(counted($0.count, "tensor")) in \($0.type.name)" }.joined(separator: ", ")
    ProgressLine.finish()
    ProgressLine.print("wrote \(path): \(list)")
    let others = counts.filter { $0.type != type && $0.type != .f32 }
    if type != .f32, !others.isEmpty {
        let names = others.map { "\($0.count) \($0.type.name)" }.joined(separator: ", ")
        ProgressLine.print(
            "not in \(type.name), because rows are not whole blocks of \(type.block.elements) or it is no matrix of weights: "
                + names)
    }
}

extension GGUFOutputType {
    var type: GGMLType {
        switch self {
        case .f32: .f32
        case .f16: .f16
        case .bf16: .bf16
        case .q8_0: .q8_0
        case .q4_0: .q4_0
        case .q4_k: .q4_K
        case .q5_k: .q5_K
        case .q6_k: .q6_K
        }
    }
}

extension ThreadOptions {
    var count: Int { threads ?? Engine.threads }
}

// MARK: Comparison

/// What a model and its tokenizer make of a text: its tokens, and the log-probabilities of all tokens after each.
private struct ReferenceText {
    let ids: [Int32]
    /// `[N, V]`
    let logProbabilities: Tensor

    /// Letters of several scripts, digits, blanks, signs and code: what pre-tokenizers treat differently.
    static let text = """
        The tide table said 4:37 a.m., so we left at 3:15 with two lamps (one broke) and 1,250 g of bread.  "How far?" \
        she'd asked. 'About 12 km,' I'd said\u{2014}perhaps 13.5.
        \tfor (int i = 0; i < n; ++i) { sum += x[i] * w[i]; }  // O(n)

        Caf\u{E9} \u{FC}ber na\u{EF}ve; \u{43F}\u{440}\u{438}\u{432}\u{435}\u{442}, \u{43C}\u{438}\u{440}! \u{4F60}\u{597D}\u{FF0C}\u{4E16}\u{754C}\u{3002} \u{1F985}\u{1F44D}\u{1F3FD} https://example.org/a?b=1&c=%20
        """

    /// - Throws: `UserError` when the text has tokens that the model has no row for.
    init(_ tokenizer: Tokenizer, _ loaded: LoadedModel) throws {
        let ids = Array(tokenizer.encode(Self.text).prefix(loaded.model.positionLimit ?? .max))
        self.ids = ids
        logProbabilities = withoutGradients {
            let plan = AttentionPlan(documentStarts: [0, ids.count])
            let hidden = loaded.model.hiddenStates(Tensor(ids.map(Int64.init)), plan, cache: nil)
            return loaded.model.logits(hidden).logSoftmax(dim: 1)
        }
    }

    /// The log-probability of each token after those before it, `[N - 1]`
    var ofNext: [Float] {
        let next = Tensor(ids.dropFirst().map(Int64.init)).reshape(ids.count - 1, 1)
        return logProbabilities.narrow(0, 0, ids.count - 1).gather(1, next).reshape(-1).values(Float.self)
    }
}

/// Opens the written file and says how far its model is from the one before.
///
/// - Throws: `UserError` when it cannot be read, has another tokenizer or computes what is no number; then it is removed.
private func compare(_ before: ReferenceText, _ path: String) throws {
    let after: ReferenceText, difference: LogProbabilityDifference
    do {
        let written = try GGUFModel(path: path)
        after = try ReferenceText(written.tokenizer, LoadedModel(written))
        guard after.ids == before.ids else {
            throw UserError(
                "\(path): its tokenizer makes other tokens of the reference text than the source's", .internal)
        }
        guard let found = LogProbabilityDifference(before.ofNext, after.ofNext) else {
            throw UserError(
                "\(path): not kept: a log-probability of the source or of the written model is not finite; look for weights "
                    + "that are not, or are too large")
        }
        difference = found
    } catch {
        try removeTree(path)
        throw error
    }
    let flips = zip(
        before.logProbabilities.argmax(dim: 1).values(Int64.self),
        after.logProbabilities.argmax(dim: 1).values(Int64.self)
    ).count { $0 != $1 }
    let largest = significant(Double(difference.largest), 3), mean = significant(Double(difference.mean), 3)
    try StandardOutput.write(
        "largest difference of a log-probability to the source \(largest), mean \(mean) (\(difference.count) tokens); "
            + "another likeliest token at \(flips) of \(before.ids.count)\n")
}
