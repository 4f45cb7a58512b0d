// One reader of files from outside under libFuzzer, which makes inputs that reach new code: verify/fuzz.py builds and runs it.
// What a reader refuses it must refuse in one line; a trap and a hang are crashes for libFuzzer, and so is more memory than
// 64 MB and four times the input, held at once.
import ChatTemplates
import Crypto
import Datasets
import Diagnostics
import Formats
import FuzzMemory
import Glibc
import Merging
import ModelFiles
import RunConfig
import RunLog
import Tokenizers

/// The file that readers of files are given, in memory.
let folder: String = {
    let path = "/dev/shm/needletail-fuzz-\(getpid())"
    mkdir(path, 0o700)
    atexit { try? removeTree(folder) }
    return path
}()

func file(_ name: String, _ bytes: [UInt8]) throws -> String {
    let path = joinPath(folder, name)
    if name.contains("/") { try createDirectories(parentFolder(of: path)) }
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    defer { close(descriptor) }
    precondition(
        bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) } == bytes.count, "/dev/shm is full")
    return path
}

/// As readers of files do, which say where the text is from.
func json(_ bytes: [UInt8]) throws -> JSONValue {
    do { return try JSONValue.parse(bytes, maxDepth: 256) } catch { throw UserError("x.json: \(error)") }
}

func use(_ tokenizer: Tokenizer) { _ = tokenizer.decode(tokenizer.encode("Hello wörld, 123 <s>\n  日本")) }

let variables: JSONObject = {
    var object = JSONObject()
    (object["bos_token"], object["eos_token"]) = ("<s>", "</s>")
    return object
}()

func rows(_ names: [String], _ bytes: [UInt8]) throws {
    for name in names {
        do { _ = try Rows(DataSource([file(name, bytes)], takesEveryKind: true)) } catch is any UserFacing {}
    }
}

/// A safetensors file with zeros for data.
func weights(_ tensors: [(name: String, shape: [Int])]) -> [UInt8] {
    var at = 0
    let entries = tensors.map { name, shape in
        let begin = at
        at += 4 * shape.reduce(1, *)
        return "\"\(name)\":{\"dtype\":\"F32\",\"shape\":\(shape),\"data_offsets\":[\(begin),\(at)]}"
    }
    let header = Array("{\(entries.joined(separator: ","))}".utf8)
    return withUnsafeBytes(of: UInt64(header.count).littleEndian) { Array($0) } + header
        + [UInt8](repeating: 0, count: at)
}

