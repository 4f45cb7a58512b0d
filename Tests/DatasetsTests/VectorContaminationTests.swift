// Questions found by the vectors of an encoder.
import Datasets
import Testing

@Suite struct VectorContaminationTests {
    @Test func cosinesDecide() {
        var index = VectorContaminationIndex(threshold: 0.9)
        index.add([3, 0, 0], test: 0, row: 4)
        index.add([0, 1, 1], test: 1, row: 0)
        index.add([0, 0, 0], test: 1, row: 1)
        // cos 22 degrees is above 0.9, cos 45 degrees is not; nothing is close to what has no direction.
        let hits = index.hits([1, 0.4, 0], row: 7)
        #expect(hits.map(\.test) == [0] && hits.map(\.question) == [4] && hits.map(\.row) == [7])
        #expect(abs(hits[0].score - 1 / 1.16.squareRoot()) < 1e-6)
        #expect(index.hits([1, 1, 0], row: 0).isEmpty && index.hits([0, 0, 0], row: 0).isEmpty)
        #expect(index.hits([0, 2, 2], row: 0).map(\.score).allSatisfy { abs($0 - 1) < 1e-6 })
        #expect(index.hits([.nan, 0, 0], row: 0).isEmpty)
    }
}
