// needletail recipes explain
internal import ArgumentParser
internal import Datasets
internal import Diagnostics
internal import ModelFiles
internal import Glibc
internal import RecipeData
internal import RunConfig
internal import RunLog

extension RecipesCommand {
    /// What a config amounts to, before anything is trained.
    struct Explain: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "explain",
            abstract: "Say what a config amounts to: steps, tokens, memory, two rows as trained.",
            discussion: """
                Reads the rows and the headers of the model's files, not its weights. Tokens and steps are counted; \
                memory is an estimate by formula. How long it takes is not guessed: the first steps of a run tell.

                Example:
                  needletail recipes explain sft-lora data.train=chats.jsonl
                """)

        @Argument(
            help: ArgumentHelp("A YAML config, or the name of a recipe.", valueName: "config"), completion: .file())
        var config: String

        @Argument(help: ArgumentHelp("Changes to the config.", valueName: "key=value"))
        var overrides: [String] = []

        func run() throws {
            let config = try loadConfig(config, overrides: overrides).resolved()
            let outline = try SFTOutline(config)
            var report = DoctorReport()
            for (name, text) in Self.lines(config, outline) { report.add(name, text) }
            try StandardOutput.write(report.text + "\n")
            let style: InspectionStyle = isatty(STDOUT_FILENO) == 1 ? .ansi : .marks
            for row in try SFTOutline.preview(config, count: 2) { try StandardOutput.write(row.block(style)) }
        }

        private static func lines(_ config: SFTConfig, _ outline: SFTOutline) -> [(String, String)] {
            let data = outline.data, model = outline.model
            var lines = [
                ("model", "\(config.model.path), \(grouped(model.weights)) weights in \(model.layers) layers"),
                ("trained", trained(config, outline)),
                (
                    "rows",
                    "\(grouped(data.training.count)) with \(grouped(data.training.tokens)) tokens, "
                        + "\(grouped(data.training.trainedTokens)) trained; longest \(grouped(longest(data.training)))"
                ),
                (
                    "held out",
                    data.validation.isEmpty
                        ? "none, so no best checkpoint is chosen"
                        : "\(grouped(data.validation.count)) with \(grouped(data.validation.trainedTokens)) trained tokens"
                ),
            ]
            lines += data.warnings.map { ("note", $0) }
            lines += data.trainingStatistics.droppedByReason.map {
                ("left out", "\(grouped($0.count)) rows: \($0.reason.rawValue)")
            }
            if data.trainingStatistics.duplicates > 0 {
                lines.append(("left out", "\(grouped(data.trainingStatistics.duplicates)) exact duplicates"))
            }
            if data.trainingStatistics.rowsTruncated > 0 {
                lines.append(
                    (
                        "cut",
                        "\(grouped(data.trainingStatistics.rowsTruncated)) rows to \(grouped(config.data.maxLength)) tokens"
                    ))
            }
            lines += [
                ("steps", "\(grouped(outline.steps)) of \(grouped(config.training.batchRows)) rows"),
                ("tokens", "\(grouped(outline.tokens)) computed, \(grouped(outline.trainedTokens)) trained"),
                (
                    "learning rate",
                    "\(config.schedule.name.rawValue), peak \(significant(config.optimizer.learningRate ?? 0, 3))"
                ),
                ("largest micro-batch", "\(grouped(outline.largestMicroBatch)) tokens"),
            ]
            return lines + memory(config, outline) + [("output", config.output)]
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
        "--- \(location): \(grouped(ids.count)) tokens, \(grouped(example.trainedTokens)) trained\n\(marked(style))\n"
    }
}
