// Adapters as MLX and torchtune write them, and PEFT's own that differ from map to map, rewritten once as a folder of PEFT's
// with one rank, which everything else reads.
// r rank, I inputs, O outputs
internal import Crypto
internal import Diagnostics
internal import Formats

/// What another program's adapter folder says, under PEFT's names.
struct ForeignAdapter {
    /// A tensor of the new file, made of one of the old.
    struct Part {
        let name: String
        let source: TensorInfo
        var isTransposed = false
        /// Heads whose rows lie in pairs (x0 y0 x1 y1 ...) instead of halves (x0 x1 ... y0 y1 ...); nil for none.
        var pairedHeads: Int?
        /// The rank that a matrix of a lower one is filled up to with zeros; nil for none.
        var rank: Int?
        /// What its numbers are multiplied by, in fp32.
        var factor = 1.0

        /// The place of r in the shape of a matrix; nil for other tensors.
        var rankAxis: Int? { name.contains(".lora_A.") ? 0 : name.contains(".lora_B.") ? 1 : nil }
        /// Before it is filled up.
        var ownShape: [Int] { isTransposed ? source.shape.reversed() : source.shape }
        var shape: [Int] {
            var shape = ownShape
            if let rank, let rankAxis { shape[rankAxis] = rank }
            return shape
        }
        var elementType: ElementType { factor == 1 ? source.elementType : .f32 }
    }

    let weights: SafetensorsFile
    let parts: [Part]
    /// Tables that are written beside the parts.
    var tables: [AdaptedTable] = []
    let config: AdapterConfig

    /// Of what is made of a folder: another one is made anew.
    private static let version = 3

    /// The PEFT folder made of an adapter folder, in the user's cache; nil for one that is PEFT's already.
    ///
    /// - Parameter base: the folder of the base model.
    /// - Throws: `UserError` for what cannot be expressed in PEFT's format.
    static func converted(_ folder: String, base: String, report: (String) -> Void) throws -> String? {
        let file = joinPath(folder, AdapterFiles.configName), json = try readJSONFile(file)
        let own = joinPath(folder, AdapterFiles.weightsName), mlx = joinPath(folder, "adapters.safetensors")
        let adapter: ForeignAdapter
        if json["peft_type"] == nil, fileExists(mlx) {
            adapter = try ForeignAdapter(mlx: SafetensorsFile(path: mlx), json, file, base)
        } else if fileExists(own) {
            let weights = try SafetensorsFile(path: own)
            if weights.tensors.contains(where: { $0.name.hasSuffix(".lora_a.weight") }) {
                adapter = try ForeignAdapter(torchtune: weights, json, file, base)
            } else if isPatterned(json, weights, try TensorNaming(folder: base)) {
                adapter = try ForeignAdapter(peft: weights, json, file, base)
            } else {
                return nil
            }
        } else {
            return nil
        }
        var hash = SHA256()
        hash.update(bufferPointer: adapter.weights.file.bytes)
        let model = joinPath(base, "config.json")
        for text in ["\(version)", json.serialized(), base, fileExists(model) ? try readTextFile(model) : ""] {
            hash.update(data: Array(text.utf8))
        }
        for table in adapter.tables { hash.update(bufferPointer: try table.stored.bytes()) }
        let digest = hexadecimal(hash.finalize().prefix(16))
        let target = joinPath(try cacheFolder(), "adapters/\(fileName(of: folder).prefix(80))-\(digest)")
        if fileExists(joinPath(target, AdapterFiles.configName)) { return target }
        report("rewriting the adapter \(folder) once for peft, into \(target)")
        try createDirectories(parentFolder(of: target))
        try adapter.write(to: target, TensorNaming(folder: base))
        return target
    }

