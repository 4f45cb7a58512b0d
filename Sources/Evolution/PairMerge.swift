// The merge of two models of a family as a configuration: which of them is the base follows from the method.
internal import Diagnostics
public import Merging

/// How the two parents of a child are merged.
public struct PairMerge: Sendable {
    public let method: MergeMethod
    private let parameters: MergeParameters
    private let base: MergeModelReference

    /// - Parameters:
    ///   - parameters: YAML values by name; required ones that are missing become 0.5, the middle.
    ///   - base: the common ancestor, for methods that merge differences to it.
    /// - Throws: `UserError` (64) for a method or parameter that does not exist or cannot merge two models.
    public init(method name: String, parameters given: [String: String], base: MergeModelReference) throws {
        guard let method = MergeMethod(rawValue: name), method != .passthrough else {
            let near = nearestName(to: name, among: MergeMethod.allCases.map(\.rawValue))
            throw UserError(
                "merge.method: no method \(name) for two models\(near.map { "; did you mean \($0)?" } ?? "")", .usage)
        }
        (self.method, self.base) = (method, base)
        var lines = given.sorted { $0.key < $1.key }.map { "  \($0.key): \($0.value)\n" }
        for parameter in method.parameters where parameter.fallback == nil && given[parameter.name] == nil {
            lines.append("  \(parameter.name): 0.5\n")
        }
        // A file of its own to the reader, so that names and values are checked as in any merge.
        let text =
            "merge_method: \(name)\nmodels: [{model: a}, {model: b}]\nbase_model: a\n"
            + (lines.isEmpty ? "" : "parameters:\n\(lines.joined())")
        do {
            parameters = try MergeConfig.parse(text, source: "merge.parameters")[0].parameters
        } catch let error as UserError {
            throw UserError(error.message, .usage)
        }
    }

    /// The configuration of a child; `better` is the base of methods that go from one of the two to the other.
    public func config(better: MergeModelReference, other: MergeModelReference) -> MergeConfig {
        let base: MergeModelReference? =
            switch method {
            case .slerp, .nearswap, .arceeFusion: better
            default: method.base == .required ? self.base : nil
            }
        return MergeConfig(
            method: method, layout: .models([MergeSource(better), MergeSource(other)]), base: base,
            parameters: parameters)
    }
}
