// Correlations against scipy, and the published Path 1 recomputed from its rows.
import Evolution
import Formats

import Testing

func fixture(_ name: String) throws -> JSONValue {
    try readJSONFile(joinPath(parentFolder(of: #filePath), "Fixtures/\(name)"))
}

private func numbers(_ value: JSONValue?) -> [Double] { value!.array!.map { $0.double! } }

@Suite struct StatisticsTests {
    @Test func equalsScipy() throws {
        let cases = try fixture("statistics_goldens.json")["cases"]!.array!
        #expect(cases.count == 12)
        for one in cases {
            let found = try #require(Correlation(numbers(one["x"]), numbers(one["y"])))
            let r = one["r"]!.double!, p = one["p"]!.double!
            #expect(abs(found.r - r) < 1e-12, "\(one["name"]!)")
            #expect(abs(found.p - p) <= 1e-10 * max(p, 1e-3), "\(one["name"]!): \(found.p), scipy \(p)")
        }
    }

    @Test func undefinedCorrelationsAreNil() {
        #expect(Correlation([1, 2], [1, 2]) == nil)
        #expect(Correlation([1, 2, 3], [1, 1, 1]) == nil)
        #expect(Correlation([1, 2, 3], [1, 2]) == nil)
        #expect(Correlation([1, 2, 3], [2, 4, 6]).map { $0.r > 1 - 1e-12 && $0.p < 1e-6 } == true)
    }

    /// The correlations that the paper prints for Path 1, to two digits (5.1 of the specification).
    @Test(arguments: [
        ("pcc", -0.511, 0.062, -0.598, 0.024), ("cs", -0.451, 0.106, -0.671, 0.009), ("ed", 0.468, 0.091, 0.679, 0.008),
    ])
    func publishedPath1(_ metric: String, _ r: Double, _ p: Double, _ rAbsolute: Double, _ pAbsolute: Double) throws {
        let rows = try fixture("path1.json")["rows"]!.array!
        let kinship = rows.map { $0[metric]!.double! }, gain = rows.map { $0["gain"]!.double! }
        let signed = try #require(Correlation(kinship, gain)),
            absolute = try #require(Correlation(kinship, gain.map(abs)))
        #expect(signed.count == 14)
        for (found, wanted) in [(signed.r, r), (signed.p, p), (absolute.r, rAbsolute), (absolute.p, pAbsolute)] {
            #expect(abs(found - wanted) < 6e-4, "\(metric): \(found), published \(wanted)")
        }
    }

    /// On Path 1 one hit is noise: patience 1 stops after generation 3, patience 2 after generation 10.
    @Test(arguments: [(1, 3, 75.15, 1.71), (2, 10, 76.67, 0.19)])
    func earlyStopOnPath1(_ patience: Int, _ generation: Int, _ average: Double, _ under: Double) throws {
        let rows = try fixture("path1.json")["rows"]!.array!
        let stop = try #require(
            EarlyStop(threshold: 0.9, patience: patience).firstStop(rows.map { $0["pcc"]!.double! }))
        #expect(rows[stop]["generation"]!.int == generation && rows[stop]["atp"]!.double == average)
        #expect(abs(rows[rows.count - 1]["atp"]!.double! - average - under) < 1e-9)
    }

    @Test func earlyStopOfDistancesWaitsForSmallOnes() {
        let stop = EarlyStop(threshold: 2.5, patience: 2)
        #expect(stop.firstStop([5, 2.2, 4, 2.4, 2.3, 1], isDistance: true) == 4)
        #expect(stop.firstStop([5, nil, 2.4, nil, 2.3]) == nil)
    }

    @Test func shufflesOfFewValuesCorrelateByChance() throws {
        let x = (0..<12).map(Double.init), y = x.map { -$0 }
        let share = try #require(shuffledShare(x, y, below: 0.5, shuffles: 1000, seed: 3))
        // |r| < 0.5 at N = 12 has p = 0.098 on the other side.
        #expect(abs(share - 0.902) < 0.04)
        #expect(shuffledShare(x, y, below: 0.5, shuffles: 1000, seed: 3) == share)
    }
}
