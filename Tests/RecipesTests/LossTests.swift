// The loss against torch's cross entropy (Fixtures/make_goldens.py).
// V vocabulary size
import Formats
import Tensors
import TestSupport
import Testing

@Suite struct LossTests {
    /// The head is the identity, so that hidden states are logits.
    @Test(arguments: 0..<2, [1, 2, 256]) func sumAndGradientEqualTorch(_ index: Int, _ chunk: Int) throws {
        let cases = try golden("training_goldens.json", besideFile: #filePath)["cross_entropy"]!.array!,
            golden = cases[index]
        #expect(cases.count == 3)  // the third has no label at all
        let labels = golden["labels"]!.ints, V = 7
        let identity = Tensor((0..<V * V).map { $0 % (V + 1) == 0 ? 1.0 : 0 }, [V, V])
        let logits = Tensor(golden["logits"]!.flatNumbers, [labels.count, V])
        logits.requiresGradient = true
        let kept = labels.indices.filter { labels[$0] >= 0 }
        #expect(kept.count == golden["counted"]!.int!)
        let loss = linearCrossEntropySum(
            logits.indexSelect(0, Tensor(kept.map(Int64.init))), identity,
            labels: Tensor(kept.map { Int64(labels[$0]) }),
            chunk: chunk)
        let expected = golden["sum"]!.double!
        #expect(abs(loss.item - expected) < 1e-12 * expected)
        loss.backward()
        let gradient = Tensor(golden["gradient"]!.flatNumbers, logits.shape)
        #expect(relativeDifference(try #require(logits.gradient), gradient) < 1e-12)
    }
}
