// Where a merge's tokenizer setting meets its plan: models by position, and token tables with their rows aligned.
internal import Diagnostics
internal import Formats

extension MergedVocabulary {
    /// The vocabulary that a configuration asks for; nil without a tokenizer setting.
    ///
    /// - Throws: `UserError` for models without a tokenizer or without `vocab_size`, and for references to models that take
    ///   no part in the merge.
    static func planned(
        _ config: MergeConfig, _ models: [MergeModel], warn: (String) -> Void
    ) throws -> MergedVocabulary? {
        guard let tokenizer = config.tokenizer else { return nil }
        func position(_ reference: MergeModelReference) throws -> Int {
            if let position = models.firstIndex(where: { $0.reference == reference }) { return position }
            throw UserError("tokenizer: \(reference) is none of the models that are merged")
        }
        func source(_ source: MergeTokenizer.TokenRow.Source) throws -> TokenizerSettings.RowSource {
            switch source {
            case .model(let reference): .model(try position(reference))
            case .token(let reference, let token): .token(token, model: try position(reference))
            case .tokenID(let reference, let id): .tokenID(id, model: try position(reference))
            case .zero: .zero
            }
        }
        let kind: TokenizerSettings.Source =
            switch tokenizer.source {
            case .union: .union
            case .base: .base
            case .model(let reference): .model(try position(reference))
            }
        let settings = TokenizerSettings(
            source: kind,
            tokens: try tokenizer.tokens.map {
                ($0.token, .init(source: try $0.row.source.map(source), force: $0.row.force))
            },
            padToMultipleOf: tokenizer.padToMultipleOf)
        return try MergedVocabulary(
            models: models.map { try $0.vocabulary() }, base: models.firstIndex { $0.reference == config.base },
            settings,
            warn: warn)
    }

    /// A token table of every model, rows in the order of the output; nil for models that have none.
    func tables(_ name: String, _ models: [MergeModel], warn: (String) -> Void = { _ in }) throws -> [(
        any TensorReader
    )?] {
        try aligned(
            try models.map { model in try model.table(name).map { try model.tensor($0) } }, name: name, warn: warn)
    }
}

extension MergeModel {
    fileprivate func vocabulary() throws -> VocabularyModel {
        guard let tokenizerFolder, let folder else {
            throw UserError("\(reference): a bare safetensors file has no tokenizer; leave the tokenizer setting out")
        }
        guard let size = (config?["vocab_size"] ?? config?["text_config"]?["vocab_size"])?.int else {
            throw UserError("\(joinPath(folder, "config.json")): no vocab_size")
        }
        // An adapter may bring rows for tokens of its own.
        let rows = try tensorNames.first(where: TensorName.isEmbedding).flatMap { try form($0)?.shape.first } ?? size
        return VocabularyModel(
            name: "\(reference)", tokenizerFolder: tokenizerFolder,
            vocabSize: adapterFolder == nil ? size : max(size, rows))
    }

    /// The tensor that serves under a token table's name: itself, or the embedding where the head is tied to it.
    func table(_ name: String) -> String? {
        if has(name) { return name }
        return TensorName.isHead(name) ? tensorNames.first(where: TensorName.isEmbedding) : nil
    }
}
