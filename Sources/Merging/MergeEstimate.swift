// What a merge will take: measured on a part of its tensors, told as text or JSON.
internal import Diagnostics
public import Formats
internal import Glibc
internal import RunLog

/// The cost of a merge, from a sample of its tensors merged and thrown away.
public struct MergeEstimate: Sendable {
    /// Wall time of the whole merge without waiting for the disk.
    public var seconds: Double
    /// Seconds of a thread for a million output elements, by tensor of the sample.
    public var sample: [(tensor: String, secondsPerMillion: Double)]
    /// Share of the output's elements that the sample merged.
    public var sampledShare: Double
    /// Growth of the process's anonymous memory over the sample, for one thread, times the threads.
    public var workingBytes: Int
}

extension MergePlan {
    /// Merges tensors of different sizes for about a second.
    public func estimate(threads: Int, secondsOfSample: Double = 1) throws -> MergeEstimate {
        let workingBytes = try tensors.max { $0.elementCount < $1.elementCount }.map(workingBytes) ?? 0
        var merged = 0, spent = 0.0, sample: [(tensor: String, secondsPerMillion: Double)] = []
        for tensor in sampleOrder() where spent < secondsOfSample {
            let began = ContinuousClock.now
            try produce(tensor) { _ in }
            let seconds = began.duration(to: .now) / .seconds(1)
            merged += tensor.elementCount
            spent += seconds
            if tensor.elementCount > 0 { sample.append((tensor.name, seconds / Double(tensor.elementCount) * 1e6)) }
        }
        let all = tensors.reduce(0) { $0 + $1.elementCount }
        let perElement = merged > 0 ? spent / Double(merged) : 0
        let used = min(threads, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        return MergeEstimate(
            seconds: perElement * Double(all) / Double(max(1, used)), sample: sample,
            sampledShare: all > 0 ? Double(merged) / Double(all) : 0, workingBytes: workingBytes * threads)
    }

    /// Ends a merge whose first blocks have been seen.
    private struct SeenEnough: Error {}

    /// What merging a tensor adds to the process's anonymous memory. The first blocks show all of it: what a method gathers
    /// over the whole tensor it has gathered by then. Apart from the timing, since asking takes longer than merging a block.
    private func workingBytes(_ tensor: PlannedTensor) throws -> Int {
        let before = anonymousMemoryBytes()
        var most = before, blocks = 0
        do {
            try produce(tensor) { _ in
                most = max(most, anonymousMemoryBytes())
                blocks += 1
                if blocks == 3 { throw SeenEnough() }
            }
        } catch is SeenEnough {}
        return most - before
    }

    /// One tensor of each kind (the layer left out), the smaller ones first, then the rest.
    private func sampleOrder() -> [PlannedTensor] {
        var seen: Set<String> = []
        let kinds = tensors.filter { tensor in
            seen.insert(LayeredName(tensor.name).map { "\($0.prefix).\($0.rest)" } ?? tensor.name).inserted
        }
        return kinds.sorted { $0.elementCount < $1.elementCount }
    }

    /// The plan as JSON: `needletail merge plan --json`.
    public func json(_ estimate: MergeEstimate) -> JSONValue {
        func object(_ values: [String: MergeValue]) -> JSONValue {
            .object(JSONObject(values.sorted { $0.key < $1.key }.map { ($0.key, $0.value.json) }))
        }
        let list = tensors.map { tensor -> JSONValue in
            let settings = tensor.settings
            let inputs = settings.inputs.map { input -> JSONValue in
                [
                    "model": .init(input.model), "tensor": .string(input.tensor), "base": .init(input.isBase),
                    "parameters": object(input.values),
                ]
            }
            return [
                "name": .string(tensor.name), "shape": .array(tensor.shape.map { .init($0) }),
                "dtype": .string(tensor.elementType.rawValue), "parameters": object(settings.shared),
                "inputs": .array(inputs),
            ]
        }
        return [
            "method": .string(config.method.rawValue), "models": .array(models.map { .string("\($0.reference)") }),
            "base_model": config.base.map { .string("\($0)") } ?? nil, "notes": .array(notes.map { .string($0) }),
            "output_bytes": .init(outputBytes), "elements": .init(tensors.reduce(0) { $0 + $1.elementCount }),
            "seconds": .init(estimate.seconds), "sampled_share": .init(estimate.sampledShare),
            "working_memory_bytes": .init(estimate.workingBytes), "tensors": .array(list),
        ]
    }

    /// The plan as text.
    public func summary(_ estimate: MergeEstimate, listsTensors: Bool) -> String {
        let elements = tensors.reduce(0) { $0 + $1.elementCount }
        var lines = ["method     \(config.method.rawValue)"]
        for (i, model) in models.enumerated() {
            lines.append(
                "\(i == 0 ? "models     " : "           ")\(model.reference)\(model.reference == config.base ? " (base)" : "")"
            )
        }
        lines += [
            "tensors    \(grouped(tensors.count)) (\(counted(elements, "element")), \(mainType.configName))",
            "disk       \(byteSize(outputBytes))",
            "memory     \(byteSize(estimate.workingBytes)) while merging, at any shard size",
            "time       \(duration(seconds: estimate.seconds)), from \(decimals(estimate.sampledShare * 100, 1)) % of the elements; the disk not counted",
        ]
        lines += notes.map { "note       \($0)" }
        lines += ["", "seconds of a thread for a million elements"]
        lines += estimate.sample.map { "  \(significant($0.secondsPerMillion, 3))  \($0.tensor)" }
        lines += [""] + parameterLines(listsTensors)
        return lines.joined(separator: "\n") + "\n"
    }

    /// Which parameters hold where: tensors with the same ones together, or each by itself.
    private func parameterLines(_ each: Bool) -> [String] {
        var groups: [(settings: String, names: [String])] = [], position: [String: Int] = [:]
        for tensor in tensors {
            let settings = describe(tensor), key = each ? tensor.name : settings
            if let i = position[key] {
                groups[i].names.append(tensor.name)
            } else {
                position[key] = groups.count
                groups.append((settings, [tensor.name]))
            }
        }
        return ["parameters"]
            + groups.map { group in
                let more = group.names.count > 1 ? " and \(group.names.count - 1) more" : ""
                return "  \(group.names[0])\(more): \(group.settings)"
            }
    }

    private func describe(_ tensor: PlannedTensor) -> String {
        func text(_ values: [String: MergeValue]) -> String {
            values.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value.spelled)" }.joined(separator: ", ")
        }
        let settings = tensor.settings
        guard !settings.inputs.isEmpty else { return "copied" }
        let inputs = settings.inputs.map { input in
            let own = text(input.values)
            return "\(models[input.model].reference)\(input.isBase ? " (base)" : "")\(own.isEmpty ? "" : " (\(own))")"
        }
        let shared = text(settings.shared)
        return inputs.joined(separator: ", ") + (shared.isEmpty ? "" : "; \(shared)")
    }
}

extension MergeValue {
    var json: JSONValue {
        switch self {
        case .number(let value): value == value.rounded() && abs(value) < 1e15 ? .init(Int(value)) : .init(value)
        case .flag(let flag): .init(flag)
        case .text(let text): .init(text)
        }
    }

    var spelled: String {
        switch self {
        // Six digits say what a gradient gave; zeros behind them say nothing.
        case .number(let value): "\(Double(significant(value, 6)) ?? value)"
        case .flag(let flag): "\(flag)"
        case .text(let text): text
        }
    }
}
