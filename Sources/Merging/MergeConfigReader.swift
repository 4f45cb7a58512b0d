// mergekit's YAML to merge configurations; every problem is reported at once, with file and line.
internal import Diagnostics
internal import Formats
internal import RunConfig

extension MergeConfig {
    /// The configurations of a file, one a document, in the order of the file.
    ///
    /// - Throws: `UserError` (65) with one line for each problem: what is not YAML, unknown keys and parameters (with the
    ///   nearest that exists), values of the wrong kind, keys that exclude each other.
    public static func read(_ path: String) throws -> [MergeConfig] {
        try parse(try readTextFile(path, maxBytes: 1 << 20), source: path)
    }

    /// As `read`, from text.
    ///
    /// - Parameter source: what messages call the text.
    public static func parse(_ text: String, source: String) throws -> [MergeConfig] {
        let documents: [ConfigTree]
        do {
            documents = try parseYAMLDocuments(text, source: source, rules: .merge)
        } catch let problem as YAMLProblem {
            throw UserError("\(problem.place.description): \(problem.message)")
        }
        guard !documents.isEmpty else { throw UserError("\(source): empty; a merge needs merge_method and models") }
        let reader = MergeConfigReader(source: source)
        let configs = documents.map(reader.config)
        guard reader.problems.isEmpty else { throw UserError(reader.problems.joined(separator: "\n")) }
        return configs.compactMap { $0 }
    }

    /// The number format of a name as mergekit spells them.
    static func elementType(named name: String) -> ElementType? {
        switch name.hasPrefix("torch.") ? String(name.dropFirst("torch.".count)) : name {
        case "float32": .f32
        case "float16": .f16
        case "bfloat16": .bf16
        case "float64": .f64
        default: nil
        }
    }
}

extension ElementType {
    /// As configurations spell the types weights can have: "bfloat16".
    var configName: String {
        switch self {
        case .f32: "float32"
        case .f16: "float16"
        case .bf16: "bfloat16"
        case .f64: "float64"
        default: rawValue.lowercased()
        }
    }
}

/// Reads documents and notes what is wrong with them.
private final class MergeConfigReader {
    let source: String
    private(set) var problems: [String] = []
    /// Of the document being read.
    private var parameters: [MergeParameter] = []
    private var methodName = ""

    init(source: String) { self.source = source }

    private func note(_ place: Place?, _ key: String, _ message: String) {
        let line = "\(place?.description ?? source): \(key.isEmpty ? "" : "\(key): ")\(message)"
        // An alias shows one mistake at every place it stands for.
        if !problems.contains(line) { problems.append(line) }
    }

    // MARK: the document

    func config(_ tree: ConfigTree) -> MergeConfig? {
        let keys = [
            "merge_method", "models", "slices", "modules", "base_model", "parameters", "dtype", "out_dtype",
            "tokenizer_source", "tokenizer", "chat_template", "name", "seed", "compat",
        ]
        guard let fields = section(tree, "", keys) else { return nil }
        let method = method(fields)
        var parameters = fields["parameters"].map { self.parameters($0.value, "parameters") } ?? [:]
        for key in ["seed", "compat"] {
            guard let field = fields[key] else { continue }
            if parameters[key] != nil { note(field.place, key, "given under parameters too; leave one") }
            parameters.merge(self.parameters(ConfigTree(.map([(key, field.place, field.value)]), field.place), "")) {
                $1
            }
        }
        let layout = layout(fields, tree)
        let base = fields["base_model"].flatMap { model($0.value, "base_model") }
        let tokenizer = tokenizer(fields)
        let result = method.flatMap { method in
            layout.map {
                MergeConfig(
                    method: method, layout: $0, base: base, parameters: parameters, dtype: type(fields, "dtype"),
                    outDtype: type(fields, "out_dtype"), tokenizer: tokenizer,
                    chatTemplate: text(fields, "chat_template"),
                    name: text(fields, "name"))
            }
        }
        return result
    }

