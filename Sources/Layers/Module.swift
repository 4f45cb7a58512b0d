// Modules: named trees of parameters.
public import Tensors

/// A part of a model: its own parameters and its parts, both under the names that checkpoints use.
public protocol Module: AnyObject {
    var children: KeyValuePairs<String, any Module> { get }
    var parameters: KeyValuePairs<String, Parameter> { get }

    /// Every parameter of the tree with its dotted name, in the order in which children are listed.
    func namedParameters(prefix: String) -> [(name: String, parameter: Parameter)]
    /// Every module of the tree with its dotted name, itself included under `path`.
    func namedModules(path: String) -> [(name: String, module: any Module)]
}

extension Module {
    public var children: KeyValuePairs<String, any Module> { [:] }
    public var parameters: KeyValuePairs<String, Parameter> { [:] }

    public func namedParameters() -> [(name: String, parameter: Parameter)] { namedParameters(prefix: "") }
    public func namedModules() -> [(name: String, module: any Module)] { namedModules(path: "") }

    public func namedParameters(prefix: String) -> [(name: String, parameter: Parameter)] {
        parameters.map { (name: prefix + $0.key, parameter: $0.value) }
            + children.flatMap { $0.value.namedParameters(prefix: prefix + $0.key + ".") }
    }

    public func namedModules(path: String) -> [(name: String, module: any Module)] {
        [(name: path, module: self)]
            + children.flatMap { $0.value.namedModules(path: path.isEmpty ? $0.key : path + "." + $0.key) }
    }
}

/// A tensor of a model that is loaded, saved and perhaps trained.
public final class Parameter {
    /// What it holds: memory is taken when it is first asked for.
    private enum Storage {
        case reserved
        case tensor(Tensor)
        /// fp32 masters in two halves.
        case split(Masters)
        case packed(PackedWeight)
    }
    private var storage: Storage
    public private(set) var shape: [Int]
    /// The dtype of the numbers: of split masters fp32, of a packed weight the one that it takes the place of.
    public private(set) var dtype: DType
    public let device: Device
    /// The last copy asked for, and the version of the value it was made from.
    private var lastCopy: (tensor: Tensor, version: Int)?
    /// What products see of the numbers; nil: the numbers themselves.
    private var rounding: ((Tensor) -> Tensor)?
    /// Whether checkpoints hold the matrix transposed.
    public let liesTransposed: Bool

    public init(_ value: Tensor) {
        storage = .tensor(value)
        (shape, dtype, device) = (value.shape, value.dtype, value.device)
        liesTransposed = false
    }

    /// Memory to be filled by a checkpoint.
    public init(shape: [Int], liesTransposed: Bool = false, _ dtype: DType, on device: Device) {
        storage = .reserved
        (self.shape, self.dtype, self.device) = (shape, dtype, device)
        self.liesTransposed = liesTransposed
    }

    /// A trained parameter holds fp32 masters; layers compute with a copy in their input's dtype. Of split masters
    /// (`splitMasters`) this is the bf16 half, which products take as it is; backward still sums gradients in fp32.
    ///
    /// - Precondition: it is not packed.
    public var value: Tensor {
        switch storage {
        case .tensor(let value): return value
        case .split(let masters): return masters.value
        case .reserved:
            let value = Tensor.empty(shape, dtype, on: device)
            storage = .tensor(value)
            return value
        case .packed: preconditionFailure("a packed weight has no tensor; read(in:) decodes it")
        }
    }

    /// The blocks that stand in the place of a tensor, if they do.
    public var packed: PackedWeight? { if case .packed(let packed) = storage { packed } else { nil } }

    private var split: Masters? { if case .split(let masters) = storage { masters } else { nil } }

    /// The shape that checkpoints give it.
    public var fileShape: [Int] { liesTransposed ? shape.reversed() : shape }

    /// A value of the parameter's shape as checkpoints hold it.
    public func filed(_ value: Tensor) -> Tensor { liesTransposed ? value.transpose(0, 1) : value }

    /// Takes the numbers that a checkpoint holds of it.
    public func fill(fromFile tensor: Tensor) { fill(filed(tensor)) }

    /// Takes the numbers of a tensor of its shape.
    public func fill(_ tensor: Tensor) {
        if let split { split.split(tensor.to(.float32)) } else { value.copyInPlace(tensor) }
    }

