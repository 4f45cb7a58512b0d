// The counter-based generator against the vectors published with it.
import Kernels
import RandomStreams
import Tensors
import Testing

@Suite struct RandomTests {
    /// Known answers of Random123 1.09 (`kat_vectors`, philox4x32 with 10 rounds).
    @Test(
        arguments: [
            ([0, 0, 0, 0], [0, 0], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [0xffff_ffff, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff], [0xffff_ffff, 0xffff_ffff],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
            ),
        ] as [([UInt32], [UInt32], [UInt32])])
    func philoxKnownAnswers(_ counter: [UInt32], _ key: [UInt32], _ expected: [UInt32]) {
        var out = [UInt32](repeating: 0, count: 4)
        nt_philox4x32(counter, key, &out)
        #expect(out == expected)
    }

    @Test func anyPartCanBeDrawnAlone() {
        let stream = RandomStream(seed: 3, 1, 2)
        let all = stream.words(1000)
        for offset in [0, 1, 5, 500, 997] {
            #expect(stream.words(3, offset: UInt64(offset)) == Array(all[offset..<offset + 3]))
        }
        #expect(RandomStream(seed: 3, 2, 1).words(4) != RandomStream(seed: 3, 1, 2).words(4))
        #expect(RandomStream(seed: 4, 1, 2).words(4) != stream.words(4))
    }

    @Test func distributionsHaveTheirMoments() {
        let n = 200_000
        let normal = RandomStream(seed: 1, 1).normal([n], mean: 2, deviation: 3).values(Double.self)
        let mean = normal.reduce(0, +) / Double(n)
        let variance = normal.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(n)
        #expect(abs(mean - 2) < 0.03 && abs(variance - 9) < 0.15)  // four standard errors
        let uniform = RandomStream(seed: 1, 2).uniform([n], -1, 1).values(Double.self)
        #expect(abs(uniform.reduce(0, +) / Double(n)) < 0.006 && uniform.min()! >= -1 && uniform.max()! < 1)
    }

    /// x after dropout: what an adapter of unit matrices adds to nothing.
    private func dropped(_ x: Tensor, _ dropout: Dropout) -> Tensor {
        let I = x.shape2.1, unit = Tensor((0..<I * I).map { Float($0 % (I + 1) == 0 ? 1 : 0) }, [I, I]).to(x.dtype)
        return adaptedLinear(
            x, .zeros([I, I], x.dtype), a: unit, aCopy: nil, b: unit, bCopy: nil, scaling: 1, dropout: dropout)
    }

    @Test func dropoutKeepsTheMean() {
        let values = dropped(.ones([2500, 40]), Dropout(RandomStream(seed: 1, 3), probability: 0.25)).values(Float.self)
        let kept = values.filter { $0 != 0 }
        #expect(Set(kept) == [Float(1 / 0.75)])
        #expect(abs(Double(kept.count) / 100_000 - 0.75) < 0.006)
    }

    /// A product with a mask of the same dtype, bit for bit: runs that began with one go on. fp16 has no kernel.
    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16], [0.05, 0.5])
    func dropoutIsAMask(_ dtype: DType, _ p: Double) {
        let stream = RandomStream(seed: 0x1_2345_6789, 4, 7), x = RandomStream(seed: 1, 5).normal([37, 29]).to(dtype)
        let scale = Float(1 / (1 - p)), threshold = Float(p)
        let mask = Tensor(stream.uniform(37 * 29).map { $0 < threshold ? 0 : scale }, [37, 29]).to(dtype)
        let found = dropped(x, Dropout(stream, probability: p))
        #expect(found.dtype == dtype && found.values(Double.self) == (x * mask).values(Double.self))
    }
}
