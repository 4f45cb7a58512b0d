// Merge methods against mergekit, and the properties that hold for all of them.
internal import Diagnostics
internal import Formats
internal import Testing

internal import Merging

@Suite struct MethodTests {
    @Test func goldensAreThere() {
        #expect(MethodGoldens.table.count == 21)
        #expect(MethodGoldens.random.count > 80)
    }

    /// The specification's table; 2e-6 is its tolerance, a few units in the last place of f32.
    @Test(arguments: MethodGoldens.table)
    func table(_ golden: MethodGolden) throws {
        let result = try golden.merge().result()
        #expect(largestDifference(result, golden.expected) < 2e-6, "\(result)")
    }

    @Test(arguments: MethodGoldens.random)
    func randomTensors(_ golden: MethodGolden) throws {
        let merge = golden.merge(), result = try merge.result()
        switch golden.expectedType {
        case .f32:
            let tolerance = [.karcher, .multislerp].contains(merge.method) ? 1e-5 : 2e-6
            if merge.method == .arceeFusion {
                // mergekit's divergences lose digits in f32: entries near the threshold may fall on the other side.
                #expect(entriesBeyond(2e-6, result, golden.expected) <= result.count / 100)
            } else {
                #expect(largestDifference(result, golden.expected) < tolerance)
            }
        case .f64:
            // mergekit works on random masks, and on ramplus_tl's ratios of counts, in f32 also here.
            let rounds = merge.method.drawsRandomly || merge.method == .ramplusTL
            #expect(largestDifference(result, golden.expected) < (rounds ? 2e-6 : 1e-12))
        case let type:
            let steps = zip(result, golden.expected).map { stepsApart(Float($0), Float($1), type) }
            let exact: Set<MergeMethod> = [.linear, .passthrough]
            // A near tie of a vote or a threshold may fall either way.
            let votes: Set<MergeMethod> = [.ties, .sce]
            let allowed = exact.contains(merge.method) ? 0 : 1
            let beyond = steps.filter { $0 > allowed }.count
            #expect(
                beyond <= (votes.contains(merge.method) ? 2 : 0), "\(beyond) entries, at most \(steps.max() ?? 0) steps"
            )
        }
    }

    /// Same bits whatever the blocks; 1000 elements are rounded up to a tile, 3000 to three, 2^20 hold the whole tensor.
    @Test(arguments: MethodGoldens.random.filter { $0.merge().inputs[0].reader.elementCount > 1024 })
    func blocksDoNotMatter(_ golden: MethodGolden) throws {
        let merge = golden.merge(), small = try merge.result(blockElements: 1)
        #expect(small == (try merge.result(blockElements: 3000)))
        #expect(small == (try merge.result(blockElements: 1 << 20)))
    }

    /// Row 1 of the specification's checks.
    @Test(arguments: MergeMethod.allCases)
    func mergeWithItself(_ method: MergeMethod) throws {
        let base = noise([9, 130], seed: 1, 0.05), model = plus(base, noise([9, 130], seed: 2, 0.01))
        let other = plus(base, noise([9, 130], seed: 3, 0.01))
        let result = try merge(method, base: base, models: copies(of: model, for: method)).result()
        // The ram methods leave out what changed by at most epsilon = 1e-5.
        let tolerance = [.ram, .ramplusTL].contains(method) ? 1e-5 : 1e-6
        #expect(largestDifference(result, model.values) <= tolerance)
        if method == .passthrough { return }
        var different = copies(of: model, for: method)
        different[different.count - 1] = other
        let changed = try merge(method, base: base, models: different).result()
        // Most methods change nearly every entry; those that choose between models, the chosen ones.
        let least = [.arceeFusion, .ties, .dareTies, .della, .breadcrumbsTies, .sce].contains(method) ? 0.03 : 0.99
        #expect(Double(entriesBeyond(0, changed, result)) > least * Double(result.count))
    }

    /// Row 2: slerp at 0, 1/2 and 1, and nuslerp with the same share.
    @Test func slerpEnds() throws {
        let a = noise([7, 33], seed: 4, 1), b = noise([7, 33], seed: 5, 1)
        let at = { t in try merge(.slerp, base: a, models: [b], shared: ["t": .number(t)]).result() }
        #expect(try at(0) == a.values)
        #expect(try at(1) == b.values)
        let dot = zip(a.values, b.values).map(*).reduce(0, +)
        let norms = [a, b].map { $0.values.map { $0 * $0 }.reduce(0, +).squareRoot() }
        // cos(theta/2) from cos(theta)
        let half = ((1 + dot / (norms[0] * norms[1])) / 2).squareRoot()
        let middle = zip(a.values, b.values).map { ($0 + $1) / (2 * half) }
        #expect(largestDifference(try at(0.5), middle) < 1e-6)
        var nuslerp = merge(.nuslerp, base: nil, models: [a, b])
        nuslerp.inputs[0].settings["weight"] = .number(0.7)
        nuslerp.inputs[1].settings["weight"] = .number(0.3)
        #expect(largestDifference(try nuslerp.result(), try at(0.3)) < 1e-6)
    }

    @Test func oppositeTensors() throws {
        let a = noise([64], seed: 6, 1), opposite = MemoryTensor([64], a.values.map { -3 * $0 })
        // Antipodal: both interpolate linearly.
        let expected = a.values.map { 0.75 * $0 + 0.25 * -3 * $0 }
        let slerp = try merge(.slerp, base: a, models: [opposite], shared: ["t": .number(0.25)]).result()
        #expect(largestDifference(slerp, expected) < 1e-6)
        var nuslerp = merge(.nuslerp, base: nil, models: [a, opposite])
        nuslerp.inputs[0].settings["weight"] = .number(0.75)
        nuslerp.inputs[1].settings["weight"] = .number(0.25)
        #expect(largestDifference(try nuslerp.result(), expected) < 1e-6)
    }

    // MARK: random methods

    @Test(arguments: [MergeMethod.dareLinear, .dareTies, .dellaLinear, .della])
    func keptShareAndNorm(_ method: MergeMethod) throws {
        let base = noise([100, 200], seed: 7, 0), model = noise([100, 200], seed: 8, 1)
        for density in [0.2, 0.5, 0.8] {
            var run = merge(method, base: base, models: [model])
            run.inputs[1].settings["density"] = .number(density)
            run.settings["normalize"] = .flag(false)
            let result = try run.result()
            let kept = Double(result.filter { $0 != 0 }.count), n = Double(result.count)
            #expect(abs(kept - density * n) < 4 * (n * density * (1 - density)).squareRoot())
            let ratio = result.map(abs).reduce(0, +) / model.values.map(abs).reduce(0, +)
            #expect(abs(ratio - 1) < 1e-5)
        }
    }

    @Test(arguments: [MergeMethod.dareLinear, .della])
    func seeds(_ method: MergeMethod) throws {
        let base = noise([100, 200], seed: 7, 0), model = noise([100, 200], seed: 8, 1)
        var run = merge(method, base: base, models: [model])
        run.inputs[1].settings["density"] = .number(0.5)
        run.inputs[1].settings["epsilon"] = .number(1e-9)
        let first = try run.result()
        #expect(first == (try run.result()))
        for change in 0..<3 {
            var other = run
            if change == 0 { other.settings["seed"] = .number(1) }
            if change == 1 { other.name = "another" }
            if change == 2 { other.inputs[1].model = 5 }
            let result = try other.result()
            let flips = Double(zip(first, result).filter { ($0 == 0) != ($1 == 0) }.count) / Double(first.count)
            #expect(abs(flips - 0.5) < 4 * (0.25 / 20000).squareRoot(), "2 p (1 - p) of the mask differ")
        }
    }

    @Test func inverseProbability() throws {
        let base = noise([1, 400], seed: 7, 0), model = noise([1, 400], seed: 8, 1)
        var run = merge(.dareLinear, base: base, models: [model], shared: ["rescale": .text("inverse_probability")])
        run.inputs[1].settings["density"] = .number(0.25)
        for (merged, given) in zip(try run.result(), model.values) where merged != 0 {
            #expect(abs(merged - 4 * given) < 1e-6)
        }
    }

    @Test(arguments: ["l1", "l2", "linf", "none"])
    func rescaleNorms(_ norm: String) throws {
        let base = noise([20, 50], seed: 7, 0), model = noise([20, 50], seed: 8, 1)
        var run = merge(.breadcrumbs, base: base, models: [model], shared: ["rescale": .text(norm)])
        run.inputs[1].settings["density"] = .number(0.5)
        let result = try run.result()
        let measure: ([Double]) -> Double = { values in
            switch norm {
            case "l1": values.map(abs).reduce(0, +)
            case "l2": values.map { $0 * $0 }.reduce(0, +)
            default: values.map(abs).max()!
            }
        }
        #expect(result.filter { $0 != 0 }.count == 500)
        #expect((abs(measure(result) / measure(model.values) - 1) < 1e-6) == (norm != "none"))
    }

    /// One column: every rank is the first and the last, so p is the density.
    @Test func dellaOneColumn() throws {
        let base = noise([4000, 1], seed: 7, 0), model = noise([4000, 1], seed: 8, 1)
        var run = merge(.dellaLinear, base: base, models: [model])
        run.inputs[1].settings["density"] = .number(0.5)
        let kept = try run.result().filter { $0 != 0 }.count
        #expect(abs(kept - 2000) < 127)
    }

    /// Large entries survive DELLA more often.
    @Test func dellaPrefersLargeEntries() throws {
        let base = noise([200, 100], seed: 7, 0), model = noise([200, 100], seed: 8, 1)
        var run = merge(.dellaLinear, base: base, models: [model], shared: ["rescale": .flag(false)])
        run.inputs[1].settings["density"] = .number(0.5)
        run.inputs[1].settings["epsilon"] = .number(0.3)
        let result = try run.result()
        let order = model.values.map(abs).sorted()
        let large = zip(result, model.values).filter { abs($1) > order[order.count / 2] }
        let share = Double(large.filter { $0.0 != 0 }.count) / Double(large.count)
        #expect(abs(share - 0.65) < 0.02, "mean of p over the upper half: 0.5 + 0.3 / 2")
    }

    // MARK: selection

    /// floor(gamma n) = 0: nothing is cut off above.
    @Test func breadcrumbsOfSmallTensors() throws {
        let base = MemoryTensor([6], Array(repeating: 0, count: 6)), model = MemoryTensor([6], [1, -2, 3, -4, 5, -6])
        var run = merge(.breadcrumbs, base: base, models: [model])
        run.inputs[1].settings["density"] = .number(0.5)
        #expect(try run.result() == [0, 0, 0, -4, 5, -6])
        run.inputs[1].settings["gamma"] = .number(0.2)
        #expect(try run.result() == [0, 0, 3, -4, 5, 0])
    }

    @Test(arguments: [(0.0, 0), (0.001, 1), (0.34, 3), (0.999, 9), (1.0, 10)])
    func tiesDensities(_ density: Double, _ kept: Int) throws {
        let base = noise([10], seed: 1, 0), model = noise([10], seed: 2, 1)
        var run = merge(.ties, base: base, models: [model])
        run.inputs[1].settings["density"] = .number(density)
        let result = try run.result()
        #expect(result.filter { $0 != 0 }.count == kept)
        let threshold = model.values.map(abs).sorted(by: >).prefix(kept).last ?? .infinity
        #expect(zip(result, model.values).allSatisfy { ($0 != 0) == (abs($1) >= threshold) })
    }

    /// Equal magnitudes: exactly k stay, the first ones.
    @Test func equalMagnitudes() throws {
        let values = (0..<3000).map { $0 % 3 == 0 ? 2.0 : $0 % 3 == 1 ? -2 : 1 }
        let base = MemoryTensor([3000], Array(repeating: 0, count: 3000)), model = MemoryTensor([3000], values)
        var run = merge(.ties, base: base, models: [model])
        run.inputs[1].settings["density"] = .number(0.5)
        let result = try run.result(blockElements: 1)
        #expect(result.filter { $0 != 0 }.count == 1500)
        #expect((0..<3000).allSatisfy { (result[$0] != 0) == (abs(values[$0]) == 2 && $0 < 2250) })
    }

    @Test func signVotes() throws {
        let base = MemoryTensor([1], [0]), a = MemoryTensor([1], [1]), b = MemoryTensor([1], [-0.6])
        var run = merge(.ties, base: base, models: [a, b])
        run.inputs[1].settings["weight"] = .number(0.3)
        run.inputs[2].settings["weight"] = .number(0.7)
        #expect(abs(try run.result()[0] + 0.6) < 1e-6, "0.3 - 0.42 is negative")
        run.settings["sign_vote"] = .text("unweighted")
        #expect(abs(try run.result()[0] - 1) < 1e-6, "1 - 0.6 is positive")
    }

    /// Task vectors of rms 1e-4: mergekit's bound would weight them equally.
    @Test func sceOfSmallTaskVectors() throws {
        let base = noise([30, 30], seed: 1, 0), a = noise([30, 30], seed: 2, 1e-4)
        let b = MemoryTensor([30, 30], a.values.map { Double(Float(2 * $0)) })
        let exact = try merge(.sce, base: base, models: [a, b]).result()
        #expect(largestDifference(exact, a.values.map { 0.2 * $0 + 0.8 * 2 * $0 }) < 1e-9)
        let compatible = try merge(.sce, base: base, models: [a, b], shared: ["compat": .text("mergekit")]).result()
        #expect(largestDifference(compatible, a.values.map { 1.5 * $0 }) < 1e-9)
    }

    @Test func modelStockOfSmallTaskVectors() throws {
        let base = noise([30, 30], seed: 1, 0), a = noise([30, 30], seed: 2, 1e-6)
        let exact = try merge(.modelStock, base: base, models: [a, a]).result()
        #expect(largestDifference(exact, a.values) < 1e-12)
        let compatible = try merge(.modelStock, base: base, models: [a, a], shared: ["compat": .text("mergekit")])
            .result()
        #expect(largestDifference(compatible, a.values) > 1e-7)
    }

    @Test func modelStockWarnsOfExtrapolation() throws {
        let base = MemoryTensor([3], [0, 0, 0]), a = MemoryTensor([3], [1, 0, 0]),
            b = MemoryTensor([3], [-0.5, 0.8, 0])
        var lines: [String] = []
        _ = try merge(.modelStock, base: base, models: [a, b]).result { lines.append($0) }
        #expect(lines.count == 1 && lines[0].contains("extrapolates"))
    }

    // MARK: what is refused

    @Test(arguments: MergeMethod.allCases)
    func nonFiniteInputs(_ method: MergeMethod) throws {
        for value in [Double.nan, .infinity, -.infinity] {
            let clean = noise([5, 700], seed: 2, 0.1)
            var values = clean.values
            values[3210] = value
            var run = merge(method, base: clean, models: copies(of: clean, for: method))
            run.inputs[run.inputs.count - 1].reader = MemoryTensor([5, 700], values)
            let model = run.inputs[run.inputs.count - 1].model
            let expected = NonFiniteInput(
                tensor: "t", model: model, element: 3210, value: value.isNaN ? "nan" : value > 0 ? "inf" : "-inf")
            #expect(throws: expected) { try run.result() }
        }
        #expect(
            NonFiniteInput(tensor: "t", model: 0, element: 3, value: "nan").named("models/a")
                == "models/a: tensor t: element 3 is nan; a merge of it would be useless")
    }

    @Test func refusals() {
        let a = noise([4], seed: 1, 1), b = noise([2, 2], seed: 2, 1)
        refused("shapes differ: [4] and [2, 2]", merge(.linear, base: nil, models: [a, b]))
        refused("slerp takes two models, the base one of them; got 4", merge(.slerp, base: a, models: [a, a, a]))
        refused("slerp needs base_model", merge(.slerp, base: nil, models: [a]))
        refused("passthrough takes one model; got 2", merge(.passthrough, base: nil, models: [a, a]))
        refused(
            "model_stock needs the base and at least two models; got 2 in all", merge(.modelStock, base: a, models: [a])
        )
        var run = merge(.linear, base: nil, models: [a, a])
        run.inputs[1].settings["weight"] = .number(-1)
        refused("the weights sum to 0", run)
        run.inputs[1].settings["weight"] = nil
        refused("linear needs a value for weight", run)
        run.inputs[1].settings["weight"] = .text("much")
        refused("weight must be a number", run)
        for (density, epsilon) in [(0.5, 0.5), (0.9, 0.15), (0.1, 0.15), (0.5, -0.1)] {
            var della = merge(.della, base: a, models: [a])
            della.inputs[1].settings["density"] = .number(density)
            della.inputs[1].settings["epsilon"] = .number(epsilon)
            refused(
                "density \(density) with epsilon \(epsilon): density - epsilon and density + epsilon must be between 0 and 1",
                della)
        }
        var dare = merge(.dareLinear, base: a, models: [a])
        dare.inputs[1].settings["density"] = .number(1.2)
        refused("density 1.2 is not between 0 and 1", dare)
        refused(
            "rescale must be true, false or one of l1, l2, linf, none",
            merge(.ties, base: a, models: [a], shared: ["rescale": .text("inverse_probability")]))
    }

    private func refused(_ reason: String, _ run: TensorMerge, _ location: SourceLocation = #_sourceLocation) {
        #expect(throws: UserError("tensor t: \(reason)"), sourceLocation: location) { try run.result() }
    }

    @Test func emptyAndScalarTensors() throws {
        for method in MergeMethod.allCases {
            let empty = MemoryTensor([0, 4], []), scalar = MemoryTensor([], [0.5])
            #expect(try merge(method, base: empty, models: copies(of: empty, for: method)).result() == [])
            let result = try merge(method, base: scalar, models: copies(of: scalar, for: method)).result()
            #expect(result.count == 1 && abs(result[0] - 0.5) < 1e-6, "\(method)")
        }
    }
}

