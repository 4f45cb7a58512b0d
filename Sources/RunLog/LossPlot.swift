// The picture of a run: training loss, raw and smoothed, and held-out loss, from the metrics file.

internal import Diagnostics
internal import Formats

/// Values by metric name, each with its step, in the order of the file.
///
/// A last line without its end, as a trainer writing at this moment leaves it, is not read.
/// - Throws: `UserError` (65) for a file that cannot be read or has a row that is no object.
public func readMetrics(_ path: String) throws -> [String: [(step: Int, value: Double)]] {
    var series: [String: [(step: Int, value: Double)]] = [:]
    let lines = try readFile(path, maxBytes: .max).split(separator: 0x0A, omittingEmptySubsequences: false).dropLast()
    for (i, line) in lines.enumerated() {
        guard let row = try? JSONValue.parse(Array(line)), let object = row.object, let step = object["step"]?.int
        else {
            throw UserError("\(path) line \(i + 1): not a row of metrics")
        }
        for (name, value) in object where name != "step" && name != "time" {
            if let number = value.double { series[name, default: []].append((step, number)) }
        }
    }
    return series
}

/// Names of the losses in the metrics file: held-out loss is in nats a token, training loss unless
/// `training.loss_reduction` says otherwise.
public enum LossMetric {
    public static let training = "train/loss", heldOut = "eval/loss"
}

/// Loss over steps as SVG.
///
/// - Parameters:
///   - title: usually the run's name.
///   - trainingUnit: what the training loss counts.
///   - metrics: as `readMetrics` gives them; uses those of `LossMetric`.
public func lossPlot(
    title: String, trainingUnit: String = "nats per token", metrics: [String: [(step: Int, value: Double)]]
) -> String {
    let points = { (name: String) in (metrics[name] ?? []).map { (x: Double($0.step), y: $0.value) } }
    let train = points(LossMetric.training), heldOut = points(LossMetric.heldOut)
    var series: [LineChart.Series] = []
    if train.count >= 20 {
        series.append(.init(name: "training, each step", points: train, style: .faint, color: 0))
        series.append(.init(name: "training, smoothed", points: smoothed(train), color: 0))
    } else {
        series.append(.init(name: "training", points: train, color: 0))
    }
    if !heldOut.isEmpty {
        series.append(.init(name: "held out", points: heldOut, style: .dots, color: 1))
    }
    let heldOutUnit = "nats per token"
    let units =
        heldOut.isEmpty || trainingUnit == heldOutUnit
        ? trainingUnit : "training: \(trainingUnit); held out: \(heldOutUnit)"
    return LineChart(title: title, xLabel: "optimiser step", yLabel: "loss (\(units))", series: series).svg()
}

/// Mean over about a thirtieth of the points around each; near the ends over fewer, as many on either side, so that a
/// falling curve is neither shifted nor bent.
package func smoothed(_ points: [(x: Double, y: Double)]) -> [(x: Double, y: Double)] {
    let finite = points.filter(\.y.isFinite)
    var sums = [0.0]
    for point in finite { sums.append(sums[sums.count - 1] + point.y) }
    let reach = max(1, finite.count / 60)
    return finite.indices.map { i in
        let side = min(reach, i, finite.count - 1 - i)
        return (finite[i].x, (sums[i + side + 1] - sums[i - side]) / Double(2 * side + 1))
    }
}
