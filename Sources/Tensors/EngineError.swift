// What happens when the engine refuses: a programmer's mistake stops with a full account; inside
// `catchingEngineErrors` the first failure is thrown instead, and everything computed after it is poison.
internal import CTorch

/// A failure of LibTorch: an operation, its operands, and the engine's own words.
public struct EngineError: Error, CustomStringConvertible {
    public let operation: String
    /// Shapes, dtypes and devices of the operands.
    public let operands: String
    public let reason: String
    public let isOutOfMemory: Bool

    public var description: String { "\(operation)(\(operands)): \(reason)" }
}

/// The first failure inside `catchingEngineErrors`. A class, since every operation of the scope shares it.
/// `@unchecked Sendable`: tensors stay on one thread, and so does the scope that their operations report to.
final class ErrorScope: @unchecked Sendable {
    @TaskLocal static var current: ErrorScope?
    var first: EngineError?
}

/// Runs `body` and throws the first engine failure in it, out of memory and shapes that cannot meet included.
///
/// After a failure the operations inside go on with poison tensors (empty, of any shape asked for), so that no code
/// needs a `try` per operation; nothing computed after the failure may leave the scope.
public func catchingEngineErrors<R>(_ body: () throws -> R) throws -> R {
    let scope = ErrorScope()
    let result = try ErrorScope.$current.withValue(scope, operation: body)
    if let error = scope.first { throw error }
    return result
}

/// Notes a failure in the scope, or stops the program when there is none.
func engineFailed(_ operation: String, _ operands: [Tensor], _ status: ct_status) {
    let error = EngineError(
        operation: operation, operands: operands.map(\.summary).joined(separator: ", "),
        reason: String(cString: ct_last_error()), isOutOfMemory: status == CT_OUT_OF_MEMORY)
    guard let scope = ErrorScope.current else { fatalError("\(error)") }
    if scope.first == nil { scope.first = error }
}