// MARK: - making merges

/// As many copies of a model as the method needs to be a merge, the base of two-input methods apart.
private func copies(of model: MemoryTensor, for method: MergeMethod) -> [MemoryTensor] {
    method == .passthrough ? [model] : [model, model]
}

/// A merge named "t" with every weight 1, density 1 and t 0.02.
private func merge(
    _ method: MergeMethod, base: MemoryTensor?, models: [MemoryTensor], shared: [String: MergeValue] = [:]
) -> TensorMerge {
    var models = models
    var base = method.base == .required || method.base == .optional ? base : nil
    // Methods of two inputs have one of two models as their base.
    if [.slerp, .nearswap, .arceeFusion].contains(method), models.count == 2 { base = models.removeFirst() }
    var inputs: [MergeInput] = []
    if let base { inputs.append(MergeInput(base, model: 0, isBase: true)) }
    for model in models {
        inputs.append(
            MergeInput(model, model: inputs.count, settings: ["weight": .number(1), "density": .number(1)]))
    }
    var settings = shared
    if method == .ties || method == .taskArithmetic || method == .dareLinear || method == .dellaLinear
        || method == .breadcrumbs || method == .breadcrumbsTies || method == .dareTies, settings["normalize"] == nil
    {
        settings["normalize"] = .flag(true)
    }
    if settings["t"] == nil { settings["t"] = .number(0.02) }
    return TensorMerge(name: "t", method: method, inputs: inputs, settings: settings)
}

