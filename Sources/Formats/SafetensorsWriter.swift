// Writing safetensors: offsets are planned first, then the bytes are streamed. Files are byte-equal to those of the
// `safetensors` package (at most one metadata key: it writes several in random order, this program in the given one).
import Diagnostics

/// Writes safetensors files and sharded folders.
public enum SafetensorsWriter {
    /// A tensor to be written.
    public struct Tensor {
        public let name: String
        public let elementType: ElementType
        public let shape: [Int]
        /// Hands the bytes over, little-endian and row-major, in as many pieces as it likes.
        public let produce: (_ emit: (UnsafeRawBufferPointer) throws -> Void) throws -> Void

        /// A tensor whose bytes are made (converted, gathered) only when they are written.
        public init(
            name: String, elementType: ElementType, shape: [Int],
            produce: @escaping (_ emit: (UnsafeRawBufferPointer) throws -> Void) throws -> Void
        ) {
            (self.name, self.elementType, self.shape, self.produce) = (name, elementType, shape, produce)
        }

        /// A tensor in memory; `bytes` must stay valid until the file is written.
        public init(name: String, elementType: ElementType, shape: [Int], bytes: UnsafeRawBufferPointer) {
            self.init(name: name, elementType: elementType, shape: shape) { try $0(bytes) }
        }

        /// - Precondition: the shape has a size that fits.
        var byteCount: Int {
            guard let count = checkedProduct(shape + [elementType.byteCount]) else {
                preconditionFailure("tensor \(name): shape \(shape) has no size")
            }
            return count
        }
    }

    /// Writes one file, atomically.
    ///
    /// - Parameter metadata: `__metadata__`, in this order; `[("format", "pt")]` is what Hugging Face files carry.
    /// - Precondition: names are unique and none is `__metadata__`; each tensor hands over as many bytes as its shape
    ///   says.
    /// - Throws: `UserError` with exit status 73 when the file cannot be written, and whatever `produce` throws.
    public static func write(path: String, tensors: [Tensor], metadata: [(String, String)] = []) throws {
        let sorted = inLayoutOrder(tensors)
        let file = try OutputFile(replacing: path)
        try file.append(header(sorted, metadata))
        for tensor in sorted {
            let end = file.offset + tensor.byteCount
            try tensor.produce { try file.append($0) }
            precondition(file.offset == end, "tensor \(tensor.name): \(file.offset - end) bytes beyond its shape")
        }
        try file.close()
    }

    /// Writes `<baseName>.safetensors`, or, where that would exceed `maxShardBytes`, shards
    /// `<baseName>-00001-of-0000N.safetensors` filled in the given order and their index, which comes last.
    ///
    /// A file of the other kind left by an earlier call is removed, so that a reader cannot meet both.
    public static func write(
        folder: String, baseName: String = "model", tensors: [Tensor], metadata: [(String, String)] = [],
        maxShardBytes: Int = 5_000_000_000
    ) throws {
        try createDirectories(folder)
        let single = joinPath(folder, "\(baseName).safetensors")
        let shards = planShards(tensors, baseName, maxShardBytes)
        for (name, shard) in shards { try write(path: joinPath(folder, name), tensors: shard, metadata: metadata) }
        if shards.count == 1 {
            try removeTree(joinPath(folder, indexName(baseName)))
        } else {
            try writeIndex(shards, folder, baseName)
            try removeTree(single)
        }
    }

    private static func indexName(_ baseName: String) -> String { "\(baseName).safetensors.index.json" }

    private static func writeIndex(_ shards: [(name: String, tensors: [Tensor])], _ folder: String, _ baseName: String)
        throws
    {
        var weightMap = JSONObject(), total = 0
        for (name, tensors) in shards {
            for tensor in tensors {
                weightMap[tensor.name] = .string(name)
                total += tensor.byteCount
            }
        }
        let json: JSONValue = ["metadata": ["total_size": .init(total)], "weight_map": .object(weightMap)]
        let style = JSONStyle(indent: 2, keySeparator: ": ", sortsKeys: true)  // as Hugging Face writes it
        try writeFileAtomically(json.serialized(style) + "\n", to: joinPath(folder, indexName(baseName)))
    }

    /// Greedy, in order: a shard is closed when the next tensor would not fit. One shard has no number.
    private static func planShards(
        _ tensors: [Tensor], _ baseName: String, _ maxShardBytes: Int
    ) -> [(name: String, tensors: [Tensor])] {
        var shards: [[Tensor]] = [[]], size = 0
        for tensor in tensors {
            if size > 0, size + tensor.byteCount > maxShardBytes {
                shards.append([])
                size = 0
            }
            shards[shards.count - 1].append(tensor)
            size += tensor.byteCount
        }
        if shards.count == 1 { return [("\(baseName).safetensors", shards[0])] }
        return shards.enumerated().map { i, shard in
            ("\(baseName)-\(partName(i + 1, of: shards.count)).safetensors", shard)
        }
    }