/// A folder with a small Llama, once; its config.json is the input or this.
let model: String = {
    let linears = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
    let tensors =
        [("model.embed_tokens.weight", [8, 4]), ("model.norm.weight", [4])]
        + linears.map { ("model.layers.0.\($0).weight", [4, 4]) }
    _ = try! file("model/config.json", Array(#"{"model_type":"llama"}"#.utf8))
    return parentFolder(of: try! file("model/model.safetensors", weights(tensors)))
}()

/// A folder with two shards, once, whose index is the input.
let shards: String = {
    _ = try! file("shards/model-00001-of-00002.safetensors", weights([("a", [2]), ("b", [1])]))
    return parentFolder(of: try! file("shards/model-00002-of-00002.safetensors", weights([("c", [2])])))
}()

/// Adapters' folders as MLX, torchtune and PEFT write them, once; their settings are the input.
let adapters: [String] = {
    setenv("NEEDLETAIL_CACHE", joinPath(folder, "cache"), 1)
    let name = "model.layers.0.self_attn.q_proj"
    _ = try! file("mlx/adapters.safetensors", weights([(name + ".lora_a", [4, 2]), (name + ".lora_b", [2, 4])]))
    _ = try! file(
        "torchtune/adapter_model.safetensors",
        weights([("layers.0.attn.q_proj.lora_a.weight", [2, 4]), ("layers.0.attn.q_proj.lora_b.weight", [4, 2])]))
    let map = "base_model.model." + name, table = "base_model.model.model.embed_tokens."
    _ = try! file(
        "peft/adapter_model.safetensors",
        weights([
            (map + ".lora_A.weight", [2, 4]), (map + ".lora_B.weight", [4, 2]), (table + "lora_embedding_A", [1, 8]),
            (table + "lora_embedding_B", [4, 1]),
        ]))
    return ["mlx", "torchtune", "peft"].map { joinPath(folder, $0) }
}()

/// `description` as a whole file of kept tokens: checksums that an input can hardly guess are put right.
func keptTokens(_ description: [UInt8]) -> [UInt8] {
    let magic = Array("NDLTOKEN".utf8), header = magic + [3, 0, 0, 0, 0, 0, 0, 0]
    let numbers = [header.count, description.count].flatMap { number in
        withUnsafeBytes(of: UInt64(number).littleEndian) { Array($0) }
    }
    return header + description + numbers + Array(SHA256.hash(data: description)) + magic
}

/// A manifest around `bytes`, with its checksum where they are JSON.
func sealed(_ bytes: [UInt8]) -> [UInt8] {
    guard let text = try? JSONValue.parse(bytes).serialized() else { return bytes }
    let hash = SHA256.hash(data: Array(text.utf8)).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    return Array("{\"manifest\":\(text),\"sha256\":\"\(hash)\"}\n".utf8)
}

nonisolated(unsafe) let readers: [String: ([UInt8]) throws -> Void] = [
    "json": { _ = try json($0) },
    "safetensors": { _ = try SafetensorsFile(path: file("x.safetensors", $0)) },
    "gguf": { bytes in
        let gguf = try GGUFFile(path: file("x.gguf", bytes))
        use(try Tokenizer(gguf: gguf.metadata))
    },
    "tokenizer.json": { use(try Tokenizer(modelPath: file("tokenizer.json", $0))) },
    "tokenizer object": { use(try Tokenizer(tokenizerJSON: json($0))) },
    "sentencepiece": { use(try Tokenizer(modelPath: file("tokenizer.model", $0))) },
    "ranks": { use(try Tokenizer(modelPath: file("x.tiktoken", $0))) },
    "tekken": { use(try Tokenizer(modelPath: file("tekken.json", $0))) },
    "template": { bytes in
        guard let source = String(validating: bytes, as: UTF8.self) else { return }
        let template = try ChatTemplate(source)
        _ = try template.render(
            messages: [["role": "user", "content": "a"], ["role": "assistant", "content": "b"]],
            tools: [["type": "function"]],
            addGenerationPrompt: true, variables: variables)
    },
    "rows": { try rows(["x.jsonl", "x.json", "x.txt"], $0) },
    "tables": { try rows(["x.csv", "x.tsv"], $0) },
    // Arrow's own library, beside this program, is not built for the fuzzer: inputs change without its guidance.
    "columns": { try rows(["x.parquet"], $0) },
    "packed": { bytes in
        let mapped = try MappedFile(path: file("x.gz", bytes))
        // Not all that a small file may hold: a gigabyte takes its second.
        _ = try FilePacking(mapped.bytes)?.prefix(of: mapped, count: 16 << 20)
    },
    "config.json": { bytes in
        let path = model
        _ = try file("model/config.json", bytes)
        _ = ignoredCode(in: path)
        _ = try positionLimit(ofModel: path)
        _ = try ModelOutline(path)
    },
    "adapter": { bytes in
        defer { try? removeTree(joinPath(folder, "cache")) }
        for adapter in adapters {
            let settings = try file("\(fileName(of: adapter))/adapter_config.json", bytes)
            do { _ = try ModelReference(adapter, base: model) } catch is any UserFacing {}
            do { _ = try AdapterConfig(readJSONFile(settings), file: settings) } catch is any UserFacing {}
        }
    },
    "shard index": { bytes in
        let path = shards
        _ = try file("shards/\(SafetensorsFolder.indexName)", bytes)
        _ = try SafetensorsFolder(folder: path)
    },
    "token cache": { bytes in
        for content in [bytes, keptTokens(bytes)] {
            _ = try file("tokens/x.tokens", content)
            _ = try TokenCache(folder: joinPath(folder, "tokens")).entries()
        }
    },
    "manifest": { bytes in
        _ = try file("checkpoints/step-1/state.json", Array("{}".utf8))
        _ = try file("checkpoints/step-1/manifest.json", sealed(bytes))
        _ = try CheckpointStore(folder: joinPath(folder, "checkpoints"), run: nil, log: { _ in }).bestOrNewest()
    },
    "merge": { bytes in
        guard let text = String(validating: bytes, as: UTF8.self) else { return }
        _ = try MergeDocuments(MergeConfig.parse(text, source: "x.yaml"))
    },
    "config": { bytes in
        guard let text = String(validating: bytes, as: UTF8.self) else { return }
        _ = try ConfigLoader.load(SFTConfig.self, text: text, name: "x.yaml")
    },
    // No reader: whether the limit holds for memory taken in pieces.
    "too much": { _ in
        withExtendedLifetime((0..<80).map { _ in [UInt8](repeating: 1, count: 1 << 20) }) {}
    },
]

nonisolated(unsafe) var isFirst = true
let name = getenv("NEEDLETAIL_FUZZ_READER").map { String(cString: $0) } ?? ""

/// Called once before the first input. libFuzzer keeps an input that overflows the stack only if it has another one to do so.
@_cdecl("LLVMFuzzerInitialize") public func initialize(_: UnsafeMutableRawPointer?, _: UnsafeMutableRawPointer?)
    -> Int32
{
    let size = 1 << 18
    var stack = stack_t(ss_sp: .allocate(byteCount: size, alignment: 64), ss_flags: 0, ss_size: size)
    precondition(sigaltstack(&stack, nil) == 0, "no stack for signals")
    return 0
}

/// libFuzzer's entry: one input.
@_cdecl("LLVMFuzzerTestOneInput") public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> Int32 {
    guard let reader = readers[name] else {
        fatalError("NEEDLETAIL_FUZZ_READER is one of \(readers.keys.sorted().joined(separator: ", "))")
    }
    // What is made once and kept is not the input's: it is made by an input that nobody limits.
    if isFirst {
        isFirst = false
        try? reader(Array(UnsafeBufferPointer(start: data, count: size)))
    }
    fuzz_memory_begin(64 << 20 + 4 * size)
    defer { _ = fuzz_memory_end() }
    do {
        try reader(Array(UnsafeBufferPointer(start: data, count: size)))
    } catch let error as any UserFacing {
        precondition(!error.message.contains("\n") || ["config", "merge"].contains(name), "a message of several lines")
    } catch {
        fatalError("no error for people: \(error)")
    }
    return 0
}
