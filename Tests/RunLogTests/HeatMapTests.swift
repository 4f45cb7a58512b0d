// Heat maps: what their SVG says of the values.

import RunLog
import Testing

@Suite struct HeatMapTests {
    @Test func cellsCarryTheirNumbersAndUndefinedOnesADash() {
        var map = HeatMap(
            title: "Kinship <pcc>", rows: ["a", "b"], columns: ["a", "b"], values: [[1, -0.25], [nil, .nan]])
        map.palette = .diverging
        let svg = map.svg()
        #expect(svg.contains("<title>Kinship &lt;pcc&gt;</title>"))
        #expect(svg.contains(">1.00</text>") && svg.contains(">-0.25</text>"))
        #expect(svg.split(separator: ">–</text>").count - 1 == 2, "null and NaN leave their cells empty")
        #expect(svg.contains("a, b: -0.25") && svg.contains("b, a: undefined"))
    }

    @Test func divergingColoursAreSymmetricAboutZero() {
        var map = HeatMap(title: "t", rows: ["r"], columns: ["x", "y", "z"], values: [[-1, 0, 1]])
        map.palette = .diverging
        let svg = map.svg()
        #expect(
            svg.contains("fill=\"#12457f\"") && svg.contains("fill=\"#f4f3f0\"") && svg.contains("fill=\"#8a3d09\""))
    }

    @Test func manyCellsKeepTheirColoursAndLoseTheirNumbers() {
        let names = (0..<100).map { "layer \($0)" }
        let map = HeatMap(
            title: "t", rows: names, columns: names,
            values: names.indices.map { i in names.indices.map { Double(i * $0) } })
        let svg = map.svg()
        #expect(svg.split(separator: "<rect").count - 1 == 10_000 + 40)
        #expect(!svg.contains(">9801.00</text>"))
    }

    @Test func equalValuesHaveARange() {
        let svg = HeatMap(title: "t", rows: ["r"], columns: ["x", "y"], values: [[3, 3]]).svg()
        #expect(svg.contains(">3.00</text>") && !svg.contains("nan"))
    }
}
