// An adapter on its base as plain tensors, without making them whole: W + s·B·A row by row.
// O output features, I input features, r rank, s scaling
internal import Diagnostics
public import Formats
public import ModelFiles

/// The tensors of a base folder with a PEFT adapter merged into them (LoRA, rsLoRA, DoRA, `modules_to_save`).
///
///     W' = W + s B A                      LoRA (Hu et al. 2021, arXiv:2106.09685)
///     W'_i = m_i (W + s B A)_i / ‖(W + s B A)_i‖    DoRA, row by row (Liu et al. 2024, arXiv:2402.09353, eq. 5)
///
/// Work is f32 (f64 where f64 is read); memory is A, B and m in f32, never W.
public final class AdaptedTensors: Sendable {
    public let base: SafetensorsFolder
    public let adapter: AdapterFiles
    /// Rows of the token table when the adapter brings a larger one than the base's; nil otherwise.
    public let vocabularySize: Int?
    private let updates: [ExactString: LowRankUpdate]
    private let saved: [ExactString: StoredTensor]
    /// Tables with a row a token.
    private let tables: [String]

    /// - Throws: `UserError` when a tensor of the adapter has no place in the base, or one that its configuration
    ///   announces is missing.
    public init(base: SafetensorsFolder, adapterFolder: String) throws {
        self.base = base
        adapter = try AdapterFiles(folder: adapterFolder)
        let naming = try TensorNaming(folder: base.folder)
        tables = base.names.filter { [naming.tokenTable, naming.headTable].contains(naming.weight($0)) }
        let file = joinPath(base.folder, "config.json")
        let isTied = try fileExists(file) && ConfigReader(json: readJSONFile(file), file: file).tiesTables()
        partsTables = try isTied && adapter.partsTables(naming)
        var parts = AdapterParts(adapter, base, naming, isParted: partsTables)
        updates = try parts.takeUpdates()
        saved = try parts.takeSaved()
        try parts.requireNothingLeft()
        ownHead = saved.keys.first { base.info($0.string) == nil }?.string
        let ownRows = tables.compactMap { base.info($0)?.shape.first }.max()
        vocabularySize = saved.values.compactMap(\.shape.first).max().flatMap { rows in
            rows > ownRows ?? rows ? rows : nil
        }
    }

    /// The name of an output table that only the adapter has: the base's is its token table.
    public let ownHead: String?
    /// Whether a base whose tables are tied has two of them with this adapter.
    public let partsTables: Bool
    /// In the order of the base, then that table.
    public var names: [String] { base.names + (ownHead.map { [$0] } ?? []) }

    /// - Throws: `UserError` when the base has no tensor of that name.
    public func reader(_ name: String) throws -> any TensorReader {
        if let table = saved[ExactString(name)] {
            // The base's own, beside a token table with more rows.
            if name == ownHead, let vocabularySize { return AlignedTable(table, paddedTo: vocabularySize) }
            return table
        }
        let stored = try StoredTensor(base, name)
        if let update = updates[ExactString(name)] { return LowRankReader(base: stored, update: update) }
        // As merge-adapter does: tokens that the adapter added get the mean row in tables it does not bring.
        if let vocabularySize, tables.contains(name) {
            return AlignedTable(stored, paddedTo: vocabularySize)
        }
        return stored
    }
}

/// The tensors of an adapter, taken one after the other to their places.
private struct AdapterParts {
    private let files: AdapterFiles
    private let base: SafetensorsFolder
    private let naming: TensorNaming
    /// Whether the base's table becomes two.
    private let isParted: Bool
    /// Base's name and part (`lora_A.weight`) -> name in the file.
    private var left: [ExactString: String] = [:]

    init(_ files: AdapterFiles, _ base: SafetensorsFolder, _ naming: TensorNaming, isParted: Bool) {
        (self.files, self.base, self.naming, self.isParted) = (files, base, naming, isParted)
        for info in files.weights.tensors { left[ExactString(AdapterFiles.normalized(info.name, naming))] = info.name }
    }

    private mutating func take(_ name: String) -> String? {
        left.removeValue(forKey: ExactString(AdapterFiles.prefix + name))
    }

