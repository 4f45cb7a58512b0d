// One reader of files from outside under libFuzzer, which makes inputs that reach new code: verify/fuzz.py builds and runs it.
// What a reader refuses it must refuse in one line; a trap, a hang or a huge allocation is a crash for libFuzzer.
import ChatTemplates
import Datasets
import Diagnostics
import Formats
import Glibc
import ModelFiles
import RunConfig
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
    "rows": { bytes in
        for name in ["x.jsonl", "x.csv", "x.json"] {
            do { _ = try Rows(DataSource([file(name, bytes)], takesEveryKind: true)) } catch is any UserFacing {}
        }
    },
    "config": { bytes in
        guard let text = String(validating: bytes, as: UTF8.self) else { return }
        _ = try ConfigLoader.load(SFTConfig.self, text: text, name: "x.yaml")
    },
]

let name = getenv("NEEDLETAIL_FUZZ_READER").map { String(cString: $0) } ?? ""

/// Called once before the first input. libFuzzer keeps an input that overflows the stack only if it has another one to do so.
@_cdecl("LLVMFuzzerInitialize") public func initialize(_: UnsafeMutableRawPointer?, _: UnsafeMutableRawPointer?) -> Int32 {
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
    do {
        try reader(Array(UnsafeBufferPointer(start: data, count: size)))
    } catch let error as any UserFacing {
        precondition(!error.message.contains("\n") || name == "config", "a message of several lines")
    } catch {
        fatalError("no error for people: \(error)")
    }
    return 0
}