    private func method(_ fields: Fields) -> MergeMethod? {
        let names = MergeMethod.allCases.map(\.rawValue)
        guard let field = fields["merge_method"], let name = text(fields, "merge_method") else {
            note(nil, "merge_method", "missing; give one of \(names.joined(separator: ", "))")
            (parameters, methodName) = (MergeMethod.allCases.flatMap(\.parameters), "merging")
            return nil
        }
        guard let method = MergeMethod(rawValue: name) else {
            let hint =
                nearestName(to: name, among: names).map { "did you mean \($0)?" }
                ?? "known: \(names.joined(separator: ", "))"
            note(field.place, "merge_method", "unknown method \(name); \(hint)")
            (parameters, methodName) = (MergeMethod.allCases.flatMap(\.parameters), "merging")
            return nil
        }
        (parameters, methodName) = (method.parameters, method.rawValue)
        return method
    }

    private func layout(_ fields: Fields, _ tree: ConfigTree) -> MergeConfig.Layout? {
        let given = ["models", "slices", "modules"].filter { fields[$0] != nil }
        guard given.count == 1, let field = fields[given[0]] else {
            let found = given.isEmpty ? "none of them" : given.joined(separator: " and ")
            note(
                given.last.flatMap { fields[$0]?.place }, "",
                "give exactly one of models, slices and modules; found \(found)")
            return nil
        }
        switch given[0] {
        case "models": return .models(sources(field.value, "models", hasLayers: false))
        case "slices": return .slices(slices(field.value, "slices"))
        default: return .modules(modules(field.value))
        }
    }

    private func modules(_ tree: ConfigTree) -> [MergeModule] {
        guard case .map(let entries) = tree.kind, !entries.isEmpty else {
            note(tree.place, "modules", "expected a section of modules by name, found \(tree.found)")
            return []
        }
        return entries.compactMap { name, _, value in
            let path = "modules.\(name)"
            guard let fields = section(value, path, ["models", "slices", "parameters"]) else { return nil }
            let parameters = fields["parameters"].map { self.parameters($0.value, "\(path).parameters") } ?? [:]
            switch (fields["models"], fields["slices"]) {
            case (let models?, nil):
                let sources = sources(models.value, "\(path).models", hasLayers: false)
                return MergeModule(name, .models(sources), parameters: parameters)
            case (nil, let slices?):
                return MergeModule(name, .slices(self.slices(slices.value, "\(path).slices")), parameters: parameters)
            default:
                note(value.place, path, "give either models or slices")
                return nil
            }
        }
    }

    private func slices(_ tree: ConfigTree, _ path: String) -> [MergeSlice] {
        list(tree, path).enumerated().compactMap { i, item in
            let path = "\(path)[\(i)]"
            // residual_weight is in mergekit's schema and does nothing there.
            guard let fields = section(item, path, ["sources", "base_model", "parameters"]) else { return nil }
            guard let sources = fields["sources"] else {
                note(item.place, path, "no sources; list the models and their layer_range")
                return nil
            }
            return MergeSlice(
                self.sources(sources.value, "\(path).sources", hasLayers: true),
                base: fields["base_model"].flatMap { model($0.value, "\(path).base_model") },
                parameters: fields["parameters"].map { parameters($0.value, "\(path).parameters") } ?? [:])
        }
    }

    private func sources(_ tree: ConfigTree, _ path: String, hasLayers: Bool) -> [MergeSource] {
        list(tree, path).enumerated().compactMap { i, item in
            let path = "\(path)[\(i)]"
            let keys = ["model", "parameters"] + (hasLayers ? ["layer_range"] : [])
            guard let fields = section(item, path, keys) else { return nil }
            guard let name = fields["model"] else {
                note(item.place, path, "no model")
                return nil
            }
            let layers = fields["layer_range"].flatMap { range($0.value, "\(path).layer_range") }
            if hasLayers, fields["layer_range"] == nil { note(item.place, path, "no layer_range, as in [0, 16]") }
            let parameters = fields["parameters"].map { self.parameters($0.value, "\(path).parameters") } ?? [:]
            return model(name.value, "\(path).model").map { MergeSource($0, layers: layers, parameters: parameters) }
        }
    }

    private func range(_ tree: ConfigTree, _ path: String) -> Range<Int>? {
        guard case .list(let items) = tree.kind, items.count == 2,
            let first = try? readInteger(items[0], as: Int.self), let end = try? readInteger(items[1], as: Int.self),
            first >= 0, first <= end
        else {
            note(tree.place, path, "expected [first, end) as two whole numbers, found \(tree.found)")
            return nil
        }
        return first..<end
    }