    /// MLX (mlx-lm): `NAME.lora_a` `[I, r]`, `NAME.lora_b` `[r, O]`, DoRA's `NAME.m` `[O]`; y = x W^T + scale (x a) b.
    private init(mlx weights: SafetensorsFile, _ json: JSONValue, _ file: String, _ base: String) throws {
        let reader = ConfigReader(json: json, file: file)
        try reader.require("fine_tune_type", oneOf: ["lora", "dora"], default: "lora")
        guard let settings = try reader.section("lora_parameters") else {
            throw UserError("\(file): neither peft_type nor MLX's lora_parameters")
        }
        let rank = try settings.positive("rank"), scale = try settings.number("scale")
        let ends = [
            (".lora_a", ".lora_A.weight", true), (".lora_b", ".lora_B.weight", true),
            (".m", ".lora_magnitude_vector", false),
        ]
        parts = try weights.tensors.map { tensor in
            guard let (end, name, isTransposed) = ends.first(where: { tensor.name.hasSuffix($0.0) }) else {
                throw UserError("\(weights.path): tensor \(tensor.name) is none of MLX's adapters (lora_a, lora_b, m)")
            }
            return Part(
                name: AdapterFiles.prefix + tensor.name.dropLast(end.count) + name, source: tensor,
                isTransposed: isTransposed)
        }
        self.weights = weights
        config = AdapterConfig(
            rank: rank, alpha: scale * Double(rank), dropout: try settings.number("dropout", 0), scaling: .standard,
            hasMagnitude: weights.tensors.contains { $0.name.hasSuffix(".m") },
            targets: Self.modules(parts.map(\.name)),
            savedModules: [], baseModel: base)
        try checkMatrices(rank)
    }

    /// torchtune: its own names of modules, and for families of Meta's the rows of q and k in pairs.
    private init(torchtune weights: SafetensorsFile, _ json: JSONValue, _ file: String, _ base: String) throws {
        let place = joinPath(base, "config.json"), model = ConfigReader(json: try readJSONFile(place), file: place)
        let type = try model.string("model_type")
        let isPaired = ["llama", "mistral"].contains(type)
        guard isPaired || ["qwen2", "qwen3"].contains(type) else {
            throw UserError(
                "\(weights.path): torchtune's names of \(type) models are not known here; save the adapter in PEFT's format"
            )
        }
        let heads = try model.positive("num_attention_heads"),
            kvHeads = try model.positive("num_key_value_heads", heads)
        parts = try weights.tensors.map { tensor in
            guard let name = Self.peftName(torchtune: tensor.name) else {
                throw UserError("\(weights.path): tensor \(tensor.name) is none of torchtune's adapters")
            }
            let isOutput = tensor.name.hasSuffix(".lora_b.weight") || tensor.name.hasSuffix(".magnitude")
            let paired = name.contains(".q_proj.") ? heads : name.contains(".k_proj.") ? kvHeads : nil
            return Part(
                name: AdapterFiles.prefix + name, source: tensor, pairedHeads: isPaired && isOutput ? paired : nil)
        }
        self.weights = weights
        var config = try AdapterConfig(json, file: file)
        config.targets = Self.modules(parts.map(\.name))
        config.baseModel = base
        config.hasMagnitude = weights.tensors.contains { $0.name.hasSuffix(".magnitude") }
        self.config = config
        try checkMatrices(config.rank)
    }

    /// `layers.3.attn.output_proj.lora_a.weight` -> `model.layers.3.self_attn.o_proj.lora_A.weight`
    private static func peftName(torchtune name: String) -> String? {
        let modules = [
            "attn.q_proj": "self_attn.q_proj", "attn.k_proj": "self_attn.k_proj", "attn.v_proj": "self_attn.v_proj",
            "attn.output_proj": "self_attn.o_proj", "mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.down_proj",
            "mlp.w3": "mlp.up_proj",
        ]
        let ends = [
            ".lora_a.weight": ".lora_A.weight", ".lora_b.weight": ".lora_B.weight",
            ".magnitude": ".lora_magnitude_vector",
        ]
        let words = name.split(separator: ".")
        guard let (end, peft) = ends.first(where: { name.hasSuffix($0.key) }), words.count > 4, words[0] == "layers",
            Int(words[1]) != nil
        else { return nil }
        let module = name.dropLast(end.count).split(separator: ".").dropFirst(2).joined(separator: ".")
        return modules[module].map { "model.layers.\(words[1]).\($0)\(peft)" }
    }

