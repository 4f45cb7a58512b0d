// One merge under way: buffers for one block of every input, and passes over the tensor.
internal import Formats
internal import Kernels
internal import RandomStreams

extension TensorMerge {
    /// Merges block by block, with memory for one block of every input however large the tensor is (a whole row where
    /// the method works on rows).
    ///
    /// Elements are worked on as 32-bit floats, 64-bit when an input is F64; sums are 64-bit. The result depends neither
    /// on the size of the blocks nor on the processor, and random draws only on (seed, output tensor, model, element).
    /// Different merges may run on different threads.
    /// - Parameters:
    ///   - warn: called with one line where the result may surprise.
    ///   - emit: called with the elements in order.
    /// - Throws: `UserError` from `check`, `NonFiniteInput`, and what readers and `emit` throw.
    public func run(warn: (String) -> Void = { _ in }, _ emit: (MergedBlock) throws -> Void) throws {
        try run(blockElements: 1 << 15, warn: warn, emit)
    }

    /// - Parameter blockElements: rounded up to a multiple of the tile within which sums have one order.
    package func run(blockElements: Int, warn: (String) -> Void = { _ in }, _ emit: (MergedBlock) throws -> Void) throws
    {
        try check()
        if inputs.contains(where: { $0.reader.elementType == .f64 }) {
            try MergeRun<Double>(self, blockElements: blockElements).run(warn, emit)
        } else {
            try MergeRun<Float>(self, blockElements: blockElements).run(warn, emit)
        }
    }
}

/// Buffers and passes of one merge in one width.
final class MergeRun<T: MergeElement> {
    let merge: TensorMerge
    let kernels = T.kernels
    /// Elements of the tensor, and of a row (the last dimension).
    let count: Int, rowLength: Int
    /// One block of each input, in their order; of `base`, and of `others` besides it.
    private(set) var blocks: [UnsafeMutablePointer<T>] = []
    let output: UnsafeMutablePointer<T>
    /// For scores and masks.
    private(set) lazy var scratch: UnsafeMutablePointer<T> = .allocate(capacity: capacity)
    private var scratchInUse = false
    /// For C: the pointers of `others`, and of all inputs.
    let otherPointers: UnsafeMutablePointer<UnsafePointer<T>?>
    let allPointers: UnsafeMutablePointer<UnsafePointer<T>?>
    let baseIndex: Int?
    let otherIndices: [Int]

    private let blockLength: Int
    /// Elements that a block may have.
    let capacity: Int
    /// Whether every element has been looked at once.
    private var sawAll = false

    init(_ merge: TensorMerge, blockElements: Int) throws {
        self.merge = merge
        let shape = merge.inputs[0].reader.shape
        (count, rowLength) = (shape.reduce(1, *), shape.last ?? 1)
        let tile = Int(NT_TILE)
        blockLength = max(1, (blockElements + tile - 1) / tile) * tile
        capacity = try merge.worksOnRows ? max(blockLength, shape.last ?? 1) : min(blockLength, max(1, count))
        let capacity = capacity
        blocks = merge.inputs.map { _ in .allocate(capacity: capacity) }
        output = .allocate(capacity: capacity)
        baseIndex = merge.inputs.firstIndex { $0.isBase }
        otherIndices = merge.inputs.indices.filter { !merge.inputs[$0].isBase }
        otherPointers = .allocate(capacity: max(1, otherIndices.count))
        allPointers = .allocate(capacity: blocks.count)
        for (place, index) in otherIndices.enumerated() { otherPointers[place] = UnsafePointer(blocks[index]) }
        for (index, block) in blocks.enumerated() { allPointers[index] = UnsafePointer(block) }
    }

    deinit {
        for block in blocks { block.deallocate() }
        output.deallocate()
        otherPointers.deallocate()
        allPointers.deallocate()
        if scratchInUse { scratch.deallocate() }
    }

    var base: UnsafeMutablePointer<T> { blocks[baseIndex!] }
    var others: [UnsafeMutablePointer<T>] { otherIndices.map { blocks[$0] } }
    var otherInputs: [MergeInput] { otherIndices.map { merge.inputs[$0] } }

    /// Room for one block of scores.
    func scores() -> UnsafeMutablePointer<T> {
        scratchInUse = true
        return scratch
    }

    /// A number of each input but the base.
    func numbers(_ parameter: String) throws -> [Double] { try otherInputs.map { try merge.number(parameter, $0) } }

    // MARK: passes

    /// Reads the tensor once, block after block; `body` finds the elements in `blocks`.
    func pass(_ body: (Range<Int>) throws -> Void) throws {
        try pass(blockLength, body)
    }

    /// As `pass`, in whole rows.
    func passOverRows(_ body: (Range<Int>) throws -> Void) throws {
        try pass(max(1, capacity / max(1, rowLength)) * max(1, rowLength), body)
    }

    private func pass(_ length: Int, _ body: (Range<Int>) throws -> Void) throws {
        var start = 0
        while start < count {
            let range = start..<min(count, start + length)
            for (index, input) in merge.inputs.enumerated() {
                try T.read(input.reader, range, into: blocks[index])
                if !sawAll { try refuseNonFinite(blocks[index], input, range) }
            }
            try body(range)
            start = range.upperBound
        }
        sawAll = true
    }

