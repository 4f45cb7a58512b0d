// Token and output tables with the low-rank maps that PEFT trained on them, made whole.
// V tokens, D width, r rank, s scaling
internal import Diagnostics
internal import Formats

/// A table of an adapter: W' = W + s (B A)ᵀ for tokens (A `[r, V]`, B `[D, r]`), W + s B A for outputs (A `[r, D]`,
/// B `[V, r]`), without A and B the table itself. With magnitudes m (DoRA, Liu et al. 2024, arXiv:2402.09353, eq. 5) each
/// row of outputs, and each column of tokens, is W' m / |W'|.
struct AdaptedTable {
    /// A tensor and the file that has it.
    struct Stored {
        let file: SafetensorsFile
        let info: TensorInfo
    }

    /// What was learnt of a table.
    struct Update {
        let a: Stored, b: Stored
        /// m `[D]` of tokens, `[V]` of outputs; nil without DoRA.
        let magnitudes: Stored?
        /// Whether the rows of A are tokens.
        let isOfTokens: Bool
        let scale: Double
    }

    let name: String
    let stored: Stored
    /// nil where the table is not adapted.
    var update: Update?

    var elementType: ElementType { update == nil ? stored.info.elementType : .f32 }
    var shape: [Int] { stored.info.shape }

    /// - Throws: `UserError` where the shapes of A, B and m make no table of this shape.
    func check() throws {
        guard let update else { return }
        let (a, b) = (update.a.info.shape, update.b.info.shape)
        let made =
            a.count == 2 && b.count == 2 && a[0] == b[1] && a[0] > 0
            ? (update.isOfTokens ? [a[1], b[0]] : [b[0], a[1]]) : []
        let types = [stored, update.a, update.b].map(\.info.elementType)
        guard made == shape, types.allSatisfy(\.isFloatingPoint) else {
            throw UserError(
                "\(update.a.file.path): tensors \(update.a.info.name) of shape \(a) and \(update.b.info.name) of shape \(b) do not fit the table of shape \(shape), or are no floating-point numbers"
            )
        }
        guard let magnitudes = update.magnitudes?.info else { return }
        let wanted = [update.isOfTokens ? shape[1] : shape[0]]
        guard magnitudes.shape == wanted, magnitudes.elementType.isFloatingPoint else {
            throw UserError(
                "\(update.a.file.path): tensor \(magnitudes.name) has shape \(magnitudes.shape) and type \(magnitudes.elementType.rawValue); floating-point numbers of shape \(wanted) fit the table"
            )
        }
    }

    /// Hands out the table's bytes, some rows at a time.
    func write(_ emit: (UnsafeRawBufferPointer) throws -> Void) throws {
        guard let update else { return try emit(stored.bytes()) }
        let width = shape[1], magnitudes = try update.magnitudes?.floats(), product = try Product(update)
        var columnScales: [Float]?
        if let magnitudes, update.isOfTokens {
            var squares = [Double](repeating: 0, count: width)
            try forEachBlock(product) { _, values in
                for (i, value) in values.enumerated() { squares[i % width] += Double(value) * Double(value) }
            }
            columnScales = zip(magnitudes, squares).map { Float(Double($0) / $1.squareRoot()) }
        }
        try forEachBlock(product) { begin, values in
            if let columnScales {
                for i in values.indices { values[i] *= columnScales[i % width] }
            } else if let magnitudes {
                for row in 0..<values.count / width {
                    let range = row * width..<(row + 1) * width
                    let squares = values[range].reduce(0) { $0 + Double($1) * Double($1) }
                    let scale = Float(Double(magnitudes[begin + row]) / squares.squareRoot())
                    for i in range { values[i] *= scale }
                }
            }
            try values.withUnsafeBytes(emit)
        }
    }

    /// s B A (tokens: its transpose) as r factors of each row of the table, s included, and r rows of its width.
    private struct Product {
        let rank: Int
        let factors: [Float], directions: [Float]

        init(_ update: Update) throws {
            /// Outputs have both as they lie.
            func numbers(_ matrix: Stored) throws -> [Float] {
                let values = try matrix.floats()
                return update.isOfTokens ? transposed(values, columns: matrix.info.shape[1]) : values
            }
            let (left, right) = update.isOfTokens ? (update.a, update.b) : (update.b, update.a)
            rank = update.a.info.shape[0]
            factors = try numbers(left).map { Float(update.scale) * $0 }
            directions = try numbers(right)
        }
    }

