// Token tables of several models with their rows in one order, read row by row.
// V' rows of the output, D columns
internal import Diagnostics
internal import Formats
internal import Synchronization
internal import Tokenizers

extension MergedVocabulary {
    /// The same tensor of all models (nil where a model has none) with rows in the order of the output.
    ///
    /// A token's row in a model that lacks it, or any model under `force`: the entry of `tokens`; else, when one model has
    /// it, that row; else the base's; else the mean of those that have it; else zeros, with a warning. Rows of padding
    /// asked for with `pad_to_multiple_of` are the mean of the model's others; padding kept from the base is the model's
    /// own where it has as much, else the base's.
    ///
    /// - Parameter readers: `[vocab_size, ...]`, in the order of the models.
    /// - Throws: `UserError` when a row is asked from a model that lacks the tensor.
    public func aligned(
        _ readers: [(any TensorReader)?], name: String, warn: (String) -> Void = { _ in }
    ) throws -> [(any TensorReader)?] {
        for (model, reader) in zip(models, readers) {
            guard let reader else { continue }
            guard let tableRows = reader.shape.first, tableRows >= model.vocabSize else {
                throw UserError(
                    "\(model.name): tensor \(name) has shape \(reader.shape), config.json says vocab_size \(model.vocabSize)"
                )
            }
        }
        let present = readers.indices.filter { readers[$0] != nil }
        guard let first = present.first else { return readers }
        let shape = Array(readers[first]!.shape.dropFirst())
        for i in present where Array(readers[i]!.shape.dropFirst()) != shape {
            throw UserError(
                "tensor \(name) has shape \(readers[i]!.shape) in \(models[i].name), \(readers[first]!.shape) in \(models[first].name)"
            )
        }
        let sources = SourceTables(readers)
        let defaults = try (0..<tokenCount).map { try defaultRow($0, present, name, warn) }
        let type = present.map { readers[$0]!.elementType }.reduce(readers[first]!.elementType, promoted)
        return readers.indices.map { model in
            guard readers[model] != nil else { return nil }
            var rows = (0..<tokenCount).map { id -> AlignedTable.Row in
                let own = oldRows[model][id]
                return own >= 0 && !isForced(id) ? .model(Int32(model), own) : defaults[id]
            }
            rows += (tokenCount..<self.rows).map { paddingRow($0, of: model, present) }
            return AlignedTable(
                shape: [self.rows] + shape, elementType: type, rows: rows, tokens: tokenCount, sources: sources)
        }
    }

    private func isForced(_ id: Int) -> Bool { entries[id]?.force ?? false }

    /// The row for models that have none of their own.
    private func defaultRow(
        _ id: Int, _ present: [Int], _ name: String, _ warn: (String) -> Void
    ) throws -> AlignedTable.Row {
        if let entry = entries[id], let source = entry.source { return try row(of: source, id, present, name) }
        let having = present.filter { oldRows[$0][id] >= 0 }
        if having.count == 1 { return .model(Int32(having[0]), oldRows[having[0]][id]) }
        if let base, having.contains(base) { return .model(Int32(base), oldRows[base][id]) }
        if having.isEmpty {
            if let text = output.texts[id] { warn("token \(shown(text)) is in no model; its row of \(name) is zero") }
            return .zero
        }
        return .mean(having.map { (Int32($0), oldRows[$0][id]) })
    }

    private func row(
        of source: TokenizerSettings.RowSource, _ id: Int, _ present: [Int], _ name: String
    ) throws -> AlignedTable.Row {
        let model: Int, row: Int?
        switch source {
        case .zero: return .zero
        case .model(let given): (model, row) = (given, Int(oldRows[given][id]))
        case .token(let text, let given): (model, row) = (given, vocabularies[given].id(of: text))
        case .tokenID(let number, let given): (model, row) = (given, number)
        }
        guard present.contains(model), let row, row >= 0 else {
            throw UserError(
                "tokenizer.tokens \(shown(output.texts[id] ?? "")): \(models[model].name) has no tensor \(name) to take the row from"
            )
        }
        return .model(Int32(model), Int32(row))
    }