    // MARK: parameters

    private func parameters(_ tree: ConfigTree, _ path: String) -> MergeParameters {
        if case .null = tree.kind { return [:] }
        guard case .map(let entries) = tree.kind else {
            note(tree.place, path, "expected a section of parameters, found \(tree.found)")
            return [:]
        }
        var result: MergeParameters = [:]
        for entry in entries {
            let key = path.isEmpty ? entry.key : "\(path).\(entry.key)"
            guard let parameter = parameters.first(where: { $0.name == entry.key }) else {
                note(entry.place, key, unknownParameter(entry.key))
                continue
            }
            result[entry.key] = setting(entry.value, parameter, key, entry.place)
        }
        return result
    }

    private func unknownParameter(_ name: String) -> String {
        let names = Set(parameters.map(\.name)).sorted()
        if let near = nearestName(to: name, among: names) {
            return "unknown parameter of \(methodName); did you mean \(near)?"
        }
        if names.isEmpty { return "unknown parameter; \(methodName) takes none" }
        return "unknown parameter of \(methodName); known: \(names.joined(separator: ", "))"
    }

    private func setting(_ tree: ConfigTree, _ parameter: MergeParameter, _ key: String, _ place: Place?)
        -> MergeSetting?
    {
        let place = tree.place ?? place
        switch tree.kind {
        case .null: return nil
        case .scalar: return value(tree, parameter, key, place).map { .value($0) }
        case .map: return filtered(tree, parameter, key).map { .filtered([$0]) }
        case .list(let items):
            let isFiltered = items.contains { if case .map = $0.kind { true } else { false } }
            guard isFiltered else {
                let values = items.compactMap { value($0, parameter, key, place) }
                return values.count == items.count ? .gradient(values) : nil
            }
            let entries = items.enumerated().compactMap { filtered($1, parameter, "\(key)[\($0)]") }
            checkOrder(entries, items, key)
            return .filtered(entries)
        }
    }

    private func filtered(_ tree: ConfigTree, _ parameter: MergeParameter, _ key: String) -> MergeSetting.Filtered? {
        guard let fields = section(tree, key, ["filter", "value"]) else { return nil }
        guard let value = fields["value"] else {
            note(tree.place, key, "no value beside the filter")
            return nil
        }
        return setting(value.value, parameter, "\(key).value", tree.place).map { .init(text(fields, "filter"), $0) }
    }

    /// An entry behind one that fits every tensor would never be asked.
    private func checkOrder(_ entries: [MergeSetting.Filtered], _ items: [ConfigTree], _ key: String) {
        guard entries.count == items.count,
            let all = entries.firstIndex(where: { $0.filter == nil || $0.filter == "*" }),
            all < entries.count - 1
        else { return }
        note(
            items[all + 1].place, "\(key)[\(all + 1)]",
            "has no effect: the entry before it fits every tensor; put that one last")
    }

    private func value(_ tree: ConfigTree, _ parameter: MergeParameter, _ key: String, _ place: Place?) -> MergeValue? {
        do {
            switch parameter.kind {
            case .number: return .number(try number(tree))
            case .flag: return .flag(try flag(tree))
            case .choice(let words): return .text(try word(tree, words))
            case .flagOrChoice(let words):
                if let flag = try? flag(tree) { return .flag(flag) }
                return .text(try word(tree, ["true", "false"] + words))
            }
        } catch let mismatch as Mismatch {
            note(tree.place ?? place, key, mismatch.message)
        } catch {
            note(tree.place ?? place, key, "\(error)")
        }
        return nil
    }

    /// Quoted numbers count as numbers, as in mergekit.
    private func number(_ tree: ConfigTree) throws -> Double {
        if case .scalar(let text, true) = tree.kind { return try readNumber(ConfigTree(.scalar(text, quoted: false))) }
        return try readNumber(tree)
    }

    private func flag(_ tree: ConfigTree) throws -> Bool {
        if case .scalar(let text, _) = tree.kind, ["0", "1"].contains(text) { return text == "1" }
        return try readFlag(tree)
    }

    private func word(_ tree: ConfigTree, _ words: [String]) throws -> String {
        let text = try readText(tree)
        guard words.contains(text) else {
            let hint = nearestName(to: text, among: words).map { "; did you mean \($0)?" } ?? ""
            throw Mismatch(message: "expected one of \(words.joined(separator: ", ")), found \"\(text)\"\(hint)")
        }
        return text
    }

