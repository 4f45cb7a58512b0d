// Which value of a parameter holds for one tensor: levels, filters, gradients.
internal import Diagnostics

extension MergeSetting {
    /// The value at `t`, or nil when no filter fits the name.
    ///
    /// A gradient of K + 1 numbers is piecewise linear with its corners at t = i / K; of flags or words, the one at
    /// floor(t K) is taken.
    ///
    /// - Parameter t: place in the slice, 0 at its first layer, 1 at its last.
    package func value(tensor: String, t: Double) -> MergeValue? {
        switch self {
        case .value(let value): return value
        case .gradient(let values): return Self.interpolate(values, t)
        case .filtered(let entries):
            // The first entry that fits decides, also when it holds an empty gradient.
            return entries.first { $0.fits(tensor) }?.setting.value(tensor: tensor, t: t)
        }
    }

    private static func interpolate(_ values: [MergeValue], _ t: Double) -> MergeValue? {
        guard !values.isEmpty else { return nil }
        let place = t * Double(values.count - 1), index = min(Int(place), values.count - 1)
        let numbers = values.compactMap { if case .number(let number) = $0 { number } else { nil } }
        guard numbers.count == values.count else { return values[index] }
        let part = place - Double(index)
        return .number((1 - part) * numbers[index] + part * numbers[min(index + 1, numbers.count - 1)])
    }
}

extension MergeSetting.Filtered {
    func fits(_ tensor: String) -> Bool {
        guard let filter, filter != "*" else { return true }
        return contains(tensor, filter)
    }

    /// Byte for byte, so that a filter means the same in every language.
    private func contains(_ text: String, _ part: String) -> Bool {
        let text = Array(text.utf8), part = Array(part.utf8)
        guard part.count <= text.count else { return false }
        return (0...text.count - part.count).contains { text[$0..<$0 + part.count].elementsEqual(part) }
    }
}

/// Where a tensor of the output stands: its slice's settings and its place in the slice.
struct ParameterScope {
    /// From the nearest level to the farthest: slice, module, configuration. A source's own settings come before them.
    var levels: [MergeParameters]
    var t: Double

    /// The values of the method's parameters of scope `shared`.
    ///
    /// - Parameter tensor: the output tensor's name.
    func shared(_ method: MergeMethod, tensor: String) throws -> [String: MergeValue] {
        try values(method.parameters.filter { $0.scope == .shared }, levels, tensor: tensor, model: nil)
    }

    /// The values of an input's own parameters.
    ///
    /// - Parameters:
    ///   - tensor: the input tensor's name, which filters are held against.
    ///   - own: the settings beside the model in the configuration.
    func input(
        _ method: MergeMethod, tensor: String, model: MergeModelReference, own: MergeParameters, isBase: Bool
    ) throws -> [String: MergeValue] {
        let parameters = method.parameters.filter { $0.scope == .input || ($0.scope == .nonBase && !isBase) }
        return try values(parameters, [own] + levels, tensor: tensor, model: model)
    }

    private func values(
        _ parameters: [MergeParameter], _ levels: [MergeParameters], tensor: String, model: MergeModelReference?
    ) throws -> [String: MergeValue] {
        var result: [String: MergeValue] = [:]
        for parameter in parameters {
            let found = levels.lazy.compactMap { $0[parameter.name]?.value(tensor: tensor, t: t) }.first
            if let value = found ?? parameter.fallback {
                result[parameter.name] = value
            } else {
                let place = model.map { "model \($0), tensor \(tensor)" } ?? "tensor \(tensor)"
                throw UserError("parameter \(parameter.name) has no value for \(place); give one under parameters")
            }
        }
        return result
    }
}