    private func paddingRow(_ id: Int, of model: Int, _ present: [Int]) -> AlignedTable.Row {
        if settings.padToMultipleOf != nil { return .padding }
        func isFree(_ i: Int) -> Bool { id < models[i].vocabSize && id >= vocabularies[i].texts.count }
        let donor = isFree(model) ? model : present.first { $0 == base && isFree($0) } ?? present.first(where: isFree)
        return donor.map { .model(Int32($0), Int32(id)) } ?? .padding
    }
}

/// The wider of two floating-point types as PyTorch promotes them: F16 and BF16 meet in F32.
func promoted(_ a: ElementType, _ b: ElementType) -> ElementType {
    if a == b { return a }
    return a == .f64 || b == .f64 ? .f64 : .f32
}

/// The tables of all models as they are stored.
private final class SourceTables {
    let readers: [(any TensorReader)?]
    init(_ readers: [(any TensorReader)?]) { self.readers = readers }
}

/// A token table with rows from several others.
struct AlignedTable: TensorReader {
    enum Row {
        case model(Int32, Int32)
        case mean([(Int32, Int32)])
        case zero
        /// The mean of the table's rows that have tokens.
        case padding
    }

    let shape: [Int]
    let elementType: ElementType
    private let rows: [Row]
    private let tokens: Int
    private let sources: SourceTables
    private let paddingRow = PaddingRow()
    private var columns: Int { shape.dropFirst().reduce(1, *) }

    fileprivate init(shape: [Int], elementType: ElementType, rows: [Row], tokens: Int, sources: SourceTables) {
        (self.shape, self.elementType, self.rows, self.tokens, self.sources) = (
            shape, elementType, rows, tokens, sources
        )
    }

    /// A table with mean rows at its end.
    init(_ table: any TensorReader, paddedTo size: Int) {
        let rows = table.shape[0]
        self.init(
            shape: [size] + table.shape.dropFirst(), elementType: table.elementType,
            rows: (0..<size).map { $0 < rows ? .model(0, Int32($0)) : .padding }, tokens: rows,
            sources: SourceTables([table]))
    }

    /// The mean row, computed when it is first asked for.
    private final class PaddingRow: Sendable {
        let value = Mutex<[Double]?>(nil)
    }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        try fill(range, destination) { try $0.read($1, into: $2) }
    }

    func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        try fill(range, destination) { try $0.read($1, into: $2) }
    }

    /// - Parameter read: the reader's method for this element type.
    private func fill<Element: BinaryFloatingPoint>(
        _ range: Range<Int>, _ destination: UnsafeMutablePointer<Element>,
        _ read: (any TensorReader, Range<Int>, UnsafeMutablePointer<Element>) throws -> Void
    ) throws {
        let D = columns
        var at = range.lowerBound
        while at < range.upperBound {
            let row = at / D, start = at % D
            var length = min(D - start, range.upperBound - at)
            let target = destination + (at - range.lowerBound)
            switch rows[row] {
            case .model(let model, let old):
                // Neighbours that stay neighbours are read at once.
                var next = row + 1
                while at + length < range.upperBound, case .model(model, old + Int32(next - row)) = rows[next] {
                    length = min(length + D, range.upperBound - at)
                    next += 1
                }
                let first = Int(old) * D + start
                try read(sources.readers[Int(model)]!, first..<first + length, target)
            case .zero: target.initialize(repeating: 0, count: length)
            case .padding:
                let mean = try meanRow()
                for i in 0..<length { target[i] = Element(mean[start + i]) }
            case .mean(let parts):
                target.initialize(repeating: 0, count: length)
                try withUnsafeTemporaryAllocation(of: Element.self, capacity: length) { buffer in
                    for (model, old) in parts {
                        let first = Int(old) * D + start
                        try read(sources.readers[Int(model)]!, first..<first + length, buffer.baseAddress!)
                        for i in 0..<length { target[i] += buffer[i] }
                    }
                }
                for i in 0..<length { target[i] /= Element(parts.count) }
            }
            at += length
        }
    }

    private func meanRow() throws -> [Double] {
        try paddingRow.value.withLock { value in
            if let value { return value }
            let D = columns
            var sum = [Double](repeating: 0, count: D), row = [Double](repeating: 0, count: D)
            for id in 0..<tokens {
                try row.withUnsafeMutableBufferPointer { try read(id * D..<(id + 1) * D, into: $0.baseAddress!) }
                for i in 0..<D { sum[i] += row[i] }
            }
            for i in 0..<D { sum[i] /= Double(tokens) }
            value = sum
            return sum
        }
    }
}