    // MARK: models and tokenizer

    private func model(_ tree: ConfigTree, _ path: String) -> MergeModelReference? {
        switch tree.kind {
        case .scalar(let text, _):
            do {
                return try MergeModelReference(parsing: text)
            } catch {
                note(tree.place, path, "\(error)")
                return nil
            }
        case .map: return modelSection(tree, path)
        default:
            note(tree.place, path, "expected a model as path[@revision][+adapter], found \(tree.found)")
            return nil
        }
    }

    private func modelSection(_ tree: ConfigTree, _ path: String) -> MergeModelReference? {
        // {path, revision} stands for {model: {path, revision}}.
        if tree["path"] != nil { return place(tree, path).map { MergeModelReference($0.path, revision: $0.revision) } }
        guard let fields = section(tree, path, ["model", "lora", "override_architecture"]), let model = fields["model"]
        else {
            note(tree.place, path, "no model in this section")
            return nil
        }
        guard let base = place(model.value, "\(path).model") else { return nil }
        var result = MergeModelReference(base.path, revision: base.revision)
        if let lora = fields["lora"], !isNull(lora.value), let adapter = place(lora.value, "\(path).lora") {
            (result.adapter, result.adapterRevision) = (adapter.path, adapter.revision)
        }
        result.architecture = text(fields, "override_architecture")
        return result
    }

    /// `path@revision` or {path, revision}.
    private func place(_ tree: ConfigTree, _ path: String) -> (path: String, revision: String?)? {
        if case .scalar(let text, _) = tree.kind {
            do {
                return try MergeModelReference.split(text)
            } catch {
                note(tree.place, path, "\(error)")
                return nil
            }
        }
        guard let fields = section(tree, path, ["path", "revision"]), let name = text(fields, "path") else {
            note(tree.place, path, "no path in this section")
            return nil
        }
        return (name, text(fields, "revision"))
    }

    private func tokenizer(_ fields: Fields) -> MergeTokenizer? {
        if let both = fields["tokenizer"], fields["tokenizer_source"] != nil {
            note(both.place, "tokenizer", "given beside tokenizer_source; leave one")
        }
        if let source = fields["tokenizer_source"] {
            return tokenizerSource(source.value, "tokenizer_source").map { MergeTokenizer($0) }
        }
        guard let field = fields["tokenizer"],
            let parts = section(field.value, "tokenizer", ["source", "tokens", "pad_to_multiple_of"])
        else { return nil }
        let source = parts["source"].map { tokenizerSource($0.value, "tokenizer.source") } ?? .union
        var result = MergeTokenizer(source ?? .union)
        if let pad = parts["pad_to_multiple_of"], !isNull(pad.value) {
            if let number = try? readInteger(pad.value, as: Int.self), number > 0 {
                result.padToMultipleOf = number
            } else {
                note(
                    pad.place, "tokenizer.pad_to_multiple_of",
                    "expected a whole number above 0, found \(pad.value.found)")
            }
        }
        if let tokens = parts["tokens"], !isNull(tokens.value) {
            guard case .map(let entries) = tokens.value.kind else {
                note(tokens.place, "tokenizer.tokens", "expected a section of tokens, found \(tokens.value.found)")
                return result
            }
            result.tokens = entries.compactMap { token, _, row in
                tokenRow(row, "tokenizer.tokens.\(token)").map { (token, $0) }
            }
        }
        return result
    }

    private func tokenizerSource(_ tree: ConfigTree, _ path: String) -> MergeTokenizer.Source? {
        switch tree.kind {
        case .scalar("union", _): .union
        case .scalar("base", _): .base
        default: model(tree, path).map { .model($0) }
        }
    }

    private func tokenRow(_ tree: ConfigTree, _ path: String) -> MergeTokenizer.TokenRow? {
        guard let fields = section(tree, path, ["source", "force"]) else { return nil }
        var force = false
        if let field = fields["force"] {
            do { force = try flag(field.value) } catch {
                note(field.place, "\(path).force", "expected true or false, found \(field.value.found)")
            }
        }
        guard let source = fields["source"], !isNull(source.value) else { return .init(nil, force: force) }
        return rowSource(source.value, "\(path).source").map { .init($0, force: force) }
    }

