// Reflection over stored properties proves that the hand-written lists of children and parameters forget none.
import Formats
import Layers
import Models
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct TreeTests {
    /// Every parameter reachable through stored properties, and every module on the way.
    private func walk(_ value: Any, _ parameters: inout Set<ObjectIdentifier>, _ modules: inout Set<ObjectIdentifier>) {
        if let parameter = value as? Parameter {
            parameters.insert(ObjectIdentifier(parameter))
            return
        }
        if let module = value as? any Module { modules.insert(ObjectIdentifier(module)) }
        let mirror = Mirror(reflecting: value)
        let isContainer = [.optional, .collection, .tuple, .dictionary].contains(mirror.displayStyle)
        guard isContainer || value is any Module else { return }
        for child in mirror.children { walk(child.value, &parameters, &modules) }
    }

    private func check(_ root: any Module, except adapters: Set<ObjectIdentifier> = []) {
        var parameters: Set<ObjectIdentifier> = [], modules: Set<ObjectIdentifier> = []
        walk(root, &parameters, &modules)
        let named = root.namedParameters(), namedModules = root.namedModules()
        #expect(parameters == Set(named.map { ObjectIdentifier($0.parameter) }))
        #expect(modules == Set(namedModules.map { ObjectIdentifier($0.module) }))
        #expect(
            Set(named.map(\.name)).count == named.count && Set(namedModules.map(\.name)).count == namedModules.count)
    }

    @Test(arguments: TinyFamily.allCases) func noChildOrParameterIsForgotten(_ family: TinyFamily) throws {
        let biased = family.config.changing(["attention_bias": true, "mlp_bias": true])
        for config in [family.config, biased] { check(try tinyModel(config)) }
    }

    @Test func noParameterOfAnAdapterIsForgotten() throws {
        let model = try tinyModel(TinyFamily.llama.config)
        let adapter = LowRankAdapter(
            on: model.blockLinears[0].linear, rank: 2, scaling: 1, dropout: 0, hasMagnitude: true,
            initialization: RandomStream(seed: 1, 1))
        check(adapter)
        #expect(adapter.namedParameters().map(\.name) == ["a", "b", "magnitude"])
    }

    @Test(arguments: TinyFamily.allCases) func planAndModelAgree(_ family: TinyFamily) throws {
        let model = try tinyModel(family.config)
        let shape = try modelShape(family.config, file: "config.json"), parameters = model.namedParameters()
        #expect(shape.parameterCount == parameters.reduce(0) { $0 + $1.parameter.value.count })
        #expect(Set(shape.parameterShapes.map(\.name)) == Set(parameters.map(\.name)))
        for (name, parameter) in parameters {
            #expect(shape.parameterShapes.first { $0.name == name }?.shape == parameter.fileShape)
        }
        #expect(model.blockLinears.count == 2 * family.maps)
    }
}