    /// W' without magnitudes, some rows at a time.
    private func forEachBlock(
        _ product: Product, _ body: (_ begin: Int, _ values: inout [Float]) throws -> Void
    ) throws {
        let (rows, width, rank) = (shape[0], shape[1], product.rank)
        let block = 1024
        for begin in stride(from: 0, to: rows, by: block) {
            let count = min(block, rows - begin)
            var values = try stored.floats(begin * width..<(begin + count) * width)
            for row in 0..<count {
                for k in 0..<rank {
                    let factor = product.factors[(begin + row) * rank + k]
                    for d in 0..<width { values[row * width + d] += factor * product.directions[k * width + d] }
                }
            }
            try body(begin, &values)
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

/// Where the tables of an adapter and of its base are.
private struct TableFiles {
    let weights: SafetensorsFile
    let base: SafetensorsFolder
    let naming: TensorNaming
    /// Whether the base has one table for tokens and outputs.
    let isTied: Bool
    private let tokens: String, outputs: [String]

    init(_ weights: SafetensorsFile, _ folder: String) throws {
        let file = joinPath(folder, "config.json")
        (self.weights, base, naming) = (
            weights, try SafetensorsFolder(folder: folder), try TensorNaming(folder: folder)
        )
        isTied = try ConfigReader(json: readJSONFile(file), file: file).tiesTables()
        tokens = AdapterFiles.prefix + naming.tokenTable.dropLast(".weight".count)
        outputs = [naming.headModule, TensorNaming.adapterHeadModule].map { AdapterFiles.prefix + $0 }
    }

    /// The adapter's copy of what it adapts, which PEFT writes where the vocabulary has changed.
    private func copy(_ modules: [String]) -> AdaptedTable.Stored? {
        modules.lazy.compactMap { weights[$0 + ".base_layer.weight"] }.first.map { .init(file: weights, info: $0) }
    }

    /// A table as it was before it was adapted.
    private func stored(isOfTokens: Bool) throws -> AdaptedTable.Stored {
        let own = copy(isOfTokens ? [tokens] : outputs)
        // Tied tables are one: a copy of either is a copy of both.
        if let found = own ?? (isTied ? copy([tokens] + outputs) : nil) { return found }
        let wanted = isOfTokens || isTied ? naming.tokenTable : naming.headTable
        guard let name = base.names.first(where: { naming.weight($0) == wanted }) else {
            throw UserError("\(base.folder): holds no \(wanted), which \(weights.path) adapts")
        }
        return .init(file: try base.file(of: name), info: base.info(name)!)
    }

    private func adapted(
        isOfTokens: Bool, _ scale: (_ module: String, _ rank: Int) -> Double
    ) throws -> AdaptedTable? {
        let (left, right) =
            isOfTokens ? (".lora_embedding_A", ".lora_embedding_B") : (".lora_A.weight", ".lora_B.weight")
        for name in isOfTokens ? [tokens] : outputs {
            guard let a = weights[name + left], let b = weights[name + right] else { continue }
            let module = String(name.dropFirst(AdapterFiles.prefix.count))
            let magnitudes = AdapterFiles.normalized(name + ".lora_magnitude_vector", naming)
            let table = AdaptedTable(
                name: name + ".weight", stored: try stored(isOfTokens: isOfTokens),
                update: .init(
                    a: .init(file: weights, info: a), b: .init(file: weights, info: b),
                    magnitudes: weights.tensors.first { AdapterFiles.normalized($0.name, naming) == magnitudes }.map {
                        .init(file: weights, info: $0)
                    },
                    isOfTokens: isOfTokens, scale: scale(module, a.shape.first ?? 1)))
            try table.check()
            return table
        }
        return nil
    }

    /// The tables that are adapted; where only one of two that were one is, the other one as it was.
    func tables(_ scale: (_ module: String, _ rank: Int) -> Double) throws -> [AdaptedTable] {
        var tokens = try adapted(isOfTokens: true, scale), outputs = try adapted(isOfTokens: false, scale)
        if isTied, tokens != nil, outputs == nil {
            let name = AdapterFiles.prefix + naming.headTable
            outputs = AdaptedTable(name: name, stored: try stored(isOfTokens: false))
        } else if isTied, outputs != nil, tokens == nil, let copy = copy(self.outputs) {
            tokens = AdaptedTable(name: AdapterFiles.prefix + naming.tokenTable, stored: copy)
        }
        return [tokens, outputs].compactMap { $0 }
    }
}

extension ForeignAdapter {
    /// The tables that PEFT adapts, made whole.
    ///
    /// - Parameters:
    ///   - base: the folder of the base model.
    ///   - scale: s of a module.
    static func adaptedTables(
        _ weights: SafetensorsFile, _ base: String, _ scale: (_ module: String, _ rank: Int) -> Double
    ) throws -> [AdaptedTable] { try TableFiles(weights, base).tables(scale) }
}
