// A model written as llama.cpp's converter writes it, and read back through the product's conversion.
// H heads, E head dimension, D hidden size
import Diagnostics
import Formats
import Glibc
import Layers
import ModelFiles
import Models
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct GGUFRoundTests {
    private static let config: JSONValue = TinyFamily.llama.config.changing(["vocab_size": 268])

    /// llama.cpp's order of the rows of a head: (0, E/2, 1, E/2 + 1, ...).
    private func interleaved(_ weight: Tensor, heads: Int) -> Tensor {
        let rows = weight.shape[0], E = rows / heads
        let order = (0..<heads).flatMap { head in (0..<E).map { Int64(head * E + $0 / 2 + $0 % 2 * (E / 2)) } }
        return weight.indexSelect(0, Tensor(order))
    }

    private func write(
        _ model: Llama, to path: String, type: GGMLType = .f32,
        changing spoil: (inout [(String, Tensor)]) -> Void = { _ in }
    ) throws {
        let names = [
            "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        ]
        var tensors: [(String, Tensor)] = model.namedParameters().map { name, parameter in
            let value = parameter.value
            switch name {
            case "model.embed_tokens.weight": return ("token_embd.weight", value)
            case "model.norm.weight": return ("output_norm.weight", value)
            case "lm_head.weight": return ("output.weight", value)
            default:
                let parts = name.split(separator: ".")
                let part = names[parts[3...].dropLast().joined(separator: ".")]!
                let heads = part == "attn_q" ? 4 : part == "attn_k" ? 2 : nil
                return ("blk.\(parts[2]).\(part).weight", heads.map { interleaved(value, heads: $0) } ?? value)
            }
        }
        spoil(&tensors)
        let vocabulary = tinyTokenizerJSON["model"]!["vocab"]!.object!.keys
        var file = GGUFBytes()
        file.add("general.architecture", "llama")
        for (key, value) in [
            ("block_count", 2), ("embedding_length", model.config.hiddenSize),
            ("feed_forward_length", model.config.intermediateSize), ("attention.head_count", 4),
            ("attention.head_count_kv", 2), ("context_length", 128),
        ] { file.add("llama.\(key)", value) }
        file.add("llama.attention.layer_norm_rms_epsilon", Float(1e-5))
        file.add("tokenizer.ggml.model", "gpt2")
        file.add("tokenizer.ggml.tokens", vocabulary)
        file.add("tokenizer.ggml.merges", tinyTokenizerJSON["model"]!["merges"]!.array!.map { $0.string! })
        file.add("tokenizer.ggml.eos_token_id", 1)
        for (name, value) in tensors { file.add(name, value, value.rank == 2 ? type : .f32) }
        try writeFileAtomically(file.bytes, to: path)
    }

    @Test func weightsAndLogitsSurvive() throws {
        let folder = try TemporaryFolder(), model = try tinyLlama(Self.config)
        try write(model, to: folder["tiny.gguf"])
        try GGUFConversion.convert(folder["tiny.gguf"], to: folder["hf"], .f32)
        let loaded = try load(folder["hf"])
        for (a, b) in zip(model.namedParameters(), loaded.model.namedParameters()) {
            #expect(
                a.name == b.name && a.parameter.value.values(Float.self) == b.parameter.value.values(Float.self),
                "\(a.name)")
        }
        let ids = someIDs(9, seed: 2, vocabulary: 268)
        #expect(loaded.model.allLogits(ids).values(Float.self) == model.allLogits(ids).values(Float.self))
        #expect(try loaded.endTokens(Tokenizer(modelPath: folder["hf"])) == [1])
        #expect(loaded.contextLength == 128)
    }

    @Test(arguments: [ElementType.f16, .bf16]) func narrowTypesAreRounded(_ type: ElementType) throws {
        let folder = try TemporaryFolder(), model = try tinyLlama(Self.config)
        try write(model, to: folder["tiny.gguf"])
        try GGUFConversion.convert(folder["tiny.gguf"], to: folder["hf"], type)
        let narrow: DType = type == .f16 ? .float16 : .bfloat16
        for (a, b) in zip(model.namedParameters(), try load(folder["hf"]).model.namedParameters()) {
            #expect(a.parameter.value.to(narrow).values(Float.self) == b.parameter.value.values(Float.self))
        }
    }

    /// Blocks multiplied as they are against the conversion to fp32: the order of rows, every type's bits, the head.
    /// Activations are rounded to 8 bits a block (bf16 for bf16 weights) where the processor multiplies those.
    @Test(arguments: [GGMLType.f32, .bf16, .f16, .q8_0, .q4_0, .q4_1, .q5_0, .q4_K, .q6_K])
    func storedBlocksGiveTheScoresOfTheConversion(_ type: GGMLType) throws {
        let folder = try TemporaryFolder()
        let config = Self.config.changing([
            "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "tie_word_embeddings": true,
        ])
        try write(tinyLlama(config, scale: 0.2), to: folder["tiny.gguf"], type: type)
        try GGUFConversion.convert(folder["tiny.gguf"], to: folder["hf"], .f32)
        let converted = try load(folder["hf"]).model
        let source = try GGUFModel(path: folder["tiny.gguf"]), stored = try StoredModel(source, dtype: .float32)
        #expect(stored.contextLength == 128 && stored.endTokens(source.tokenizer) == [1])
        let cache = stored.makeCache(sequences: 1, capacity: 40)
        let ids = someIDs(21, seed: 2, vocabulary: 268), expected = converted.allLogits(ids)
        // One by one, by rows as lanes, and both in one sequence.
        var steps = ids[..<3].map { [$0] } + [Array(ids[3..<18])]
        steps += ids[18...].map { [$0] }
        var at = 0
        for step in steps {
            at += step.count
            let scores = stored.scores(after: [step], rows: [0], cache).withRow(0) { Tensor(Array($0)) }
            let error = relativeDifference(scores, expected.narrow(0, at - 1, 1).reshape(-1))
            #expect(error < (type == .f32 || type == .f16 ? 1e-5 : 0.05), "after \(at) tokens")
        }
        #expect(stored.fusedSteps == steps.count)
    }

    /// A file's blocks kept packed for training: the scores of the conversion to fp32, its order of rows included.
    @Test func packedBlocksGiveTheScoresOfTheConversion() async {
        await #expect(processExitsWith: .success) {
            let types: [(GGMLType, PackedWeight.Format)] = [
                (.bf16, .bfloat16), (.f16, .float16), (.q8_0, .q8_0), (.q4_0, .q4_0), (.q4_1, .q4_1), (.q5_0, .q5_0),
                (.q4_K, .q4_K), (.q6_K, .q6_K), (.iq4_nl, .iq4_nl), (.iq4_xs, .iq4_xs), (.iq3_s, .iq3_s),
                (.iq3_xxs, .iq3_xxs), (.iq2_s, .iq2_s), (.iq2_xs, .iq2_xs), (.iq2_xxs, .iq2_xxs), (.iq1_s, .iq1_s),
                (.iq1_m, .iq1_m), (.tq1_0, .tq1_0), (.tq2_0, .tq2_0), (.mxfp4, .mxfp4), (.nvfp4, .nvfp4),
                (.q1_0, .q1_0), (.q2_0, .q2_0), (.q8_1, .q8_1), (.q8_K, .q8_K),
            ]
            for (type, format) in types {
                let folder = try TemporaryFolder(), suite = GGUFRoundTests()
                setenv("NEEDLETAIL_CACHE", folder["cache"], 1)  // of this process alone
                let config = GGUFRoundTests.config.changing(["hidden_size": 256, "intermediate_size": 256])
                try suite.write(tinyLlama(config, scale: 0.2), to: folder["tiny.gguf"], type: type)
                let reference = try ModelReference(folder["tiny.gguf"])
                let packed = try LoadedModel(reference, dtype: .float32, quantization: .asStored).model
                precondition(packed.blockLinears.allSatisfy { $0.linear.weight.packed?.format == format }, "\(type)")
                let ids = someIDs(21, seed: 2, vocabulary: 268)
                let off = relativeDifference(
                    packed.allLogits(ids), try LoadedModel(reference, dtype: .float32).model.allLogits(ids))
                precondition(off < 1e-5, "\(type): \(off)")
            }
        }
    }

    @Test func tensorsWithoutAPlaceAreRefused() throws {
        let folder = try TemporaryFolder(), model = try tinyLlama(Self.config)
        func message(_ spoil: (inout [(String, Tensor)]) -> Void) throws -> String {
            try write(model, to: folder["bad.gguf"], changing: spoil)
            do {
                try GGUFConversion.convert(folder["bad.gguf"], to: folder["bad"], .f32)
                return "converted"
            } catch let error as UserError {
                return String(error.message.dropFirst(folder["bad.gguf"].count))
            }
        }
        #expect(
            try message { $0.append(("blk.0.extra.weight", .zeros([4]))) }
                == ": 1 tensor with no place in a llama model, such as blk.0.extra.weight")
        #expect(
            try message { $0.removeAll { $0.0 == "blk.1.attn_k.weight" } } == ": tensor blk.1.attn_k.weight is missing")
        #expect(
            try message { tensors in
                tensors.removeAll { $0.0 == "output_norm.weight" }
                tensors.append(("output_norm.weight", .zeros([31])))
            } == ": tensor output_norm.weight has shape [31], the metadata asks for [32]")
        #expect(!folderExists(folder["bad"]))
    }
}

