// Models of a few hundred numbers, a base and three changes of it, and judges that look at their weights.
import Diagnostics
import Evolution
import Formats
import Glibc
import Merging
import RandomStreams

/// A folder with `base`, `a`, `b` and `c`, removed with the object.
final class Nursery {
    static let shapes: [(String, [Int])] =
        [("model.embed_tokens.weight", [20, 16])]
        + (0..<2).flatMap { layer in
            [("self_attn.q_proj", [16, 16]), ("mlp.up_proj", [24, 16])].map {
                ("model.layers.\(layer).\($0.0).weight", $0.1)
            }
        } + [("model.norm.weight", [16])]
    /// Weights by model, tensors one after another.
    private(set) var weights: [String: [Float]] = [:]
    let folder: String

    init() throws {
        var template = Array("/tmp/needletail-evolution-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw UserError("mkdtemp failed", .internal) }
        folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let count = Self.shapes.reduce(0) { $0 + $1.1.reduce(1, *) }
        let base = RandomStream(seed: 1, 0).uniform(count).map { $0 - 0.5 }
        for (i, name) in ["base", "a", "b", "c"].enumerated() {
            let change = RandomStream(seed: 2, UInt64(i)).uniform(count).map { 0.2 * ($0 - 0.5) }
            weights[name] = i == 0 ? base : zip(base, change).map(+)
            try write(name)
        }
    }

    deinit { try? removeTree(folder) }

    func path(_ name: String) -> String { joinPath(folder, name) }

    private func write(_ name: String) throws {
        var rest = weights[name]![...]
        let tensors = Self.shapes.map { tensor, shape in
            let values = Array(rest.prefix(shape.reduce(1, *)))
            rest = rest.dropFirst(values.count)
            return SafetensorsWriter.Tensor(name: tensor, elementType: .f32, shape: shape) { emit in
                try values.withUnsafeBytes { try emit($0) }
            }
        }
        try SafetensorsWriter.write(folder: path(name), tensors: tensors, metadata: [("format", "pt")])
        let config: JSONValue = [
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2,
            "tie_word_embeddings": true,
        ]
        try writeFileAtomically(config.serialized(.pretty), to: joinPath(path(name), "config.json"))
    }

    static func read(_ folder: String) throws -> [Float] {
        let stored = try SafetensorsFolder(folder: folder)
        return try shapes.flatMap { name, shape in
            let bytes = Array(try stored.bytes(of: name))
            return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        }
    }

    /// How close a model's weights are to those of `name`: 100 for equal ones, 0 as far as the base.
    func closeness(_ values: [Float], to name: String) -> Double {
        func distance(_ x: [Float], _ y: [Float]) -> Double {
            zip(x, y).reduce(0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }
        }
        return 100 - 100 * distance(values, weights[name]!) / distance(weights["base"]!, weights[name]!)
    }
}

/// What is called when, in the order of the calls.
final class Calls {
    var judged: [String] = []
    var log: [String] = []
    var children = 0
}

/// Ends a run where a kill would.
struct Killed: Error {}

extension Nursery {
    /// Runs a family in `folder/name`, judged by the closeness to each of the three.
    ///
    /// - Parameter lives: children after which the run ends with `Killed`; nil lets it run to its end.
    func family(
        _ name: String, _ calls: Calls = Calls(), _ settings: EvolutionSettings? = nil, keepsAll: Bool = true,
        lives: Int? = nil, merge: PairMerge? = nil
    ) throws -> Family {
        var plain = EvolutionSettings()
        (plain.strategy, plain.maxGenerations, plain.earlyStop) = (.kinship, 4, nil)
        return try Family(
            folder: path(name), foundations: ["a", "b", "c"].map(path), base: MergeModelReference(path("base")),
            tasks: ["a", "b", "c"],
            merge: merge ?? PairMerge(method: "linear", parameters: [:], base: MergeModelReference(path("base"))),
            metric: .pcc, settings: settings ?? plain, keepsAll: keepsAll, log: { calls.log.append($0) },
            pause: {
                calls.children += 1
                if let lives, calls.children > lives { throw Killed() }
            }
        ) { reference in
            calls.judged.append(fileName(of: reference.path))
            let values = try Self.read(reference.path)
            return ["a", "b", "c"].map { self.closeness(values, to: $0) }
        }
    }

    /// Runs to the end and writes every report.
    @discardableResult
    func run(_ family: Family) throws -> Evolution.End {
        let end = try family.run { _, _ in try family.writeReport() }
        try family.writeWeightReport()
        return end
    }

    /// models.csv without the last column, the seconds.
    func table(_ name: String) throws -> [String] {
        try readTextFile(joinPath(path(name), "models.csv")).split(separator: "\n").map { line in
            line.split(separator: ",", omittingEmptySubsequences: false).dropLast().joined(separator: ",")
        }
    }
}

/// Adds the half line that a kill leaves.
func appendHalfLine(_ text: String, to path: String) throws {
    let file = try OutputFile(appendingTo: path)
    try file.append(text)
    try file.close()
}
