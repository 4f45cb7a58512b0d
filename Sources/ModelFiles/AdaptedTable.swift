// Token and output tables with the low-rank maps that PEFT trained on them, made whole.
// V tokens, D width, r rank, s scaling
internal import Diagnostics
internal import Formats

/// A table of an adapter: W' = W + s (B A)ᵀ for tokens (A `[r, V]`, B `[D, r]`), W + s B A for outputs (A `[r, D]`,
/// B `[V, r]`), without A and B the table itself.
struct AdaptedTable {
    /// A tensor and the file that has it.
    struct Stored {
        let file: SafetensorsFile
        let info: TensorInfo
    }

    let name: String
    let stored: Stored
    /// A and B, and whether the rows of A are tokens; nil where the table is not adapted.
    var update: (a: Stored, b: Stored, isOfTokens: Bool, scale: Double)?

    var elementType: ElementType { update == nil ? stored.info.elementType : .f32 }
    var shape: [Int] { stored.info.shape }

    /// - Throws: `UserError` where the shapes of A and B make no table of this shape.
    func check() throws {
        guard let update else { return }
        let (a, b) = (update.a.info.shape, update.b.info.shape)
        let made =
            a.count == 2 && b.count == 2 && a[0] == b[1] ? (update.isOfTokens ? [a[1], b[0]] : [b[0], a[1]]) : []
        let types = [stored, update.a, update.b].map(\.info.elementType)
        guard made == shape, types.allSatisfy(\.isFloatingPoint) else {
            throw UserError(
                "\(update.a.file.path): tensors \(update.a.info.name) of shape \(a) and \(update.b.info.name) of shape \(b) do not fit the table of shape \(shape), or are no floating-point numbers"
            )
        }
    }

    /// Hands out the table's bytes, some rows at a time.
    func write(_ emit: (UnsafeRawBufferPointer) throws -> Void) throws {
        guard let update else { return try emit(stored.bytes()) }
        let (rows, width) = (shape[0], shape[1])
        let a = try update.a.floats(), b = try update.b.floats(), rank = update.a.info.shape[0]
        // Of each row its r factors, and r rows of the width: outputs have them as they lie.
        let factors = update.isOfTokens ? transposed(a, columns: rows) : b
        let directions = update.isOfTokens ? transposed(b, columns: rank) : a
        let block = 1024
        for begin in stride(from: 0, to: rows, by: block) {
            let count = min(block, rows - begin)
            var values = try stored.floats(begin * width..<(begin + count) * width)
            for row in 0..<count {
                for k in 0..<rank {
                    let factor = Float(update.scale) * factors[(begin + row) * rank + k]
                    for d in 0..<width { values[row * width + d] += factor * directions[k * width + d] }
                }
            }
            try values.withUnsafeBytes(emit)
        }
    }
}

extension AdaptedTable.Stored {
    func bytes() throws -> UnsafeRawBufferPointer { try file.bytes(of: info.name) }

    /// Numbers of the tensor in fp32; all when `range` is nil.
    func floats(_ range: Range<Int>? = nil) throws -> [Float] {
        let type = info.elementType, bytes = try bytes()
        let range = range ?? 0..<bytes.count / type.byteCount
        return floats32(
            type,
            UnsafeRawBufferPointer(
                rebasing: bytes[range.lowerBound * type.byteCount..<range.upperBound * type.byteCount]))
    }
}

/// `[n, columns]` -> `[columns, n]`
private func transposed(_ values: [Float], columns: Int) -> [Float] {
    let rows = values.count / columns
    return (0..<values.count).map { values[$0 % rows * columns + $0 / rows] }
}

extension ForeignAdapter {
    /// The tables that PEFT adapts, made whole, and what else the model's two tables need to be told apart: the base's
    /// output table, which stays as it was, where it is the token table.
    ///
    /// - Parameters:
    ///   - base: the folder of the base model.
    ///   - scale: s of a module.
    static func adaptedTables(
        _ weights: SafetensorsFile, _ base: String, _ scale: (_ module: String, _ rank: Int) -> Double
    ) throws -> [AdaptedTable] {
        let naming = try TensorNaming(folder: base), folder = try SafetensorsFolder(folder: base)
        let token = moduleOf(naming.tokenTable), head = moduleOf(naming.headTable)
        /// The table under a module: the adapter's own copy, else the base's, else (an output table) the token table.
        func stored(_ module: String) throws -> AdaptedTable.Stored {
            let copies = [".base_layer.weight", ".weight"].map { AdapterFiles.prefix + module + $0 }
            if let copy = copies.lazy.compactMap({ weights[$0] }).first { return .init(file: weights, info: copy) }
            if let name = folder.names.first(where: { naming.weight($0) == module + ".weight" }) {
                return .init(file: try folder.file(of: name), info: folder.info(name)!)
            }
            if module == head { return try stored(token) }
            throw UserError("\(base): holds no \(module).weight, which \(weights.path) adapts")
        }
        func adapted(_ module: String, _ left: String, _ right: String) throws -> AdaptedTable? {
            let name = AdapterFiles.prefix + module
            guard let a = weights[name + left], let b = weights[name + right] else { return nil }
            if weights.tensors.contains(where: { $0.name.hasPrefix(name + ".lora_magnitude") }) {
                throw UserError("\(weights.path): DoRA of the table \(module) is not supported; merge it with peft")
            }
            let update = (
                a: AdaptedTable.Stored(file: weights, info: a), b: AdaptedTable.Stored(file: weights, info: b),
                isOfTokens: module == token, scale: scale(module, a.shape.first ?? 1)
            )
            let table = AdaptedTable(name: name + ".weight", stored: try stored(module), update: update)
            try table.check()
            return table
        }
        let tokens = try adapted(token, ".lora_embedding_A", ".lora_embedding_B")
        let outputs = try adapted(head, ".lora_A.weight", ".lora_B.weight")
        let unchanged =
            try tokens != nil && outputs == nil
            ? AdaptedTable(name: AdapterFiles.prefix + naming.headTable, stored: stored(head)) : nil
        return [tokens, outputs, unchanged].compactMap { $0 }
    }

    private static func moduleOf(_ weight: String) -> String { String(weight.dropLast(".weight".count)) }
}