/// The few kinds of GGUF entries that the test needs (version 3, fp32 tensors).
private struct GGUFBytes {
    private var pairs: [UInt8] = [], pairCount: UInt64 = 0
    private var infos: [UInt8] = [], data: [UInt8] = [], tensorCount: UInt64 = 0

    private func little(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
    private func string(_ text: String) -> [UInt8] { little(UInt64(text.utf8.count)) + Array(text.utf8) }

    private mutating func pair(_ key: String, _ type: UInt32, _ value: [UInt8]) {
        pairs += string(key) + little(type) + value
        pairCount += 1
    }
    mutating func add(_ key: String, _ value: String) { pair(key, 8, string(value)) }
    mutating func add(_ key: String, _ value: Int) { pair(key, 4, little(UInt32(value))) }
    mutating func add(_ key: String, _ value: Float) { pair(key, 6, little(value.bitPattern)) }
    mutating func add(_ key: String, _ value: [String]) {
        pair(key, 9, little(UInt32(8)) + little(UInt64(value.count)) + value.flatMap(string))
    }

    mutating func add(_ name: String, _ tensor: Tensor, _ type: GGMLType) {
        infos += string(name) + little(UInt32(tensor.rank)) + tensor.shape.reversed().flatMap { little(UInt64($0)) }
        infos += little(type.rawValue) + little(UInt64(data.count))
        data += Self.blocks(tensor.values(Float.self), type)
        data += Array(repeating: 0, count: (32 - data.count % 32) % 32)
        tensorCount += 1
    }

    /// Values rounded to a type that has them, roughly; of blocks of 256 only their bytes are made up, since the test
    /// asks for equal scores, not for good ones.
    private static func blocks(_ values: [Float], _ type: GGMLType) -> [UInt8] {
        func bytes(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.littleEndian) { Array($0) } }
        func half(_ value: Float) -> [UInt8] { bytes(Float16(value).bitPattern) }
        let size = type.block.elements
        return stride(from: 0, to: values.count, by: size).flatMap { start -> [UInt8] in
            let block = values[start..<start + size], top = max(block.map(abs).max()!, 1e-6)
            func codes(_ d: Float, _ m: Float, _ limit: Float) -> [UInt8] {
                block.map { UInt8(max(0, min(limit, (($0 - m) / d).rounded()))) }
            }
            func pairs(_ q: [UInt8]) -> [UInt8] { (0..<16).map { q[$0] | q[$0 + 16] << 4 } }
            switch type {
            case .f32: return bytes(block.first!.bitPattern)
            case .bf16: return bytes(UInt16(block.first!.bitPattern >> 16))
            case .f16: return half(block.first!)
            case .q8_0: return half(top / 127) + block.map { UInt8(bitPattern: Int8(($0 / top * 126).rounded())) }
            case .q4_0: return half(top / 7) + pairs(codes(top / 7, -8 * top / 7, 15))
            case .q4_1: return half(top / 7.5) + half(-top) + pairs(codes(top / 7.5, -top, 15))
            case .q5_0: return half(top / 15) + bytes(UInt32(0xA5C3_0F96)) + pairs(codes(top / 7, -8 * top / 7, 15))
            case .q4_K:
                return half(top / 480) + half(top / 40) + (0..<12).map { UInt8(truncatingIfNeeded: 0x1F + 29 * $0) }
                    + codes(top / 127, -top, 255).prefix(128)
            case .q6_K:
                return codes(top / 127, -top, 255).prefix(192)
                    + (0..<16).map { UInt8(bitPattern: Int8(8 - $0)) } + half(top / 200)
            default:
                let made = codes(top / 127, -top, 255)
                var bytes = (0..<type.block.bytes).map { made[$0 % size] }
                for (i, byte) in scale(type, half(top / 100)) { bytes[i] = byte }
                return bytes
            }
        }
    }

    /// Bytes of a made-up block that have to be some, so that its scale is a small number: their places and values.
    private static func scale(_ type: GGMLType, _ half: [UInt8]) -> [(Int, UInt8)] {
        switch type {
        case .iq1_m: [(53, 0x4B), (55, 0x2A)]
        case .mxfp4: [(0, 120)]
        case .nvfp4: (0..<4).map { ($0, 0x19) }
        case .q8_K: Array(zip(0..<4, [0, 0, 0x40, 0x3A]))
        case .tq1_0: Array(zip(52..<54, half))
        case .tq2_0: Array(zip(64..<66, half))
        default: Array(zip(0..<2, half))
        }
    }

    var bytes: [UInt8] {
        let head = Array("GGUF".utf8) + little(UInt32(3)) + little(tensorCount) + little(pairCount) + pairs + infos
        return head + Array(repeating: 0, count: (32 - head.count % 32) % 32) + data
    }
}
