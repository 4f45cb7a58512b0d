// needletail recipes explain
public import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import ModelFiles
internal import Glibc
internal import RecipeData
public import RunConfig
internal import RunLog

extension RecipesCommand {
    /// What a config amounts to, before anything is trained.
    public struct Explain: EngineCommand {
        public static let configuration = CommandConfiguration(
            commandName: "explain",
            abstract: "Say what a config amounts to: steps, tokens, time, memory, two rows as trained.",
            discussion: """
                Reads the rows and the headers of the model's files, not its weights. Tokens and steps are counted; \
                operations and memory are estimates by formula. Time is measured: --time loads the model, makes some \
                of the run's own steps in memory, writes nothing of the run, and says how long all of it takes here.

                Example:
                  needletail recipes explain sft-lora data.train=chats.jsonl
                """)

        @Argument(
            help: ArgumentHelp("A YAML config, or the name of a recipe.", valueName: "config"), completion: .file())
        public var config: String

        @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
        public var overrides: [String] = []

        @Flag(help: "Measure how long the run takes; about half a minute, or as long as four of its steps.")
        public var time = false

        public init() {}

        public func check() throws { try requireOverrides(overrides) }

        /// The engine takes this program's place only to measure.
        public func run() throws {
            if time { try executeEngine() }
            try explain { _, _ in [("time", "--time measures it")] }
        }

        /// Writes the report.
        ///
        /// - Parameter measured: lines about time, given the resolved config and the operations of the whole run.
        public func explain(measured: (SFTConfig, Double) throws -> [(String, String)]) throws {
            let config = try loadConfig(config, overrides: overrides).resolved()
            let outline = try SFTOutline(config), measurements = try measured(config, outline.operations)
            var report = DoctorReport()
            for (name, text) in Self.lines(config, outline) + measurements + [("output", config.output)] {
                report.add(name, text)
            }
            try StandardOutput.write(report.text + "\n")
            let style: InspectionStyle = takesEscapeCodes(STDOUT_FILENO) ? .ansi : .marks
            for row in try SFTOutline.preview(config, count: 2) { try StandardOutput.write(row.block(style)) }
        }

        private static func lines(_ config: SFTConfig, _ outline: SFTOutline) -> [(String, String)] {
            let data = outline.data, model = outline.model
            var lines = [
                (
                    "model",
                    "\(config.model.path), \(counted(model.weights, "weight")) in \(counted(model.layers, "layer"))"
                ),
                ("trained", trained(config, outline)),
                (
                    "rows",
                    "\(grouped(data.training.count)) with \(counted(data.training.tokens, "token")), "
                        + "\(grouped(data.training.trainedTokens)) trained; longest \(grouped(longest(data.training)))"
                ),
                (
                    "held out",
                    data.validation.isEmpty
                        ? "none, so no best checkpoint is chosen"
                        : "\(grouped(data.validation.count)) with \(counted(data.validation.trainedTokens, "trained token"))"
                ),
            ]
            lines += data.warnings.map { ("note", $0) }
            lines += data.trainingStatistics.droppedByReason.map {
                ("left out", "\(counted($0.count, "row")): \($0.reason.rawValue)")
            }
            if data.trainingStatistics.duplicates > 0 {
                lines.append(("left out", counted(data.trainingStatistics.duplicates, "exact duplicate")))
            }
            if data.trainingStatistics.rowsTruncated > 0 {
                lines.append(
                    (
                        "cut",
                        "\(counted(data.trainingStatistics.rowsTruncated, "row")) to \(counted(config.data.maxLength, "token"))"
                    ))
            }
            lines += [
                ("steps", "\(grouped(outline.steps)) of \(counted(config.training.batchRows, "row"))"),
                ("tokens", "\(grouped(outline.tokens)) computed, \(grouped(outline.trainedTokens)) trained"),
                (
                    "learning rate",
                    "\(config.schedule.name.rawValue), peak \(significant(config.optimizer.learningRate ?? 0, 3))"
                ),
                ("largest micro-batch", counted(outline.largestMicroBatch, "token")),
            ]
            lines.append(
                (
                    "products",
                    "\(operationCount(outline.operations / Double(outline.steps))) a step, "
                        + "\(operationCount(outline.operations)) in all, by formula"
                ))
            return lines + memory(config, outline)
        }

        private static func trained(_ config: SFTConfig, _ outline: SFTOutline) -> String {
            let count = outline.memory(bytesPerNumber: 4).trainedWeights
            let share = decimals(100 * Double(count) / Double(outline.model.weights), 2)
            return config.adapter.method == .full
                ? "all of them"
                : "\(grouped(count)) (\(share) %): \(config.adapter.method.rawValue) of rank \(config.adapter.rank)"
        }

        /// One line for each number format that the run may take.
        private static func memory(_ config: SFTConfig, _ outline: SFTOutline) -> [(String, String)] {
            let formats = [("fp32", 4), ("bf16", 2)].filter {
                config.model.dtype == .auto || config.model.dtype.rawValue == $0.0
            }
            return formats.map { name, bytes in
                let memory = outline.memory(bytesPerNumber: bytes)
                return (
                    "memory in \(name)",
                    "about \(byteSize(memory.total)) by formula: weights \(byteSize(memory.weights)), trained state "
                        + "\(byteSize(memory.trainedState)), activations \(byteSize(memory.activations)), logits "
                        + "\(byteSize(memory.logits)), program \(byteSize(memory.program))"
                )
            }
        }

        private static func longest(_ rows: TokenizedDataset) -> Int { rows.indices.map(rows.length).max() ?? 0 }
    }
}

extension EncodedRow {
    /// A heading and the row's text with its trained part marked.
    func block(_ style: InspectionStyle) -> String {
        "--- \(location): \(counted(ids.count, "token")), \(grouped(example.trainedTokens)) trained\n\(marked(style))\n"
    }
}