    /// The same files as `write(folder:...)`, into a folder without them, tensors written by several threads in any order
    /// at offsets that are known beforehand: what is held in memory are the pieces that the tensors hand over.
    ///
    /// A file's header is written when its tensors are on the disk, so that a file that opens is complete.
    ///
    /// - Parameters:
    ///   - threads: tensors that are produced at once; `produce` of different tensors runs on different threads.
    ///   - progress: told, one call at a time, how many bytes a piece had.
    /// - Throws: the first error of a thread; `UserError` (73) when a file cannot be written.
    public static func writeParallel(
        folder: String, baseName: String = "model", tensors: [Tensor], metadata: [(String, String)] = [],
        maxShardBytes: Int = 5_000_000_000, threads: Int, progress: @escaping @Sendable (Int) -> Void = { _ in }
    ) throws {
        let shards = planShards(tensors, baseName, maxShardBytes)
        let files = try shards.map {
            try ShardFile(path: joinPath(folder, $0.name), inLayoutOrder($0.tensors), metadata)
        }
        // The largest first, so that the threads end together.
        let jobs = files.flatMap { file in file.tensors.map { (file: file, tensor: $0.tensor, range: $0.range) } }
            .sorted { $0.range.count > $1.range.count }
        // Each job runs on one thread; the closures in `tensors` are called once each.
        nonisolated(unsafe) let shared = jobs
        try runInParallel(shared.count, threads: threads) { i in
            let job = shared[i]
            var offset = job.range.lowerBound
            // Opened for one tensor at a time: there may be more shards than a process may have files open.
            let file = try PositionedFile(path: job.file.path, byteCount: job.file.byteCount)
            try job.tensor.produce { bytes in
                precondition(
                    offset + bytes.count <= job.range.upperBound,
                    "tensor \(job.tensor.name): more bytes than its shape has")
                try file.write(bytes, at: offset)
                offset += bytes.count
                progress(bytes.count)
            }
            precondition(offset == job.range.upperBound, "tensor \(job.tensor.name): fewer bytes than its shape has")
        }
        for file in files { try file.finish() }
        if shards.count > 1 { try writeIndex(shards, folder, baseName) }
    }

    /// A safetensors file with the places of its tensors.
    private struct ShardFile {
        let path: String
        let byteCount: Int
        let header: [UInt8]
        let tensors: [(tensor: Tensor, range: Range<Int>)]

        init(path: String, _ sorted: [Tensor], _ metadata: [(String, String)]) throws {
            header = SafetensorsWriter.header(sorted, metadata)
            var offset = header.count, placed: [(Tensor, Range<Int>)] = []
            for tensor in sorted {
                placed.append((tensor, offset..<offset + tensor.byteCount))
                offset += tensor.byteCount
            }
            tensors = placed
            (self.path, byteCount) = (path, offset)
            _ = try PositionedFile(creating: path, byteCount: offset)
        }

        func finish() throws {
            let file = try PositionedFile(path: path, byteCount: byteCount)
            try file.sync()
            try header.withUnsafeBytes { try file.write($0, at: 0) }
            try file.close()
        }
    }

    /// Widest types first, so that every tensor is aligned to its element; then by name.
    private static func inLayoutOrder(_ tensors: [Tensor]) -> [Tensor] {
        tensors.sorted {
            let (a, b) = ($0.elementType.layoutRank, $1.elementType.layoutRank)
            return a != b ? a > b : $0.name.utf8.lexicographicallyPrecedes($1.name.utf8)
        }
    }

    /// Length and JSON, padded with spaces so that the tensors begin at a multiple of 8.
    private static func header(_ tensors: [Tensor], _ metadata: [(String, String)]) -> [UInt8] {
        var object = JSONObject(), offset = 0
        if !metadata.isEmpty {
            object["__metadata__"] = .object(JSONObject(metadata.map { ($0.0, JSONValue.string($0.1)) }))
        }
        for tensor in tensors {
            precondition(
                object[tensor.name] == nil && tensor.name != "__metadata__", "tensor name \(tensor.name) used twice")
            let end = offset + tensor.byteCount
            object[tensor.name] = [
                "dtype": .string(tensor.elementType.rawValue), "shape": .array(tensor.shape.map { JSONValue($0) }),
                "data_offsets": [JSONValue(offset), JSONValue(end)],
            ]
            offset = end
        }
        var json = Array(JSONValue.object(object).serialized(.compact).utf8)
        json += repeatElement(0x20, count: (8 - json.count % 8) % 8)
        return withUnsafeBytes(of: UInt64(json.count).littleEndian) { Array($0) } + json
    }
}
