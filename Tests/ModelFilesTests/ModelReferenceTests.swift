// What a MODEL argument leads to: folders, adapters, runs and their steps.
import Diagnostics
import Formats
import Glibc
import ModelFiles
import RunLog
import Testing

/// A folder with a base `base`, an adapter `adapter` on it, and a run `run` with three steps: adapters as trainers save
/// them.
private final class Files {
    let path = "/tmp/needletail-models-\(UInt64.random(in: 0 ... .max))"

    init(scores: [Int: Double], state: JSONValue = nil) throws {
        try file("base/config.json", "{}")
        try file("base/tokenizer.json", "{}")
        try adapter("adapter")
        try file("run/run.json", #"{"id":"this run"}"#)
        let store = CheckpointStore(folder: path + "/run/checkpoints", run: "this run", keep: 3) { _ in }
        for step in 1...3 {
            try store.save(step: step, state: state, expectedBytes: 0, score: scores[step]) { folder in
                try writeFileAtomically(adapterJSON, to: folder + "/adapter_config.json")
            }
        }
    }

    deinit { try? removeTree(path) }

    var adapterJSON: String { #"{"base_model_name_or_path":"\#(path)/base"}"# + "\n" }

    func file(_ name: String, _ text: String) throws {
        try createDirectories(parentFolder(of: path + "/" + name))
        try writeFileAtomically(text, to: path + "/" + name)
    }

    func adapter(_ name: String) throws { try file(name + "/adapter_config.json", adapterJSON) }
}

@Suite struct RunsAsModels {
    @Test(arguments: [([1: 0.5, 2: 0.4, 3: 0.6], 2), ([:], 3), ([1: 0.5], 1)] as [([Int: Double], Int)])
    func aRunIsItsBestCheckpointElseTheNewest(_ scores: [Int: Double], _ step: Int) throws {
        let files = try Files(scores: scores)
        let reference = try ModelReference(files.path + "/run")
        #expect(reference.adapterFolder == files.path + "/run/checkpoints/step-\(step)")
        #expect(reference.baseFolder == files.path + "/base")
        #expect(try ModelReference.tokenizerPath(files.path + "/run") == files.path + "/base")
    }

    @Test(
        arguments: [
            (["steps": 9], [2: 0.4], "3 of 9; the best, of step 2, is used"),
            (["steps": 1200], [:], "3 of 1,200; it is used"),
            (["steps": 3], [2: 0.4], nil), (["steps": 9, "stopped_early": true], [2: 0.4], nil), ([:], [:], nil),
        ] as [(JSONValue, [Int: Double], String?)]) func aRunThatIsNotDoneSaysSo(
            _ state: JSONValue, _ scores: [Int: Double], _ note: String?
        ) throws
    {
        let files = try Files(scores: scores, state: state), run = files.path + "/run"
        var told: [String] = []
        _ = try ModelReference(run) { told.append($0) }
        let beginning = "note: \(run): the newest checkpoint of this run is of step "
        #expect(told == (note.map { [beginning + $0] } ?? []))
        // Later checkpoints taken away, and the adapter of the end still there.
        try files.file("run/adapter/adapter_config.json", files.adapterJSON)
        told = []
        _ = try ModelReference(run) { told.append($0) }
        let delivered = "; to use what it delivered, name \(run)/adapter"
        #expect(told == (note.map { [beginning + $0 + delivered] } ?? []))
    }

    @Test func aDamagedBestIsPassedOver() throws {
        let files = try Files(scores: [1: 0.5, 2: 0.4])
        try files.file("run/checkpoints/step-2/adapter_config.json", files.adapterJSON + " ")
        #expect(try ModelReference(files.path + "/run").adapterFolder == files.path + "/run/checkpoints/step-1")
    }

    @Test func aStepIsItself() throws {
        let files = try Files(scores: [1: 0.5])
        let step = files.path + "/run/checkpoints/step-3"
        #expect(try ModelReference(step).adapterFolder == step)
    }

    @Test func aRunWithoutCheckpointsSaysSo() throws {
        let files = try Files(scores: [:])
        try removeTree(files.path + "/run/checkpoints")
        #expect { try ModelReference(files.path + "/run") } throws: { "\($0)".contains("has saved no checkpoint yet") }
    }

    /// What is left when checkpoints were cleaned away or not copied.
    @Test(arguments: ["adapter", "model"]) func aRunWithoutCheckpointsIsWhatItDelivered(_ name: String) throws {
        let files = try Files(scores: [:]), run = files.path + "/run", delivered = run + "/" + name
        try removeTree(run + "/checkpoints")
        if name == "adapter" {
            try files.adapter("run/adapter")
        } else {
            for file in ["config.json", "tokenizer.json"] { try files.file("run/model/" + file, "{}") }
        }
        let reference = try ModelReference(run), isAdapter = name == "adapter"
        #expect(reference.adapterFolder == (isAdapter ? delivered : nil))
        #expect(reference.baseFolder == (isAdapter ? files.path + "/base" : delivered))
        #expect(try ModelReference.tokenizerPath(run) == reference.baseFolder)
        #expect(try ModelReference.isAdapter(run) == isAdapter)
        // Without its record it is any folder, and the one inside is named.
        try removeTree(run + "/run.json")
        let hint = "; to use the \(name) in it, name \(delivered)"
        #expect { try ModelReference(run) } throws: { "\($0)".hasSuffix(hint) }
    }
}

@Suite struct FoldersOfGGUFFiles {
    @Test(
        arguments: [
            (["b.gguf", "README.md"], "b.gguf"),
            (["m-00002-of-00002.gguf", "m-00001-of-00002.gguf"], "m-00001-of-00002.gguf"),
        ] as [([String], String)]) func nameTheFileToGive(_ names: [String], _ wanted: String) throws
    {
        let files = try Files(scores: [:])
        for name in names { try files.file("only/\(name)", "GGUF") }
        let hint = "; to use the GGUF file in it, name \(files.path)/only/\(wanted)"
        for open in [
            { _ = try ModelReference($0) }, { _ = try ModelOutline($0) }, { _ = try ModelReference.tokenizerPath($0) },
        ] as [(String) throws -> Void] {
            let error = #expect(throws: UserError.self) { try open(files.path + "/only") }
            #expect(error?.message.hasSuffix(hint) == true, "\(error?.message ?? "")")
        }
        try createDirectories(files.path + "/empty")
        #expect { try ModelReference(files.path + "/empty") } throws: { "\($0)".hasSuffix("in this folder") }
    }
}

@Suite struct CodeInModelFolders {
    @Test(
        arguments: [
            (#"{"auto_map":{"AutoModel":"modeling.Model"}}"#, "auto_map"),
            (#"{"trust_remote_code":true,"model_file":"m.py"}"#, "model_file, trust_remote_code"),
            (
                #"{"custom_pipelines":{"x":{"impl":"p.P"}},"_target_":"os.system","custom_code":"x"}"#,
                "custom_pipelines, custom_code, _target_"
            ),
            (#"{"auto_map":null,"trust_remote_code":false}"#, nil), ("{}", nil),
        ] as [(String, String?)]) func isToldOfAndIgnored(_ config: String, _ keys: String?) throws
    {
        let files = try Files(scores: [:])
        try files.file("base/config.json", config)
        for model in ["base", "adapter"] {
            var told: [String] = []
            let reference = try ModelReference(files.path + "/" + model) { told.append($0) }
            #expect(reference.baseFolder == files.path + "/base")
            let text = keys.map { "\(files.path)/base/config.json: \($0): code of a model is never run; ignored" }
            #expect(told == (text.map { [$0] } ?? []))
        }
        try files.file("base/tokenizer_config.json", config)
        #expect(ignoredCode(in: files.path + "/base").count == (keys == nil ? 0 : 2))
    }
}

@Suite struct Bases {
    @Test func anAdapterTakesAnotherBase() throws {
        let files = try Files(scores: [:])
        try files.file("other/config.json", "{}")
        let reference = try ModelReference(files.path + "/adapter", base: files.path + "/other")
        #expect(reference.baseFolder == files.path + "/other" && reference.adapterFolder == files.path + "/adapter")
    }

    /// A base path that was relative to the folder where training began, which lies around the run; used from elsewhere.
    @Test(arguments: ["base", "models/base"]) func aRelativeBaseIsFoundAroundTheAdapter(_ name: String) throws {
        let files = try Files(scores: [:])
        try files.file("models/base/config.json", "{}")
        try files.file("runs/first/adapter/adapter_config.json", #"{"base_model_name_or_path":"\#(name)"}"#)
        // Nearer, but no model.
        try createDirectories(files.path + "/runs/" + name)
        let reference = try ModelReference(files.path + "/runs/../runs/first/adapter")
        #expect(fileExists(reference.baseFolder + "/config.json") && reference.baseFolder.hasSuffix("/\(name)"))
        #expect(reference.baseFolder.hasPrefix(files.path) && !reference.baseFolder.contains("/runs/"))
        try files.file("runs/first/adapter/adapter_config.json", #"{"base_model_name_or_path":"elsewhere"}"#)
        #expect { try ModelReference(files.path + "/runs/first/adapter") } throws: { "\($0)".contains("--base MODEL") }
    }

    @Test func aWholeModelTakesNone() throws {
        let files = try Files(scores: [:])
        let error = #expect(throws: UserError.self) {
            try ModelReference(files.path + "/base", base: files.path + "/base")
        }
        #expect(error?.exitStatus == .usage)
    }
}