/// Numbers in [-size, size] that fit f32, from a fixed sequence.
private func noise(_ shape: [Int], seed: UInt64, _ size: Double) -> MemoryTensor {
    var state = seed &* 0x9E37_79B9_7F4A_7C15
    let values = (0..<shape.reduce(1, *)).map { _ -> Double in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Double(Float((Double(state >> 11) * 0x1p-53 * 2 - 1) * size))
    }
    return MemoryTensor(shape, values)
}

private func plus(_ a: MemoryTensor, _ b: MemoryTensor) -> MemoryTensor {
    MemoryTensor(a.shape, zip(a.values, b.values).map { Double(Float($0) + Float($1)) })
}

// MARK: - comparing

func largestDifference(_ a: [Double], _ b: [Double]) -> Double {
    if a.count != b.count { return .infinity }
    return zip(a, b).map { ($0 - $1).magnitude }.reduce(0) { $0.isNaN || $1.isNaN ? .nan : max($0, $1) }
}

func entriesBeyond(_ tolerance: Double, _ a: [Double], _ b: [Double]) -> Int {
    a.count != b.count ? a.count + b.count : zip(a, b).filter { !(($0 - $1).magnitude <= tolerance) }.count
}

/// How many representable numbers of a half-width type lie between two values rounded to it.
func stepsApart(_ a: Float, _ b: Float, _ type: ElementType) -> Int {
    let place = { (value: Float) -> Int in
        let bits = Int(type == .f16 ? f16FromFloat(value) : bf16FromFloat(value))
        return bits & 0x8000 == 0 ? bits : -(bits & 0x7FFF)
    }
    return abs(place(a) - place(b))
}