    /// Whole names of the modules that tensors belong to, since other programs adapt some layers only.
    static func modules(_ names: [String]) -> [String] {
        let whole = names.compactMap { name in
            name.firstRange(of: ".lora_").map { String(name[..<$0.lowerBound].dropFirst(AdapterFiles.prefix.count)) }
        }
        return Set(whole).sorted()
    }

    func checkMatrices(_ rank: Int) throws {
        if parts.isEmpty {
            throw UserError(
                "\(weights.path): holds no tensor of a linear map" + (tables.isEmpty ? "" : ", only tables"))
        }
        for part in parts {
            let at = part.rankAxis, isTable = !part.name.contains(".lora_")
            guard part.source.elementType.isFloatingPoint,
                isTable ? [1, 2].contains(part.source.shape.count) : part.source.shape.count == (at == nil ? 1 : 2),
                at.map({ part.shape[$0] == rank && part.ownShape[$0] <= rank }) ?? true
            else {
                throw UserError(
                    "\(weights.path): tensor \(part.source.name) has shape \(part.source.shape); the rank is \(rank)")
            }
            if let heads = part.pairedHeads, part.shape[0] % (2 * heads) != 0 {
                throw UserError(
                    "\(weights.path): tensor \(part.source.name) has \(part.shape[0]) rows, which are not pairs of \(heads) heads"
                )
            }
        }
    }

    private func write(to folder: String, _ naming: TensorNaming) throws {
        try writeFolderAtomically(folder) { temporary in
            let tensors =
                parts.map { part in
                    SafetensorsWriter.Tensor(name: part.name, elementType: part.elementType, shape: part.shape) {
                        emit in
                        let bytes = try rearranged(part)
                        try (part.factor == 1 ? bytes : multiplied(bytes, part)).withUnsafeBytes(emit)
                    }
                }
                + tables.map { table in
                    SafetensorsWriter.Tensor(
                        name: table.name, elementType: table.elementType, shape: table.shape, produce: table.write)
                }
            try SafetensorsWriter.write(
                path: joinPath(temporary, AdapterFiles.weightsName), tensors: tensors, metadata: [("format", "pt")])
            try writeFileAtomically(
                config.json(naming).serialized(.pretty) + "\n", to: joinPath(temporary, AdapterFiles.configName))
        }
    }

    /// The bytes of a part in PEFT's order.
    private func rearranged(_ part: Part) throws -> [UInt8] {
        let source = try weights.bytes(of: part.source.name), size = part.source.elementType.byteCount
        let rows = part.ownShape[0], columns = part.ownShape.count == 2 ? part.ownShape[1] : 1
        let width = part.shape.count == 2 ? part.shape[1] : 1
        let half = part.pairedHeads.map { rows / $0 / 2 }
        var result = [UInt8](repeating: 0, count: part.shape.reduce(size, *))
        result.withUnsafeMutableBytes { target in
            for row in 0..<rows {
                var from = row
                if let half {  // half j of head h, place i: row 2 i + j of the head's pairs
                    let i = row % half, j = row / half % 2
                    from = row - row % (2 * half) + 2 * i + j
                }
                for column in 0..<columns {
                    let at = part.isTransposed ? column * rows + from : from * columns + column
                    target.baseAddress!.advanced(by: (row * width + column) * size)
                        .copyMemory(from: source.baseAddress!.advanced(by: at * size), byteCount: size)
                }
            }
        }
        return result
    }

    /// The numbers of a part times its factor, as fp32.
    private func multiplied(_ bytes: [UInt8], _ part: Part) -> [UInt8] {
        let numbers = bytes.withUnsafeBytes { floats32(part.source.elementType, $0) }
        return numbers.map { Float(Double($0) * part.factor) }.withUnsafeBytes { Array($0) }
    }
}
