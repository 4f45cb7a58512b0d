// The weights of a Hugging Face folder under the model's names, proven to fit a shape before any memory is taken.
internal import Checkpoints
internal import Diagnostics
internal import Formats
internal import ModelFiles
internal import Tensors

/// Tensors of a folder, one for every weight of a model.
struct FolderWeights {
    private let folder: SafetensorsFolder
    /// Names in the files by the weights' names.
    private var files: [ExactString: String] = [:]

    /// - Parameter sharesTable: the token table, the only one of a tied model, is read for the output table as well.
    /// - Throws: `UserError` for every missing, unexpected or misshapen tensor.
    init(_ folder: SafetensorsFolder, fitting shape: any WeightLayout, sharesTable: Bool = false) throws {
        self.folder = folder
        let place = folder.folder
        // Before listing what every layer needs: the number may be absurd.
        guard shape.layers <= folder.names.count else {
            throw UserError(
                "\(place): config.json asks for \(shape.layers) layers; there are \(folder.names.count) tensors")
        }
        let naming = type(of: shape).naming
        for file in folder.names {
            guard let weight = naming.weight(file) else { continue }
            if let other = files.updateValue(file, forKey: ExactString(weight)) {
                throw UserError("\(place): tensors \(other) and \(file) are the same weight")
            }
        }
        if shape.tiedHead || sharesTable { try dropSecondTable(naming) }
        let wanted = shape.parameterShapes
        var found = folder.names.compactMap(naming.weight).filter { files[ExactString($0)] != nil }
        if sharesTable, let table = files[ExactString(naming.tokenTable)] {
            files[ExactString(naming.headTable)] = table
            found.append(naming.headTable)
        }
        if let problem = mismatch(parameters: wanted.map(\.name), tensors: found) {
            try Self.refuseQuantised(place)
            throw UserError("\(place): weights do not fit config.json: \(problem)")
        }
        for (name, shape) in wanted { try check(name, shape) }
    }

    /// Weights that do not fit and a config.json that says why.
    private static func refuseQuantised(_ folder: String) throws {
        let settings = try readJSONFile(joinPath(folder, "config.json"))["quantization_config"]
        guard let settings, settings != .null else { return }
        throw UserError(
            "\(folder): weights quantised by \(settings["quant_method"]?.string ?? "another program") "
                + "(quantization_config in config.json) are not read; give the model they were made of")
    }

    /// A copy of the weight, as the file holds it; read, not mapped, so that no page of the file counts as memory.
    func tensor(_ weight: String) throws -> Tensor {
        let file = files[ExactString(weight)]!, info = folder.info(file)!
        let tensor = Tensor.empty(info.shape, DType(info.elementType)!)  // a floating-point type
        try tensor.withMutableBytes { try folder.read(file, into: $0) }
        return tensor
    }

    /// A tied model may carry its table twice; two different ones would mean that config.json lies.
    private mutating func dropSecondTable(_ naming: TensorNaming) throws {
        guard let table = files[ExactString(naming.tokenTable)],
            let head = files.removeValue(forKey: ExactString(naming.headTable))
        else { return }
        guard try folder.bytes(of: head).elementsEqual(folder.bytes(of: table)) else {
            throw UserError(
                "\(folder.folder): config.json ties the output table to the token table, but \(head) differs from it")
        }
    }

    private func check(_ weight: String, _ shape: [Int]) throws {
        let info = folder.info(files[ExactString(weight)]!)!
        guard info.shape == shape else {
            throw UserError(
                "\(folder.folder): tensor \(info.name) has shape \(info.shape), config.json asks for \(shape)")
        }
        guard info.elementType.isFloatingPoint else {
            throw UserError(
                "\(folder.folder): tensor \(info.name) has type \(info.elementType.rawValue); weights must be floating point"
            )
        }
    }
}
