// A merge configuration as mergekit's YAML: what is kept beside a result.
internal import Formats
internal import RunConfig

extension MergeConfig {
    /// YAML that reads back as an equal configuration.
    public var yaml: String { writeYAML(tree) }

    private var tree: ConfigTree {
        var fields: [(String, ConfigTree?)] = [
            ("name", name.map(text)), ("merge_method", text(method.rawValue)), ("base_model", base.map(model)),
        ]
        switch layout {
        case .models(let sources): fields.append(("models", list(sources.map(source))))
        case .slices(let slices): fields.append(("slices", list(slices.map(slice))))
        case .modules(let modules): fields.append(("modules", map(modules.map { ($0.name, module($0)) })))
        }
        fields += [
            ("parameters", settings(parameters)), ("dtype", dtype.map { text($0.configName) }),
            ("out_dtype", outDtype.map { text($0.configName) }), ("tokenizer", tokenizer.map(tokenizer)),
            ("chat_template", chatTemplate.map(text)),
        ]
        return map(fields)
    }

    private func source(_ source: MergeSource) -> ConfigTree {
        let layers = source.layers.map { list([number(Double($0.lowerBound)), number(Double($0.upperBound))]) }
        return map([
            ("model", model(source.model)), ("layer_range", layers), ("parameters", settings(source.parameters)),
        ])
    }

    private func slice(_ slice: MergeSlice) -> ConfigTree {
        map([
            ("sources", list(slice.sources.map(source))), ("base_model", slice.base.map(model)),
            ("parameters", settings(slice.parameters)),
        ])
    }

    private func module(_ module: MergeModule) -> ConfigTree {
        switch module.layout {
        case .models(let sources):
            map([("models", list(sources.map(source))), ("parameters", settings(module.parameters))])
        case .slices(let slices):
            map([("slices", list(slices.map(slice))), ("parameters", settings(module.parameters))])
        }
    }

    private func settings(_ parameters: MergeParameters) -> ConfigTree? {
        parameters.isEmpty ? nil : map(parameters.sorted { $0.key < $1.key }.map { ($0.key, setting($0.value)) })
    }

    private func setting(_ setting: MergeSetting) -> ConfigTree {
        switch setting {
        case .value(let value): scalar(value)
        case .gradient(let values): list(values.map(scalar))
        case .filtered(let entries):
            list(entries.map { map([("filter", $0.filter.map(text)), ("value", self.setting($0.setting))]) })
        }
    }

    private func tokenizer(_ tokenizer: MergeTokenizer) -> ConfigTree {
        let source =
            switch tokenizer.source {
            case .union: text("union")
            case .base: text("base")
            case .model(let reference): model(reference)
            }
        let tokens = tokenizer.tokens.map { token, row in
            (token, map([("source", row.source.map(rowSource)), ("force", row.force ? plain("true") : nil)]))
        }
        return map([
            ("source", source), ("tokens", tokens.isEmpty ? nil : map(tokens)),
            ("pad_to_multiple_of", tokenizer.padToMultipleOf.map { number(Double($0)) }),
        ])
    }

    private func rowSource(_ source: MergeTokenizer.TokenRow.Source) -> ConfigTree {
        switch source {
        case .model(let reference): model(reference)
        case .zero: map([("kind", text("zero"))])
        case .token(let reference, let token):
            map([("kind", text("model_token")), ("model", model(reference)), ("token", text(token))])
        case .tokenID(let reference, let id):
            map([("kind", text("model_token")), ("model", model(reference)), ("token_id", number(Double(id)))])
        }
    }

    /// One text where that reads back as the same model, else a section.
    private func model(_ reference: MergeModelReference) -> ConfigTree {
        if reference.architecture == nil, (try? MergeModelReference(parsing: reference.description)) == reference {
            return text(reference.description)
        }
        func place(_ path: String, _ revision: String?) -> ConfigTree {
            map([("path", text(path)), ("revision", revision.map(text))])
        }
        return map([
            ("model", place(reference.path, reference.revision)),
            ("lora", reference.adapter.map { place($0, reference.adapterRevision) }),
            ("override_architecture", reference.architecture.map(text)),
        ])
    }

    // MARK: pieces

    private func map(_ fields: [(String, ConfigTree?)]) -> ConfigTree {
        ConfigTree(.map(fields.compactMap { key, value in value.map { (key: key, place: nil, value: $0) } }))
    }
    private func list(_ items: [ConfigTree]) -> ConfigTree { ConfigTree(.list(items)) }
    private func text(_ text: String) -> ConfigTree { ConfigTree(.scalar(text, quoted: true)) }
    private func plain(_ text: String) -> ConfigTree { ConfigTree(.scalar(text, quoted: false)) }
    private func number(_ value: Double) -> ConfigTree {
        plain(value == value.rounded() && abs(value) < 1e15 ? "\(Int(value))" : "\(value)")
    }
    private func scalar(_ value: MergeValue) -> ConfigTree {
        switch value {
        case .number(let value): number(value)
        case .flag(let flag): plain(flag ? "true" : "false")
        case .text(let word): text(word)
        }
    }
}
