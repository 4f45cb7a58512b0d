// merge moe: dense models become the experts of one.
import Assembly
import CommandLineInterface
import Diagnostics
import Formats
import Merging
import ModelFiles
import Models
import RunConfig
import RunLog
import Tokenizers

func mergeMoE(_ command: MergeMoECommand) throws {
    try refuseExisting(command.output)
    let config = try ConfigLoader.load(MoEConfig.self, file: command.config)
    if !command.allowEqualExperts { try config.refuseEqualExperts() }
    let assembly = try MoEAssembly(config, opened: MergeModels { ProgressLine.print($0) }) { warn($0) }
    let rows = try assembly.routerRows(config.gateMode.readsPrompts ? try gateSource(assembly, command.compute) : nil)
    let degenerate = assembly.degenerateLayers(rows)
    if !degenerate.isEmpty {
        let which =
            degenerate.count == assembly.layers
            ? "all layers" : "layers \(degenerate.map(String.init).joined(separator: ", "))"
        warn("\(which): the routers' rows look alike (condition number above 5), so some experts will hardly be used")
    }
    try assembly.write(
        to: command.output, rows, layout: command.layout, source: try readTextFile(command.config),
        maxShardBytes: command.maxShardBytes, threads: command.threads)
    ProgressLine.print(
        "wrote \(command.output): \(assembly.architecture.rawValue), \(counted(config.experts.count, "expert"))")
}

/// The base model, opened to see what it makes of the prompts.
private func gateSource(_ assembly: MoEAssembly, _ compute: ComputeOptions) throws -> GateSource {
    let base = assembly.base
    guard let folder = base.folder else { throw UserError("\(base.reference): no model folder") }
    let device = try engineDevice(compute.device)
    let reference =
        base.adapterFolder == nil ? try ModelReference(folder) : try ModelReference(base.adapterFolder!, base: folder)
    let loaded = try LoadedModel(reference, dtype: compute.dtype.dtype(on: device), device: device)
    return GateSource(loaded.model, try Tokenizer(modelPath: reference.tokenizerFolder))
}

func warn(_ text: String) { ProgressLine.print("warning: \(text)") }