    /// The corrections of the base's linear maps, by the name of the map's weight.
    mutating func takeUpdates() throws -> [ExactString: LowRankUpdate] {
        var updates: [ExactString: LowRankUpdate] = [:]
        let maps = base.names.filter { $0.hasSuffix(".weight") && base.info($0)!.shape.count == 2 }
        for weight in maps {
            guard let name = naming.weight(weight).map({ String($0.dropLast(".weight".count)) }) else { continue }
            let a = take(name + ".lora_A.weight"), b = take(name + ".lora_B.weight")
            let magnitude = take(name + ".lora_magnitude_vector")
            if a == nil && b == nil && magnitude == nil { continue }
            guard let a, let b, files.config.applies(to: name), (magnitude != nil) == files.config.hasMagnitude else {
                throw failure("tensors for \(name) do not fit adapter_config.json")
            }
            updates[ExactString(weight)] = try update(base.info(weight)!.shape, a, b, magnitude)
        }
        for target in files.config.targets
        where !updates.keys.contains(where: {
            let name = naming.weight($0.string) ?? $0.string
            return name == "\(target).weight" || name.hasSuffix(".\(target).weight")
        }) {
            throw failure(
                "adapter_config.json names \(target), for which there are no tensors, or the base has no such map")
        }
        guard !updates.isEmpty || !files.config.savedModules.isEmpty else {
            throw failure("no tensor fits the base \(base.folder)")
        }
        return updates
    }

    /// The correction of a map that the base's file gives this shape, from the adapter's tensors of these names.
    private func update(_ shape: [Int], _ a: String, _ b: String, _ magnitude: String?) throws -> LowRankUpdate {
        let rank = files.config.rank, scale = files.config.scale
        guard naming.mapsLieTransposed else {
            return LowRankUpdate(
                a: try values(a, [rank, shape[1]]), b: try values(b, [shape[0], rank]),
                magnitude: try magnitude.map { try values($0, [shape[0]]) }, rank: rank, scale: scale)
        }
        guard magnitude == nil else {
            throw failure("DoRA's norms run across the rows of this base's maps; needletail merge-adapter it first")
        }
        // (W + s B A)ᵀ = Wᵀ + s Aᵀ Bᵀ
        return LowRankUpdate(
            a: transposed(try values(b, [shape[1], rank]), columns: rank),
            b: transposed(try values(a, [rank, shape[0]]), columns: shape[0]), magnitude: nil, rank: rank, scale: scale)
    }

    /// Tables trained beside the adapter, by the base's name.
    mutating func takeSaved() throws -> [ExactString: StoredTensor] {
        var saved: [ExactString: StoredTensor] = [:]
        let modules = naming.modules(saved: files.config.savedModules)
        for name in base.names {
            guard TensorNaming.belongs(name, to: modules) else { continue }
            guard let weight = naming.weight(name), let stored = take(weight) else {
                throw failure("no tensor \(AdapterFiles.prefix)\(name), which modules_to_save announces")
            }
            let table = try StoredTensor(files.weights, stored), wanted = base.info(name)!.shape
            guard table.shape.dropFirst() == wanted.dropFirst(), table.shape.first ?? 0 >= wanted.first ?? 0 else {
                throw failure("tensor \(stored) has shape \(table.shape), the base's has \(wanted)")
            }
            saved[ExactString(name)] = table
        }
        try takeHead(into: &saved)
        return saved
    }

    /// Of a base file without an output table: a second copy of the token table says nothing, one of its own is one more
    /// tensor, and so is the base's table where only the tokens' is saved.
    private mutating func takeHead(into saved: inout [ExactString: StoredTensor]) throws {
        guard base.info(naming.headTable) == nil else { return }
        let head = take(naming.headTable)
        guard isParted, let name = base.names.first(where: { naming.weight($0) == naming.tokenTable }) else { return }
        let table = try head.map { try StoredTensor(files.weights, $0) } ?? StoredTensor(base, name)
        let wanted = saved[ExactString(name)]?.shape ?? base.info(name)!.shape
        guard head == nil || table.shape == wanted else {
            throw failure("tensor \(head ?? "") has shape \(table.shape), the token table has \(wanted)")
        }
        saved[ExactString(naming.headTable)] = table
    }

    func requireNothingLeft() throws {
        let names = left.values.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
        guard let first = names.first else { return }
        let more = names.count > 1 ? " and \(names.count - 1) more" : ""
        throw failure("tensor \(first)\(more) has no place in the base \(base.folder)")
    }