    private func rowSource(_ tree: ConfigTree, _ path: String) -> MergeTokenizer.TokenRow.Source? {
        guard let kind = tree["kind"] else { return model(tree, path).map { .model($0) } }
        guard case .scalar(let name, _) = kind.kind, ["zero", "model_token"].contains(name) else {
            note(kind.place, "\(path).kind", "expected zero or model_token, found \(kind.found)")
            return nil
        }
        let keys = name == "zero" ? ["kind"] : ["kind", "model", "token", "token_id"]
        guard let fields = section(tree, path, keys) else { return nil }
        if name == "zero" { return .zero }
        guard let model = fields["model"].flatMap({ self.model($0.value, "\(path).model") }) else {
            note(tree.place, path, "no model to take the token from")
            return nil
        }
        switch (text(fields, "token"), fields["token_id"]) {
        case (let token?, nil): return .token(model, token)
        case (nil, let field?):
            if let id = try? readInteger(field.value, as: Int.self), id >= 0 { return .tokenID(model, id) }
            note(field.place, "\(path).token_id", "expected a whole number, found \(field.value.found)")
        default: note(tree.place, path, "give either token or token_id")
        }
        return nil
    }

    // MARK: pieces

    private typealias Fields = [String: (place: Place?, value: ConfigTree)]

    /// The fields of a section; what is not among `keys` is noted.
    private func section(_ tree: ConfigTree, _ path: String, _ keys: [String]) -> Fields? {
        guard case .map(let entries) = tree.kind else {
            note(tree.place, path, "expected a section with \(keys.joined(separator: ", ")), found \(tree.found)")
            return nil
        }
        var fields: Fields = [:]
        for entry in entries {
            if keys.contains(entry.key) {
                if !isNull(entry.value) { fields[entry.key] = (entry.place, entry.value) }
                continue
            }
            let hint =
                nearestName(to: entry.key, among: keys).map { "did you mean \($0)?" }
                ?? "known here: \(keys.joined(separator: ", "))"
            note(entry.place, path.isEmpty ? entry.key : "\(path).\(entry.key)", "unknown key; \(hint)")
        }
        return fields
    }

    private func list(_ tree: ConfigTree, _ path: String) -> [ConfigTree] {
        guard case .list(let items) = tree.kind, !items.isEmpty else {
            note(tree.place, path, "expected a list, found \(tree.found)")
            return []
        }
        return items
    }

    private func text(_ fields: Fields, _ key: String) -> String? {
        guard let field = fields[key] else { return nil }
        guard case .scalar(let text, _) = field.value.kind else {
            note(field.place, key, "expected text, found \(field.value.found)")
            return nil
        }
        return text
    }

    private func type(_ fields: Fields, _ key: String) -> ElementType? {
        guard let field = fields[key], let name = text(fields, key) else { return nil }
        if let type = MergeConfig.elementType(named: name) { return type }
        note(field.place, key, "expected float32, float16, bfloat16 or float64, found \(name)")
        return nil
    }

    private func isNull(_ tree: ConfigTree) -> Bool { if case .null = tree.kind { true } else { false } }
}

extension MergeModelReference {
    /// - Throws: `UserError` for a text that is not `path[@revision][+adapter[@revision]]`.
    public init(parsing text: String) throws {
        // A path that is there may hold + and @ of its own.
        if pathExists(text) {
            self.init(text)
            return
        }
        let parts = text.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
        guard parts.count <= 2 else {
            throw UserError("\"\(text)\" has more than one +; write path[@revision][+adapter]")
        }
        let model = try Self.split(parts[0])
        self.init(model.path, revision: model.revision)
        if parts.count == 2 { (adapter, adapterRevision) = try Self.split(parts[1]) }
    }

    static func split(_ text: String) throws -> (path: String, revision: String?) {
        if pathExists(text) { return (text, nil) }
        let parts = text.split(separator: "@", omittingEmptySubsequences: false).map(String.init)
        guard parts.count <= 2, parts.allSatisfy({ !$0.isEmpty }) else {
            throw UserError("\"\(text)\" is no model; write path[@revision][+adapter]")
        }
        return (parts[0], parts.count == 2 ? parts[1] : nil)
    }
}
