// A tensor of a safetensors file, read block by block.
internal import Diagnostics
public import Formats

/// A tensor in a file. Reading copies from the file, never through a mapping: memory stays small, and a file that is
/// truncated meanwhile is an error instead of a crash.
public struct StoredTensor: TensorReader, Sendable {
    private let file: SafetensorsFile
    private let info: TensorInfo

    public var shape: [Int] { info.shape }
    public var elementType: ElementType { info.elementType }

    /// - Throws: `UserError` when the file has no such tensor, or one of whole numbers.
    public init(_ file: SafetensorsFile, _ name: String) throws {
        guard let info = file[name] else { throw UserError("\(file.path): no tensor \(name)") }
        guard info.elementType.isFloatingPoint else {
            throw UserError(
                "\(file.path): tensor \(name) has type \(info.elementType.rawValue); weights must be floating point")
        }
        (self.file, self.info) = (file, info)
    }

    /// Bytes read at a time for conversion: they stay in the processor's nearest cache.
    private static let pieceBytes = 32 << 10

    /// The bytes of elements `range` as they are stored.
    private func readBytes(_ range: Range<Int>, into destination: UnsafeMutableRawBufferPointer) throws {
        let size = elementType.byteCount, start = info.byteRange.lowerBound
        try file.file.read(start + range.lowerBound * size..<start + range.upperBound * size, into: destination)
    }

    public func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Float>) throws {
        switch elementType {
        case .f32: try readBytes(range, into: UnsafeMutableRawBufferPointer(start: destination, count: range.count * 4))
        case .f16: try inPieces(range) { convertF16ToF32($0, destination + $1, count: $2) }
        case .bf16: try inPieces(range) { convertBF16ToF32($0, destination + $1, count: $2) }
        case .f64:
            try inPieces(range) { bytes, offset, count in
                for i in 0..<count { destination[offset + i] = Float(bytes.loadUnaligned(fromByteOffset: 8 * i, as: Double.self)) }
            }
        default: preconditionFailure("\(info.name): \(elementType) was let in")
        }
    }

    public func read(_ range: Range<Int>, into destination: UnsafeMutablePointer<Double>) throws {
        switch elementType {
        case .f64: try readBytes(range, into: UnsafeMutableRawBufferPointer(start: destination, count: range.count * 8))
        case .f32:
            try inPieces(range) { bytes, offset, count in
                for i in 0..<count { destination[offset + i] = Double(bytes.loadUnaligned(fromByteOffset: 4 * i, as: Float.self)) }
            }
        case .f16, .bf16:
            let widen = elementType == .f16 ? floatFromF16 : floatFromBF16
            try inPieces(range) { bytes, offset, count in
                for i in 0..<count {
                    destination[offset + i] = Double(widen(bytes.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
                }
            }
        default: preconditionFailure("\(info.name): \(elementType) was let in")
        }
    }

    private func inPieces(_ range: Range<Int>, _ body: (UnsafeRawPointer, _ offset: Int, _ count: Int) -> Void) throws {
        let step = Self.pieceBytes / elementType.byteCount
        try withUnsafeTemporaryAllocation(byteCount: Self.pieceBytes, alignment: 64) { buffer in
            for start in stride(from: range.lowerBound, to: range.upperBound, by: step) {
                let piece = start..<min(start + step, range.upperBound)
                let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[..<(piece.count * elementType.byteCount)])
                try readBytes(piece, into: bytes)
                body(UnsafeRawPointer(bytes.baseAddress!), start - range.lowerBound, piece.count)
            }
        }
    }
}
