// Tensors of safetensors files as readers.
internal import Diagnostics
public import Formats

/// A floating-point tensor of a safetensors file, converted as it is read.
public struct StoredTensor: TensorReader, Sendable {
    public let shape: [Int]
    public let elementType: ElementType
    private let file: MappedFile
    private let start: Int

    /// - Throws: `UserError` when the file has no such tensor, or one of whole numbers.
    public init(_ file: SafetensorsFile, _ name: String) throws {
        guard let info = file[name] else { throw UserError("\(file.path): no tensor \(name)") }
        guard info.elementType.isFloatingPoint else {
            throw UserError(
                "\(file.path): tensor \(name) has type \(info.elementType.rawValue); weights must be floating point")
        }
        (shape, elementType, self.file, start) = (info.shape, info.elementType, file.file, info.byteRange.lowerBound)
    }

    /// The tensor `name` of a folder of shards.
    public init(_ folder: SafetensorsFolder, _ name: String) throws {
        try self.init(folder.file(of: name), name)
    }

    public func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        if elementType == .f32 { return try copy(range, to: UnsafeMutableRawPointer(destination)) }
        try withElements(range) { convertToF32(elementType, $0, destination, count: range.count) }
    }

    public func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        if elementType == .f64 { return try copy(range, to: UnsafeMutableRawPointer(destination)) }
        // Floats go to the upper half of the destination; each is read before the double that covers it is written.
        // Raw memory, since both types live in it.
        let raw = UnsafeMutableRawPointer(destination), half = raw + 4 * range.count
        try read(range, into: half.assumingMemoryBound(to: Float.self))
        for i in 0..<range.count {
            let value = Double(half.load(fromByteOffset: 4 * i, as: Float.self))
            raw.storeBytes(of: value, toByteOffset: 8 * i, as: Double.self)
        }
    }

    private func bytes(of range: Range<Int>) -> Range<Int> {
        let size = elementType.byteCount
        return start + range.lowerBound * size..<start + range.upperBound * size
    }

    /// Copying survives a file that is cut short meanwhile, where touching mapped bytes would end the program.
    private func copy(_ range: Range<Int>, to destination: UnsafeMutableRawPointer) throws {
        let bytes = bytes(of: range)
        try file.read(bytes, into: UnsafeMutableRawBufferPointer(start: destination, count: bytes.count))
    }

    private func withElements(_ range: Range<Int>, _ body: (UnsafeRawPointer) -> Void) throws {
        let bytes = bytes(of: range)
        try withUnsafeTemporaryAllocation(byteCount: bytes.count, alignment: 8) { buffer in
            try file.read(bytes, into: buffer)
            if let base = buffer.baseAddress { body(UnsafeRawPointer(base)) }
        }
    }
}
