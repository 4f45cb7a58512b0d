// LoRA, rsLoRA and DoRA on one linear map against peft (Fixtures/make_goldens.py).
import Formats
import Layers
import ModelFiles
import Models
import RandomStreams
import Tensors
import TestSupport
import Testing

@Suite struct AdapterGoldenTests {
    /// 2e-6 of the largest value: fp32 on both sides, seven digits in the file.
    @Test(arguments: 0..<5) func equalsPeft(_ index: Int) throws {
        let file = try golden("lora_goldens.json", besideFile: #filePath), cases = file["cases"]!.array!
        #expect(cases.count == 5)
        let golden = cases[index], isDora = golden["dora"]!.bool!, isStart = golden["at_start"]!.bool!
        let I = file["in"]!.int!, O = file["out"]!.int!, r = file["rank"]!.int!

        let base = Linear(I, O, bias: true, .float32, on: .cpu)
        base.weight.value.copyInPlace(filled([O, I], 0, scale: 1))
        base.bias!.value.copyInPlace(filled([O], 1, scale: 1))
        let rule: AdapterScaling = golden["rslora"]!.bool! ? .rankStabilized : .standard
        let scaling = rule.value(alpha: file["alpha"]!.double!, rank: r)
        #expect(abs(scaling - golden["scaling"]!.double!) < 1e-15)
        let adapter = LowRankAdapter(
            on: base, rank: r, scaling: scaling, dropout: 0, hasMagnitude: isDora,
            initialization: RandomStream(seed: 1, 1))
        base.adapter = adapter
        adapter.a.value.copyInPlace(filled([r, I], 2, scale: 1))
        #expect(adapter.b.value.values(Float.self).allSatisfy { $0 == 0 })
        if !isStart {
            adapter.b.value.copyInPlace(filled([O, r], 3, scale: 1))
            if let m = adapter.magnitude { m.value.copyInPlace(m.value.detached() + filled([O], 6, scale: 0.5)) }
        }
        var leaves = [("lora_A", adapter.a), ("lora_B", adapter.b)]
        if let magnitude = adapter.magnitude {
            #expect(relativeDifference(magnitude.value, Tensor(golden["magnitude"]!.flatNumbers)) < 2e-6)
            leaves.append(("magnitude", magnitude))
        }
        for (_, parameter) in leaves { parameter.isTrained = true }
        let x = filled([3, I], 4, scale: 2)
        x.requiresGradient = true

        let y = base(x)
        #expect(relativeDifference(y, Tensor(golden["output"]!.flatNumbers, [3, O])) < 2e-6)
        (y * filled([3, O], 5, scale: 2)).sum().backward()
        for (name, value) in leaves.map({ ($0, $1.value) }) + [("x", x)] {
            let expected = Tensor(golden["gradients"]![name]!.flatNumbers, value.shape)
            #expect(relativeDifference(try #require(value.gradient), expected) < 2e-6, "\(name)")
        }
        #expect(base.weight.value.gradient == nil)
        let merged = adapter.merged(base.weight)
        #expect(relativeDifference(merged, Tensor(golden["merged_weight"]!.flatNumbers, [O, I])) < 2e-6)
    }
}
