// Which value of a parameter holds for which tensor: mergekit's own planner as reference.
// Fixtures/resolution_goldens.json: mergekit 0.1.5, made by make_resolution_goldens.py.
import Formats
import Testing

import Merging

struct ParameterResolutionTests {
    /// Half a unit in the last place of the interpolation's own arithmetic in f64.
    private static let tolerance = 1e-15

    static let goldens: [JSONValue] = {
        let path = joinPath(parentFolder(of: #filePath), "Fixtures/resolution_goldens.json")
        return (try? readJSONFile(path))?["cases"]?.array ?? []
    }()

    @Test func goldensAreThere() { #expect(Self.goldens.count == 12) }

    @Test(arguments: goldens.indices)
    func plannerAgreesWithMergekit(_ index: Int) throws {
        let golden = Self.goldens[index], expected = try #require(golden["tensors"]?.object)
        try withFolder { folder in
            for (seed, name) in ["base", "a", "b"].enumerated() {
                try TinyModel(vocabSize: 8, seed: UInt32(seed)).write(to: joinPath(folder, name))
            }
            let plan = try MergePlan(try parseMerge(golden["config"]!.string!, folder), opened: MergeModels())
            #expect(Set(plan.tensors.map(\.name)) == Set(expected.keys))
            for tensor in plan.tensors { try check(tensor, try #require(expected[tensor.name]), plan) }
        }
    }

    private func check(_ tensor: PlannedTensor, _ expected: JSONValue, _ plan: MergePlan) throws {
        let settings = tensor.settings, inputs = try #require(expected["inputs"]?.array)
        try check(settings.shared, expected["shared"], tensor.name)
        #expect(settings.inputs.count == inputs.count, "\(tensor.name)")
        for (input, other) in zip(settings.inputs, inputs) {
            #expect(fileName(of: plan.models[input.model].reference.path) == other["model"]?.string, "\(tensor.name)")
            #expect(input.tensor == other["tensor"]?.string && input.isBase == other["base"]?.bool, "\(tensor.name)")
            try check(input.values, other["parameters"], "\(tensor.name), \(other["model"]!)")
        }
    }

    /// Parameters of our own have no counterpart; mergekit's null scale is 1.
    private func check(_ values: [String: MergeValue], _ expected: JSONValue?, _ place: String) throws {
        for (name, value) in try #require(expected?.object) {
            switch (values[name], value) {
            case (.number(let a)?, .number(let b)): #expect(abs(a - b.double) <= Self.tolerance, "\(place): \(name)")
            case (.flag(let a)?, .bool(let b)): #expect(a == b, "\(place): \(name)")
            case (.number(1)?, .null): break
            default: Issue.record("\(place): \(name) is \(String(describing: values[name])), mergekit has \(value)")
            }
        }
    }

    /// The spec's example: weight [0, 1] over 4 layers gives the embedding 0, the layers 0, 1/3, 2/3, 1, the head 0.
    @Test func headAndEmbeddingGetTheFirstValue() {
        let setting = MergeSetting.gradient([.number(0), .number(1)])
        for t: Double in [0, 0, 1.0 / 3, 2.0 / 3, 1, 0] { #expect(setting.value(tensor: "x", t: t) == .number(t)) }
    }

    @Test func filtersAreSubstringsAndTheFirstDecides() {
        let setting = MergeSetting.filtered([
            .init("mlp", .number(1)), .init("layers.1.", .gradient([])), .init("*", .number(3)),
        ])
        #expect(setting.value(tensor: "layers.1.mlp.up", t: 0) == .number(1))
        // An empty gradient gives nothing, and the entries behind it are not asked.
        #expect(setting.value(tensor: "layers.1.q", t: 0) == nil)
        #expect(setting.value(tensor: "layers.11.q", t: 0) == .number(3))
        #expect(MergeSetting.filtered([.init("mlp", .number(1))]).value(tensor: "norm", t: 0) == nil)
    }

    @Test func wordsAndFlagsArePicked() {
        let words = MergeSetting.gradient([.text("l1"), .text("l2"), .text("none")])
        let expected: [(Double, String)] = [(0, "l1"), (0.49, "l1"), (0.5, "l2"), (0.99, "l2"), (1, "none")]
        for (t, word) in expected { #expect(words.value(tensor: "", t: t) == .text(word)) }
    }

    @Test func aMissingParameterIsNamed() throws {
        try withFolder { folder in
            for name in ["a", "b"] { try TinyModel().write(to: joinPath(folder, name)) }
            let found = complaint {
                _ = try merge(
                    "merge_method: linear\nmodels: [{model: DIR/a, parameters: {weight: 1}}, {model: DIR/b}]", folder)
            }
            #expect(
                found.contains("parameter weight has no value for model \(folder)/b, tensor model.embed_tokens.weight"))
        }
    }
}