    private func refuseNonFinite(_ block: UnsafeMutablePointer<T>, _ input: MergeInput, _ range: Range<Int>) throws {
        let first = kernels.firstNonFinite(block, range.count)
        if first == range.count { return }
        let value = block[first].isNaN ? "nan" : block[first] > 0 ? "inf" : "-inf"
        throw NonFiniteInput(tensor: merge.name, model: input.model, element: range.lowerBound + first, value: value)
    }

    /// Turns the blocks of all but the base into task vectors d = w - base.
    func subtractBase(_ length: Int) {
        for block in others { kernels.subtract(block, base, length, block) }
    }

    // MARK: sums

    /// Sums of products of every pair of `vectors`, over a pass.
    func gram(_ vectors: [UnsafeMutablePointer<T>], subtractingBase: Bool) throws -> Gram {
        var gram = Gram(vectors.count)
        try pass { range in
            if subtractingBase { self.subtractBase(range.count) }
            self.add(vectors, at: 0, range.count, to: &gram)
        }
        return gram
    }

    /// Adds the products of elements `offset ..< offset + length` of the blocks.
    func add(_ vectors: [UnsafeMutablePointer<T>], at offset: Int, _ length: Int, to gram: inout Gram) {
        if vectors.count == 2 {
            var sums = [gram[0, 0], gram[0, 1], gram[1, 1]]
            kernels.gram2(vectors[0] + offset, vectors[1] + offset, length, &sums)
            (gram[0, 0], gram[0, 1], gram[1, 1]) = (sums[0], sums[1], sums[2])
            return
        }
        for i in vectors.indices {
            for j in i..<vectors.count { kernels.dot(vectors[i] + offset, vectors[j] + offset, length, &gram[i, j]) }
        }
    }

    // MARK: output

    func run(_ warn: (String) -> Void, _ emit: (MergedBlock) throws -> Void) throws {
        let out = { (length: Int) in try emit(T.block(UnsafeBufferPointer(start: self.output, count: length))) }
        switch merge.method {
        case .linear: try linear(out)
        case .passthrough: try passthrough(out)
        case .slerp: try slerp(out)
        case .nuslerp: try nuslerp(out)
        case .multislerp: try multislerp(out)
        case .karcher: try karcher(out)
        case .modelStock: try modelStock(warn, out)
        case .sce: try sce(out)
        case .nearswap: try nearswap(out)
        case .arceeFusion: try arceeFusion(out)
        case .ram, .ramplusTL: try ram(out)
        case .taskArithmetic, .ties, .dareLinear, .dareTies, .dellaLinear, .della, .breadcrumbs, .breadcrumbsTies:
            try taskVectors(out)
        }
    }
    /// Hands over the first elements of `output`.
    typealias Out = (Int) throws -> Void

    /// Input `index` unchanged.
    func copy(_ index: Int, _ out: Out) throws {
        try pass { range in
            self.output.update(from: self.blocks[index], count: range.count)
            try out(range.count)
        }
    }

    /// sum of coefficients * vectors, plus the base when the vectors are task vectors.
    func emitCombination(
        _ pointers: UnsafeMutablePointer<UnsafePointer<T>?>, _ coefficients: [Double], onBase: Bool, _ out: Out
    ) throws {
        try pass { range in
            if onBase { self.subtractBase(range.count) }
            self.kernels.combine(UnsafePointer(pointers), coefficients, coefficients.count, range.count, self.output)
            if onBase { self.kernels.add(self.base, self.output, range.count, self.output) }
            try out(range.count)
        }
    }

    // MARK: random numbers

    /// Words of the elements of `range` for one model: the same whatever the blocks.
    func randomWords(_ input: MergeInput, _ seed: UInt64, _ range: Range<Int>, into words: UnsafeMutablePointer<UInt32>)
    {
        RandomStream(seed: seed, fnv1a(merge.name), UInt64(input.model))
            .fill(words, count: range.count, offset: UInt64(range.lowerBound))
    }
}

/// Sums of products x_i x_j of k vectors.
struct Gram {
    let k: Int
    private var sums: [Double]

    init(_ k: Int) { (self.k, sums) = (k, Array(repeating: 0, count: k * k)) }

    subscript(i: Int, j: Int) -> Double {
        get { sums[min(i, j) * k + max(i, j)] }
        set { sums[min(i, j) * k + max(i, j)] = newValue }
    }

    func norm(_ i: Int) -> Double { self[i, i].squareRoot() }

    /// <sum_i x_i v_i, sum_j y_j v_j>.
    func product(_ x: [Double], _ y: [Double]) -> Double {
        var total = 0.0
        for i in 0..<k { for j in 0..<k { total += x[i] * y[j] * self[i, j] } }
        return total
    }

    /// The sums of v_i / norms[i]; a vector with norm 0 becomes 0.
    func normalized(_ norms: [Double]) -> Gram {
        var unit = self
        for i in 0..<k {
            for j in i..<k { unit[i, j] = norms[i] * norms[j] == 0 ? 0 : self[i, j] / norms[i] / norms[j] }
        }
        return unit
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): a tensor's name as a number that is the same on every machine.
func fnv1a(_ text: String) -> UInt64 {
    text.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01B3 }
}

extension TensorMerge {
    /// Whether blocks must be whole rows.
    var worksOnRows: Bool {
        get throws {
            switch method {
            case .della, .dellaLinear, .arceeFusion: true
            case .nuslerp: try !flag("nuslerp_flatten")
            case .modelStock: try flag("filter_wise")
            default: false
            }
        }
    }
}
