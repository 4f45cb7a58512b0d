// The outline that memory is estimated from, found from headers, against the models themselves.
import Checkpoints
import Formats
import Layers
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing

@Suite struct OutlineTests {
    @Test(arguments: TinyFamily.allCases) func isThatOfTheModel(_ family: TinyFamily) throws {
        let folder = try TemporaryFolder(), model = try tinyModel(family.config)
        try writeFolder(folder.path, family.config, model)
        let outline = try ModelOutline(folder.path), parameters = model.namedParameters()
        #expect(outline.weights == parameters.reduce(0) { $0 + $1.parameter.value.count })
        let linears = model.blockLinears
        #expect(Set(outline.blockLinears.map(\.name)) == Set(linears.map(\.name)))
        for map in outline.blockLinears {
            let linear = linears.first { $0.name == map.name }!.linear
            #expect(map.outputs == linear.outFeatures && map.inputs == linear.inFeatures)
        }
        #expect(outline.layers == 2 && outline.vocabSize == 64 && outline.hiddenSize == 32)
        #expect(outline.tiedHead == model.isTied)
        #expect(outline.positions == model.positionLimit && (outline.positions == 128) == (family == .gpt2))
        let tables = parameters.filter { $0.parameter.shape.count == 2 && !$0.name.contains(".0.") }
            .filter { !$0.name.contains(".1.") }
        #expect(outline.tables == tables.reduce(0) { $0 + $1.parameter.value.count })
    }

    /// Counted by hand: inputs of the norms and of two maps, q, k, v (and q and k before their norms), what is attended, the
    /// MLP.
    @Test func whatABlockKeeps() throws {
        let cases: [(TinyFamily, kept: Int)] = [
            (.llama, 128 + 64 + 32 + 144), (.qwen3, 128 + 128 + 96 + 64 + 144), (.phi3, 128 + 64 + 32 + 144),
            (.gemma3, 192 + 128 + 96 + 64 + 144), (.gptNeoX, 128 + 96 + 32 + 96), (.gpt2, 128 + 96 + 32 + 96),
        ]
        for (family, kept) in cases {
            let folder = try TemporaryFolder()
            try writeFolder(folder.path, family.config, tinyModel(family.config))
            #expect(try ModelOutline(folder.path).keptByBlock == kept, "\(family)")
        }
    }

    /// Leftovers of old exporters and bare names, as in the published GPT-2 folders.
    @Test func bareNamesCountTheSame() throws {
        let folder = try TemporaryFolder(), config = TinyFamily.gpt2.config
        let tensors = try fileTensors(of: tinyModel(config))
        try writeFolder(folder["whole"], config, tensors)
        let bare = tensors.map { tensor in
            SafetensorsWriter.Tensor(
                name: String(tensor.name.dropFirst("transformer.".count)), elementType: tensor.elementType,
                shape: tensor.shape, produce: tensor.produce)
        }
        try writeFolder(folder["bare"], config, bare + [.init("h.0.attn.bias", .zeros([1, 1, 128, 128]))])
        #expect(try ModelOutline(folder["bare"]) == ModelOutline(folder["whole"]))
    }
}
