// extract-lora: an adapter out of the difference of two models.
import Assembly
import CommandLineInterface
import Diagnostics
import Formats
import Merging
import RunLog

func extractLoRA(_ command: ExtractLoRACommand) throws {
    try refuseExisting(command.output)
    let models = MergeModels { ProgressLine.print($0) }
    let tuned = try models.model(MergeModelReference(parsing: command.model))
    let base = try models.model(MergeModelReference(parsing: command.base))
    var options = ExtractionOptions()
    (options.rank, options.maxRank, options.share) = (command.rank, command.maxRank, command.keepShare)
    options.savesTables = !command.skipTables
    let extraction = try AdapterExtraction(tuned, base: base, baseName: command.base, options) { done, all in
        ProgressLine.show("decomposed \(done) of \(counted(all, "map"))", isLast: done == all)
    }
    ProgressLine.finish()
    try extraction.write(to: command.output)
    let report = extraction.report
    if let share = command.keepShare, let worst = report.maps.min(by: { $0.share < $1.share }), worst.share < share {
        warn("rank \(report.rank), the largest allowed, keeps \(percent(worst.share)) of \(worst.name)")
    }
    if !report.missed.isEmpty {
        let names = report.missed.prefix(3).map(\.name).joined(separator: ", ")
        let more = report.missed.count > 3 ? " and \(report.missed.count - 3) more" : ""
        warn("not in the adapter, though changed: \(names)\(more)")
    }
    try StandardOutput.write(command.json ? report.json.serialized(.pretty) + "\n" : text(report))
    ProgressLine.print("wrote \(command.output), rank \(report.rank)")
}

private func text(_ report: ExtractionReport) -> String {
    var lines = report.maps.map { "\($0.name): \(percent($0.share)) of \(short($0.norm))" }
    lines += report.saved.map { "\($0.name): saved whole" }
    lines += report.missed.map { "\($0.name): 0% of \($0.norm.map(short) ?? "more rows")" }
    if !report.rounded.isEmpty {
        lines.append("\(counted(report.rounded.count, "tensor")) unchanged but for rounding to another number format")
    }
    lines.append("all: \(percent(report.share)) of the difference's norm at rank \(report.rank)")
    return lines.joined(separator: "\n") + "\n"
}

private func percent(_ share: Double) -> String {
    let tenths = Int((share * 1000).rounded(.down))
    return "\(tenths / 10).\(tenths % 10)%"
}

/// A norm to four digits.
private func short(_ value: Double) -> String {
    guard value > 0, value.isFinite else { return "0" }
    var scale = 1.0
    while value * scale < 1000 { scale *= 10 }
    return "\((value * scale).rounded() / scale)"
}
