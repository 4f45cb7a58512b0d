// Numbers as people read them, the step line, charts and the model card.

import Diagnostics
import Formats
import RunLog
import Testing

@Suite struct Units {
    @Test(arguments: [
        (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (10 << 20, "10 MiB"),
        (1_300_000_000, "1.2 GiB"),
    ]) func bytes(_ count: Int, _ text: String) { #expect(byteSize(count) == text) }

    @Test(arguments: [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
        (7620, "2 h 07 min"), (273_600, "3 d 04 h"), (-1, "unknown"), (.infinity, "unknown"), (.nan, "unknown"),
    ]) func durations(_ seconds: Double, _ text: String) { #expect(duration(seconds: seconds) == text) }

    @Test(arguments: [
        (0.000123456, 3, "0.000123"), (1.5e-7, 2, "1.5e-07"), (0, 3, "0"), (9.996, 3, "10.0"), (123456, 3, "123456"),
        (2e-4, 3, "0.000200"), (.nan, 3, "nan"), (-0.5, 2, "-0.50"), (1.2e12, 3, "1.20e+12"),
    ]) func digits(_ value: Double, _ digits: Int, _ text: String) { #expect(significant(value, digits) == text) }

    @Test(arguments: [
        (0.0, "0 FLOP"), (999.4, "999 FLOP"), (999.6, "1.00 kFLOP"), (4.314e11, "431 GFLOP"), (1.2e15, "1.20 PFLOP"),
    ]) func operations(_ count: Double, _ text: String) { #expect(operationCount(count) == text) }

    @Test func groups() {
        #expect([0, 1, 2, 28614].map { counted($0, "row") } == ["0 rows", "1 row", "2 rows", "28,614 rows"])
        #expect([0, 999, 1000, 28614, -1_234_567].map(grouped) == ["0", "999", "1,000", "28,614", "-1,234,567"])
        #expect(decimals(2.345, 2) == "2.35" || decimals(2.345, 2) == "2.34")
        #expect(decimals(-0.001, 2) == "0.00" && decimals(.infinity, 2) == "inf")
    }

    @Test func stepLine() {
        let figures = StepFigures(
            step: 412, steps: 1000, loss: 2.10341, gradNorm: 0.81234, learningRate: 1.2e-4, tokensPerSecond: 812.4,
            memoryBytes: 1_300_000_000, secondsLeft: 185)
        #expect(
            figures.line == "step   412/1,000  loss 2.1034  grad norm 0.8123  lr 0.000120  812 tokens/s  1.2 GiB  "
                + "3 min 05 s left")
    }

    @Test func timeLeftFollowsTheLastSteps() {
        var left = TimeLeft()
        let start = ContinuousClock.now
        #expect(left.update(step: 1, of: 100, now: start) == nil)
        #expect(left.update(step: 2, of: 100, now: start + .seconds(2)) == 196)
    }
}

@Suite struct Charts {
    @Test(arguments: [
        (0.0...1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0...3000, ["0", "500", "1,000", "1,500", "2,000", "2,500", "3,000"]),
        (2.13...2.17, ["2.13", "2.14", "2.15", "2.16", "2.17"]), (-5...5, ["-4", "-2", "0", "2", "4"]),
    ]) func ticks(_ range: ClosedRange<Double>, _ labels: [String]) {
        #expect(niceTicks(range, count: 6).map(\.label) == labels)
    }

    @Test func stepsAreCountedInWholeNumbers() {
        #expect(niceTicks(1...3, count: 8, whole: true).map(\.label) == ["1", "2", "3"])
    }

    @Test func hostileAndEmptyInputStaysAChart() throws {
        let points: [[(x: Double, y: Double)]] = [
            [], [(1, 1)], [(1, .nan), (2, .infinity)], [(0, 5), (1, 5)], [(0, 1e300), (1, -1e300)],
            [(0, 1e-300), (1, 0)],
        ]
        for series in points {
            let chart = LineChart(
                title: "<script>&\"\u{0}", xLabel: "x", yLabel: "y",
                series: [.init(name: "a<b", points: series, color: 0)])
            let svg = chart.svg()
            #expect(!svg.contains("<script>") && !svg.contains("nan") && !svg.contains("inf") && !svg.contains("\u{0}"))
            #expect(svg.hasPrefix("<svg ") && svg.hasSuffix("</svg>\n"))
            #expect(svg.components(of: "<text").count == svg.components(of: "</text>").count)
        }
    }

    /// Of another reduction than the held-out loss has, the axis says both.
    @Test func lossPlotNamesWhatTheLossCounts() {
        let metrics = [LossMetric.training: [(1, 5.0), (2, 4.0)], LossMetric.heldOut: [(2, 1.0)]]
            .mapValues { $0.map { (step: $0.0, value: $0.1) } }
        #expect(lossPlot(title: "a", metrics: metrics).contains(">loss (nats per token)<"))
        let sums = lossPlot(title: "a", trainingUnit: "nats of a whole step", metrics: metrics)
        #expect(sums.contains(">loss (training: nats of a whole step; held out: nats per token)<"))
        let alone = lossPlot(
            title: "a", trainingUnit: "nats of a whole step", metrics: metrics.filter { $0.key == LossMetric.training })
        #expect(alone.contains(">loss (nats of a whole step)<"))
    }

    @Test func lossPlotHasItsThreeSeriesAndStaysSmall() {
        var metrics: [String: [(step: Int, value: Double)]] = [:]
        metrics["train/loss"] = (1...100_000).map { ($0, 3 - Double($0 % 7) / 10) }
        metrics["eval/loss"] = stride(from: 10_000, through: 100_000, by: 10_000).map { ($0, 2.5) }
        let svg = lossPlot(title: "runs/demo", metrics: metrics)
        #expect(svg.components(of: "<polyline").count == 4 && svg.components(of: "<circle").count == 12)
        #expect(svg.utf8.count < 150_000)
    }

    @Test func smoothingKeepsAConstantAndTheLength() {
        let flat = smoothed((0..<100).map { (Double($0), 3.0) })
        #expect(flat.count == 100 && flat.allSatisfy { abs($0.y - 3) < 1e-12 })
        let slope = smoothed((0..<100).map { (Double($0), Double($0)) })
        #expect(slope.allSatisfy { abs($0.y - $0.x) < 1e-9 }, "a straight line stays where it is")
    }
}

extension String {
    /// The parts between occurrences of `separator`.
    fileprivate func components(of separator: String) -> [Substring] {
        split(separator: separator, omittingEmptySubsequences: false)
    }
}

@Suite struct ModelCards {
    @Test(arguments: [true, false]) func saysWhatItWasMadeFrom(_ isAdapter: Bool) {
        let card = ModelCard(
            title: "demo", baseModel: "/home/me/models/SmolLM2", isAdapter: isAdapter, method: "LoRA, rank 16",
            data: [("rows|x.jsonl", 3000, 150, "ab12")], settings: [("optimizer.learning_rate", "0.0005")],
            figures: [("validation loss", "1.23 nats per token")], versions: [("needletail", "0.1")])
        let text = card.markdown
        #expect(text.hasPrefix("---\nbase_model: \"SmolLM2\"\nlibrary_name: \(isAdapter ? "peft" : "transformers")\n"))
        #expect(!text.contains("/home/me"))
        #expect(text.contains("| rows\\|x.jsonl | 3,000 | 150 | `ab12` |"))
        #expect(text.contains("PeftModel") == isAdapter)
    }
}

@Test func peakMemoryIsThatOfThisProcess() {
    // A test process with Swift's libraries takes more than 1 MiB and less than this machine has.
    #expect((1 << 20..<1 << 40).contains(peakMemoryBytes()))
}
