// BERT against transformers (Fixtures/make_goldens.py), and texts to vectors from folders of every make.
import Checkpoints
import Diagnostics
import Formats
import Layers
import Models
import Optimizers
import Tensors
import TestSupport
import Testing
import Tokenizers

@Suite struct EncoderTests {
    typealias Written = SafetensorsWriter.Tensor

    private func goldens() throws -> JSONValue { try golden("encoder_goldens.json", besideFile: #filePath) }

    /// Tensors under the names of transformers' BertModel.
    private func tensors(_ golden: JSONValue) -> [(name: String, value: Tensor)] {
        golden["tensors"]!.array!.enumerated().map { k, tensor in
            let scale = tensor["scale"]!.double!, offset = tensor["offset"]!.double!
            return (tensor["name"]!.string!, filled(tensor["shape"]!.ints, k, scale: scale, offset: offset))
        }
    }

    private func filledModel(_ golden: JSONValue) throws -> BERT {
        let model = BERT(try BERTConfig(golden["config"]!, file: "config.json", hasPooler: true), .float32, on: .cpu)
        let values = Dictionary(uniqueKeysWithValues: tensors(golden).map { ("bert." + $0.name, $0.value) })
        #expect(Set(model.namedParameters().map(\.name)) == Set(values.keys))
        for (name, parameter) in model.namedParameters() { parameter.fill(fromFile: values[name]!) }
        return model
    }

    @Test(arguments: ["bert", "bert_tanh_epsilon"]) func equalsTransformers(_ name: String) throws {
        let file = try goldens(), golden = file["cases"]![name]!, model = try filledModel(golden)
        let texts = ["short_ids", "long_ids"].map { file[$0]!.ints.map(Int32.init) }
        let expected = ["short_states", "long_states"].map { golden[$0]! }
        withoutGradients {
            for (ids, states) in zip(texts, expected) {
                let found = model.hiddenStates(ids, starts: [0, ids.count])
                #expect(relativeDifference(found, Tensor(states.flatNumbers, [ids.count, 32])) < 1e-5)
            }
            // Side by side they are what they are alone, and no text sees the other.
            let starts = [0, texts[0].count, texts[0].count + texts[1].count]
            let both = model.hiddenStates(texts[0] + texts[1], starts: starts)
            let alone = Tensor(expected.flatMap(\.flatNumbers), [starts[2], 32])
            #expect(relativeDifference(both, alone) < 1e-5)
            let first = both.indexSelect(0, Tensor(starts.dropLast().map(Int64.init)))
            let pooled = Tensor(golden["pooled"]!.flatNumbers, [2, 32])
            #expect(relativeDifference(model.pooled(first)!, pooled) < 1e-5)
        }
    }

    /// Thirty steps of AdamW to states and pooled vectors that are wanted.
    @Test(arguments: ["bert", "bert_tanh_epsilon"]) func trainsAsTransformersDoes(_ name: String) throws {
        let file = try goldens(), golden = file["cases"]![name]!, model = try filledModel(golden)
        let texts = ["short_ids", "long_ids"].map { file[$0]!.ints.map(Int32.init) }
        let starts = [0, texts[0].count, texts[0].count + texts[1].count]
        let parameters = model.namedParameters()
        for (_, parameter) in parameters { parameter.isTrained = true }
        let optimizer = AdamW(parameters.map { ($0.name, $0.parameter) }, .init())
        for (step, expected) in golden["losses"]!.flatNumbers.enumerated() {
            let states = model.hiddenStates(texts[0] + texts[1], starts: starts)
            let pooled = model.pooled(states.indexSelect(0, Tensor(starts.dropLast().map(Int64.init))))!
            var loss = pooled.pow(2).sum() / 32
            for (i, ids) in texts.enumerated() {
                let off = states.narrow(0, starts[i], ids.count) - filled([ids.count, 32], 100 + i, scale: 2)
                loss = loss + off.pow(2).sum() / Double(32 * ids.count)
            }
            #expect(abs(loss.item - expected) < 1e-5 * expected, "step \(step)")
            loss.backward()
            optimizer.step(learningRate: 1e-3, gradientScale: 1)
            optimizer.zeroGradients()
        }
    }

    /// A folder with the tiny tokenizer's vocabulary, and weights as `naming` spells them.
    private func writeFolder(
        _ path: String, _ naming: (String) -> String = { $0 }, files: [(name: String, text: String)] = [],
        changing: (inout [Written]) -> Void = { _ in }
    ) throws {
        var config = try goldens()["cases"]!["bert"]!["config"]!
        config = config.changing(["vocab_size": 268])
        let shapes = try BERTConfig(config, file: "config.json", hasPooler: true).parameterShapes
        var tensors = shapes.enumerated().map { k, weight in
            Written(naming(weight.name), filled(weight.shape, k, scale: 0.7, offset: 0.1), nil)
        }
        changing(&tensors)
        try TestSupport.writeFolder(path, config, tensors)
        try tinyTokenizer().save(to: path)
        for (name, text) in files {
            try createDirectories(parentFolder(of: joinPath(path, name)))
            try writeFileAtomically(text, to: joinPath(path, name))
        }
    }

    private let modules =
        #"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},"#
        + #"{"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"},"#
        + #"{"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#

    @Test func foldersOfEveryMakeGiveTheSameVectors() throws {
        let plain = try TemporaryFolder(), headed = try TemporaryFolder()
        try writeFolder(plain.path, { String($0.dropFirst("bert.".count)) }) {
            $0.append(Written("embeddings.position_ids", Tensor([0, 1, 2] as [Int64]), nil))
        }
        try writeFolder(headed.path, changing: { $0.append(Written("cls.predictions.bias", .zeros([268]), nil)) })
        let encoders = try [plain, headed].map { try SentenceEncoder(folder: $0.path) }
        let texts = try ["the users", "on"].map { try encoders[0].tokens(of: $0).ids }
        let vectors = encoders[0].vectors(texts)
        #expect(vectors == encoders[1].vectors(texts))
        #expect(vectors.map(\.count) == [32, 32] && encoders[0].pooling == .mean && !encoders[0].normalizes)
        // In any company a text's vector is the same.
        for (text, vector) in zip(texts, vectors) {
            let alone = encoders[0].vectors([text])[0]
            #expect(zip(alone, vector).allSatisfy { abs($0 - $1) < 1e-5 })
        }
    }

    @Test func modulesSayHowVectorsAreMade() throws {
        let folder = try TemporaryFolder()
        try writeFolder(
            folder.path,
            files: [
                ("modules.json", modules), ("sentence_bert_config.json", #"{"max_seq_length":5}"#),
                (
                    "1_Pooling/config.json",
                    #"{"word_embedding_dimension":32,"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#
                ),
            ])
        let encoder = try SentenceEncoder(folder: folder.path)
        #expect(encoder.pooling == .cls && encoder.normalizes && encoder.longestText == 5)
        let (ids, leftOut) = try encoder.tokens(of: "the users on the")
        let whole = encoder.tokenizer.encode("the users on the")
        #expect(ids.count == 5 && leftOut == whole.count - 5 && ids.first == whole.first)
        let vector = encoder.vectors([ids])[0]
        #expect(abs(vector.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
        let raw = try SentenceEncoder(folder: folder.path, normalizes: false).vectors([ids])[0]
        let length = raw.reduce(0) { $0 + $1 * $1 }.squareRoot()
        #expect(zip(raw, vector).allSatisfy { abs($0 / length - $1) < 1e-5 })
        let mean = try SentenceEncoder(folder: folder.path, pooling: .mean, normalizes: false).vectors([ids])[0]
        #expect(mean != raw)
    }

    @Test func whatDoesNotFitIsOneLine() throws {
        func message(
            files: [(name: String, text: String)] = [], pooling: Pooling? = nil,
            _ changing: (inout [Written]) -> Void = { _ in }
        ) throws -> String {
            let folder = try TemporaryFolder()
            try writeFolder(folder.path, files: files, changing: changing)
            do {
                _ = try SentenceEncoder(folder: folder.path, pooling: pooling)
                return "loaded"
            } catch let error as UserError {
                #expect(!error.message.contains("\n"))
                return String(error.message.dropFirst(folder.path.count))
            }
        }
        #expect(try message() == "loaded")
        let fit = ": weights do not fit config.json: ", query = "bert.encoder.layer.1.attention.self.query.weight"
        #expect(try message { $0.removeAll { $0.name == query } } == fit + "missing \(query)")
        #expect(try message { $0.append(Written("bert.extra", .zeros([1]), nil)) } == fit + "unexpected bert.extra")
        #expect(
            try message(pooling: .pooler) { $0.removeAll { $0.name.contains("pooler") } }
                == ": has no pooler (pooler.dense.weight); use mean or cls")
        let dense = modules.replacing("models.Normalize", with: "models.Dense")
        let mean = ("1_Pooling/config.json", #"{"pooling_mode_mean_tokens":true}"#)
        #expect(
            try message(files: [("modules.json", dense), mean])
                == "/modules.json: modules of type sentence_transformers.models.Dense are not supported")
        let both = ("1_Pooling/config.json", #"{"pooling_mode_mean_tokens":true,"pooling_mode_max_tokens":true}"#)
        #expect(
            try message(files: [("modules.json", modules), both])
                == "/1_Pooling/config.json: pooling_mode_mean_tokens with pooling_mode_max_tokens is not supported; "
                + "mean or first token alone are")
    }
}
