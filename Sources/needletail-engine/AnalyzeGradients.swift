// analyze gradients: from flags to a study, its table and its files.
import CommandLineInterface
import Diagnostics
import Formats
import Glibc
import GradientAnalysis
import RunLog
import Tensors

func analyzeGradients(_ command: GradientsCommand) throws {
    var settings = StudySettings(models: command.models, dataSets: command.dataSets, output: command.output)
    settings.projections = try projections(command.projections)
    settings.template = command.template == .chat ? .chat : .none
    if !command.irrelevant.isEmpty {
        settings.irrelevant = command.irrelevant == ["shuffle"] ? .shuffle : .files(command.irrelevant)
    }
    (settings.allowsEqual, settings.limit, settings.seed) = (command.allowEqual, command.limit, command.seed)
    (settings.maxLength, settings.cosines) = (command.maxLength, command.cosines)
    (settings.savesSingularValues, settings.isUntrained) = (command.saveSingularValues, command.initialize == .random)
    settings.device = try engineDevice(command.device)
    var options = ReportOptions()
    (options.perLoss, options.parts) = (command.perLoss, command.partSizes)

    SignalFlags.install()
    let study = try GradientStudy(settings)
    guard try study.run() else {
        ProgressLine.print("stopped; run the same command again to go on")
        exit((SignalFlags.stopRequested ?? .tryAgain).rawValue)
    }
    let report = try study.report(options)
    try report.writeFiles()
    let detail: StudyReport.Detail = command.by == .part ? .part : .layer
    let text = command.json ? report.json.serialized() : report.table(detail).joined(separator: "\n")
    try StandardOutput.write(text + "\n")
    ProgressLine.print("written: \(command.output)")
}

private func projections(_ list: String) throws -> [Projection] {
    let names = list.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    let all = Projection.allCases.map(\.rawValue)
    let chosen = try names.map { name in
        guard let projection = Projection(rawValue: name) else {
            throw UserError("--projections: '\(name)' is none of \(all.joined(separator: ", "))", .usage)
        }
        return projection
    }
    guard Set(chosen).count == chosen.count else {
        throw UserError("--projections: one is named twice in \(list)", .usage)
    }
    return chosen
}