    /// Whether the optimizer updates it; never a packed weight.
    public var isTrained: Bool {
        get { packed == nil && value.requiresGradient }
        set { value.requiresGradient = newValue }
    }

    /// Takes another tensor in place of the old one: another size or dtype. Whether it is trained stays.
    public func replace(with tensor: Tensor) {
        let wasTrained = isTrained
        storage = .tensor(tensor.detached())
        (shape, dtype) = (tensor.shape, tensor.dtype)
        lastCopy = nil
        isTrained = wasTrained
    }

    /// Takes a packed matrix in place of a frozen tensor.
    public func replace(with packed: PackedWeight) {
        precondition(
            [packed.rows, packed.columns] == shape && device == .cpu, "packed \(packed.rows) x \(packed.columns)")
        storage = .packed(packed)
        lastCopy = nil
    }

    /// Keeps fp32 masters on the CPU as two halves, 4 bytes a number where they and a bf16 copy take 6. The masters stay
    /// what they were, bit for bit; of two bf16 numbers equally near to one, products see the larger in magnitude, not the
    /// even one.
    public func splitMasters() {
        precondition(value.dtype == .float32 && device == .cpu, "fp32 on the CPU is split, not \(value.summary)")
        let wasTrained = isTrained, halves = Masters(splitOf: shape)
        halves.split(value.detached())
        halves.value.setGradientDType(.float32)
        (storage, lastCopy) = (.split(halves), nil)
        isTrained = wasTrained
    }

    /// The value in full precision, outside of any graph; of split masters and of a packed weight a new tensor.
    public var masters: Tensor { split?.joined() ?? packed?.decoded(in: .float32) ?? value.detached() }

    /// From now on products see `rounding` of the numbers (fp32, of the parameter's shape) in their place; gradients go to the
    /// numbers.
    ///
    /// - Precondition: it is neither packed nor split.
    public func showRounded(_ rounding: @escaping (Tensor) -> Tensor) {
        precondition(packed == nil && split == nil, "only a tensor is shown rounded")
        (self.rounding, lastCopy) = (rounding, nil)
    }

    /// The value in the dtype of a product, converted (and rounded, `showRounded`) once after each change; nil when it is kept
    /// as products see it.
    public func copy(in dtype: DType) -> Tensor? {
        if value.dtype == dtype, rounding == nil { return nil }
        let version = value.version
        if let lastCopy, lastCopy.tensor.dtype == dtype, lastCopy.version == version { return lastCopy.tensor }
        let tensor = withoutGradients { (rounding.map { $0(masters.to(.float32)) } ?? masters).to(dtype) }
        lastCopy = (tensor, version)
        return tensor
    }

    /// The value in `dtype`, outside of any graph; of a packed weight, all of it decoded, and not kept.
    public func read(in dtype: DType) -> Tensor {
        packed.map { $0.decoded(in: dtype) } ?? copy(in: dtype) ?? value.detached()
    }

    /// What an optimizer updates: split masters, or the value with its bf16 copy where one is in use, to be written in the
    /// same pass.
    public func update(_ body: (Masters) -> Void) {
        let copy =
            rounding != nil
            ? nil : lastCopy.flatMap { $0.tensor.dtype == .bfloat16 && $0.version == value.version ? $0.tensor : nil }
        body(split ?? Masters(value, low: nil, copy: copy))
        if let copy { lastCopy = (copy, value.version) }
    }

    /// The same for an optimizer that needs all numbers at once: they exist in full precision while it works.
    public func updateWhole(_ body: (Tensor) -> Void) {
        let numbers = split == nil ? value : masters
        body(numbers)
        if split != nil { fill(numbers) }
    }
}

/// Several modules under their numbers.
public final class ModuleList<Element: Module>: Module {
    public let items: [Element]
    private let names: [String]

    public init(_ items: [Element]) {
        self.items = items
        names = items.indices.map(String.init)
    }

    // KeyValuePairs can only be written as a literal; a list of unknown length is walked instead.
    public func namedParameters(prefix: String) -> [(name: String, parameter: Parameter)] {
        zip(names, items).flatMap { $1.namedParameters(prefix: prefix + $0 + ".") }
    }

    public func namedModules(path: String) -> [(name: String, module: any Module)] {
        [(name: path, module: self)] + zip(names, items).flatMap { $1.namedModules(path: path + "." + $0) }
    }
}