    private func values(_ name: String, _ shape: [Int]) throws -> [Float] {
        let tensor = try StoredTensor(files.weights, name)
        guard tensor.shape == shape else {
            throw failure("tensor \(name) has shape \(tensor.shape), \(shape) is needed")
        }
        var values = [Float](repeating: 0, count: tensor.elementCount)
        try values.withUnsafeMutableBufferPointer { try tensor.read(0..<$0.count, into: $0.baseAddress!) }
        return values
    }

    private func transposed(_ values: [Float], columns: Int) -> [Float] {
        let rows = values.count / columns
        return values.indices.map { values[$0 % rows * columns + $0 / rows] }
    }

    private func failure(_ reason: String) -> UserError { UserError("\(files.weights.path): \(reason)") }
}

/// What an adapter does to one linear map.
private final class LowRankUpdate: Sendable {
    let a: [Float]  // [r, I]
    let b: [Float]  // [O, r]
    let magnitude: [Float]?  // [O]
    let rank: Int
    let scale: Double

    init(a: [Float], b: [Float], magnitude: [Float]?, rank: Int, scale: Double) {
        (self.a, self.b, self.magnitude, self.rank, self.scale) = (a, b, magnitude, rank, scale)
    }
}

/// A linear map with its correction, computed as it is read.
private struct LowRankReader: TensorReader {
    let base: StoredTensor
    let update: LowRankUpdate
    var shape: [Int] { base.shape }
    var elementType: ElementType { base.elementType }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        try fill(range, destination) { try base.read($0, into: $1) }
    }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        try fill(range, destination) { try base.read($0, into: $1) }
    }

    /// - Parameter readBase: reads elements of W.
    private func fill<Element: BinaryFloatingPoint>(
        _ range: Range<Int>, _ destination: UnsafeMutablePointer<Element>,
        _ readBase: (Range<Int>, UnsafeMutablePointer<Element>) throws -> Void
    ) throws {
        let I = shape[1]
        // DoRA's norms need whole rows, also where only a part is asked for.
        let rows = range.isEmpty ? 0..<0 : range.lowerBound / I..<(range.upperBound + I - 1) / I
        let isWhole =
            update.magnitude == nil
            || (range.lowerBound == rows.lowerBound * I && range.upperBound == rows.upperBound * I)
        if isWhole {
            try readBase(range, destination)
            for row in rows {
                let part = max(range.lowerBound, row * I)..<min(range.upperBound, (row + 1) * I)
                correct(
                    destination + (part.lowerBound - range.lowerBound), row,
                    part.lowerBound - row * I..<part.upperBound - row * I)
            }
            return
        }
        try withUnsafeTemporaryAllocation(of: Element.self, capacity: I) { buffer in
            for row in rows {
                try readBase(row * I..<(row + 1) * I, buffer.baseAddress!)
                correct(buffer.baseAddress!, row, 0..<I)
                let part = max(range.lowerBound, row * I)..<min(range.upperBound, (row + 1) * I)
                (destination + (part.lowerBound - range.lowerBound)).update(
                    from: buffer.baseAddress! + (part.lowerBound - row * I), count: part.count)
            }
        }
    }

    /// `row += s B_row A` in `columns`, then DoRA's norm when the row is whole.
    private func correct<Element: BinaryFloatingPoint>(
        _ values: UnsafeMutablePointer<Element>, _ row: Int, _ columns: Range<Int>
    ) {
        let I = shape[1], r = update.rank, count = columns.count, scale = Element(update.scale)
        withUnsafeTemporaryAllocation(of: Element.self, capacity: count) { sum in
            sum.initialize(repeating: 0)
            update.a.withUnsafeBufferPointer { a in
                for k in 0..<r {
                    let factor = Element(update.b[row * r + k]), source = a.baseAddress! + (k * I + columns.lowerBound)
                    for i in 0..<count { sum[i] += factor * Element(source[i]) }
                }
            }
            for i in 0..<count { values[i] += scale * sum[i] }
        }
        guard let magnitude = update.magnitude else { return }
        var squares = 0.0
        for i in 0..<count { squares += Double(values[i]) * Double(values[i]) }
        let factor = Element(Double(magnitude[row]) / squares.squareRoot())
        for i in 0..<count { values[i] *= factor }
    }
}
