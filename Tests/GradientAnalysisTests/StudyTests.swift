// Input building, and studies as a whole: what is kept, what is left out, and going on after a kill.
import Datasets
import Diagnostics
import Formats
import GradientAnalysis
import TestSupport
import Tensors
import Testing
import Tokenizers

@Suite struct ResponseEncoderTests {
    private let place = RowLocation(file: "rows.jsonl", unit: .line, number: 1)

    private func row(_ content: RowContent) -> DataRow { DataRow(content, location: place) }

    /// The text of the marked tokens.
    private func marked(_ row: EncodedRow) -> String {
        let scalars = Array(row.text.unicodeScalars)
        let ranges = zip(row.offsets, row.trained).filter(\.1).map(\.0)
        guard let first = ranges.first, let last = ranges.last else { return "" }
        return String(String.UnicodeScalarView(scalars[first.lowerBound..<last.upperBound]))
    }

    private func encoder(_ style: PromptStyle = .none, maxLength: Int = 100) throws -> ResponseEncoder {
        try ResponseEncoder(tinyTokenizer(), style, maxLength: maxLength)
    }

    @Test func baseStyleJoinsByLines() throws {
        let content = RowContent.instruction(system: nil, instruction: "Add.", input: "2+2", output: "four")
        let encoded = try #require(try encoder().encode(row(content)))
        #expect(encoded.text == "Add.\n2+2\nfour" && marked(encoded) == "four")
        let bare = RowContent.instruction(system: nil, instruction: "Add.", input: "", output: "four")
        #expect(try encoder().encode(row(bare))?.text == "Add.\nfour")
        let pair = try #require(try encoder().encode(row(.completion(prompt: "2+2=", completion: "4"))))
        #expect(pair.text == "2+2=4" && marked(pair) == "4")
    }

    @Test func anotherResponseTakesItsPlace() throws {
        let encoded = try #require(
            try encoder().encode(row(.completion(prompt: "a ", completion: "b")), response: "zzz"))
        #expect(encoded.text == "a zzz" && marked(encoded) == "zzz")
    }

    /// The tiny tokenizer joins "t" and "h", the last letter of the prompt and the first of the response.
    @Test func aTokenOverTheBoundaryCounts() throws {
        let encoded = try #require(try encoder().encode(row(.completion(prompt: "ot", completion: "hat"))))
        #expect(encoded.ids.count == 4 && encoded.trained == [false, true, true, true])
        #expect(marked(encoded) == "that")
    }

    @Test func chatStyleEndsWithTheResponse() throws {
        let content = RowContent.instruction(system: nil, instruction: "Hi", input: "there", output: "yes")
        let encoded = try #require(try encoder(.chat).encode(row(content)))
        let system = "<|turn|>system\nYou are a helpful assistant.</s>"
        #expect(encoded.text == "<s>\(system)<|turn|>user\nHi\nthere</s><|turn|>assistant\nyes")
        #expect(marked(encoded) == "yes")
        #expect(encoded.ids.count { $0 == 0 } == 1, "one <s>, the template's")
        let chat = RowContent.chat(
            [
                .init(role: .system, content: "S"), .init(role: .user, content: "U"),
                .init(role: .assistant, content: "A"),
            ], tools: [])
        let own = try #require(try encoder(.chat).encode(row(chat)))
        #expect(own.text == "<s><|turn|>system\nS</s><|turn|>user\nU</s><|turn|>assistant\nA")
        #expect(try encoder().encode(row(chat))?.text == "S\nU\nA")
    }

    @Test func longRowsLoseTheirEnd() throws {
        let content = RowContent.completion(prompt: "abcd", completion: "xyz")
        let cut = try #require(try encoder(maxLength: 5).encode(row(content)))
        #expect(cut.ids.count == 5 && cut.truncated == 2 && marked(cut) == "x")
        #expect(try encoder(maxLength: 4).encode(row(content)) == nil)
    }

    @Test func whatHasNoPromptIsRefused() throws {
        #expect(throws: UserError.self) { try encoder(.chat).encode(row(.text("a document"))) }
        #expect(try encoder().encode(row(.text("ab")))?.trained == [false, true])
    }
}

@Suite struct GradientStudyTests {
    private func write(_ rows: [(String, String)], to path: String) throws {
        let lines = rows.map {
            JSONValue(dictionaryLiteral: ("prompt", .string($0.0)), ("completion", .string($0.1))).serialized()
        }
        try writeFileAtomically(lines.joined(separator: "\n") + "\n", to: path)
    }

    private let rows = [("1+1=", "2"), ("2+2=", "4"), ("1+3=", "4"), ("2+3=", "5")]

    /// A folder with a tiny model and rows.
    private func settings(_ folder: TemporaryFolder) throws -> StudySettings {
        if !folderExists(folder["model"]) {
            try writeTextFolder(folder["model"], textConfig(), tinyModel(textConfig()))
            try write(rows, to: folder["rows.jsonl"])
        }
        var settings = StudySettings(
            models: [("m", folder["model"])], dataSets: [("d", folder["rows.jsonl"])], output: folder["out"])
        settings.projections = [.q, .v]
        settings.irrelevant = .shuffle
        return settings
    }

    private func run(_ settings: StudySettings) throws -> StudyReport {
        let study = try GradientStudy(settings)
        #expect(try study.run())
        return try study.report(ReportOptions())
    }

    private func lines(_ settings: StudySettings) throws -> [String] {
        try readTextFile(joinPath(settings.output, "examples.jsonl")).split(separator: "\n").map(String.init)
    }

    @Test func oneLineAnExampleAndMeansOfThem() throws {
        let folder = try TemporaryFolder(), settings = try settings(folder)
        let report = try run(settings), lines = try lines(settings)
        #expect(lines.count == 8 && report.pairings.map(\.pairing) == [.correct, .irrelevant])
        let correct = try #require(report.pairing("m", "d", .correct))
        #expect(correct.examples == 4 && correct.responseTokens == 1)
        let values = try lines.map { try JSONValue.parse($0) }.filter { $0["pairing"]?.string == "correct" }
        let mean = values.map { $0["gradients"]!["v"]!["nuclear"]!.flatNumbers[1] }.reduce(0, +) / 4
        #expect(abs(correct.projections[.v]!.curve[1] - mean) < 1e-12)
        #expect(try report.writeFiles().contains("plots/m-d-correct-nuclear.svg"))
        #expect(try readTextFile(folder["out/summary.csv"]).split(separator: "\n").count == 5)
        #expect(try readTextFile(folder["out/layers.csv"]).split(separator: "\n").count == 9)
    }

    /// One picture a response, a column a data set: q and v of each on an axis that all but `none` share.
    @Test func dataSetsAreDrawnSideBySide() throws {
        let folder = try TemporaryFolder()
        var settings = try settings(folder)
        for (file, words) in [("long", "it is "), ("longer", "so it is ")] {
            try write(rows.map { ($0.0, words + $0.1) }, to: folder["\(file).jsonl"])
        }
        settings.dataSets = [("none", "long"), ("short", "rows"), ("other", "longer")].map {
            ($0, folder["\($1).jsonl"])
        }
        let report = try run(settings), files = try report.writeFiles()
        for pairing in ["correct", "irrelevant"] {
            let name = "plots/m-side_by_side-\(pairing).svg"
            #expect(files.contains(name))
            let svg = try readTextFile(joinPath(settings.output, name))
            // Three rows of three panels: nuclear norms of q and v, the ratio of q, the ratio of v.
            #expect(svg.split(separator: "<clipPath").count == 10 && svg.split(separator: "<polyline").count == 13)
            for row in 0..<3 {
                for column in 0..<3 { #expect(svg.split(separator: "\"plot-\(row)-\(column)\"").count == 2) }
            }
            let panels = svg.split(separator: "<g transform=\"translate").dropFirst().map { panel in
                // Labels of the vertical axis stand to the left of it.
                panel.split(separator: "\n").filter { $0.contains("text-anchor=\"end\"") }.map {
                    $0.split(separator: ">")[1].split(separator: "<")[0]
                }
            }
            #expect(panels.count == 9 && panels[1] == panels[2] && panels[0] != panels[1])
        }
        // One data set has nothing beside it.
        let alone = try TemporaryFolder()
        #expect(!(try run(self.settings(alone)).writeFiles().contains { $0.contains("side_by_side") }))
    }

    @Test func aKilledStudyGoesOn() throws {
        let folder = try TemporaryFolder(), settings = try settings(folder)
        _ = try run(settings)
        let whole = try lines(settings), path = joinPath(settings.output, "examples.jsonl")
        // Three examples, and the beginning of the fourth.
        try writeFileAtomically(whole[..<3].joined(separator: "\n") + "\n" + String(whole[3].prefix(40)), to: path)
        _ = try run(settings)
        #expect(try lines(settings) == whole)
        // A whole line without its line break is cut short, too: the break is written with it.
        try writeFileAtomically(whole[..<4].joined(separator: "\n"), to: path)
        _ = try run(settings)
        #expect(try lines(settings) == whole)
        // A damaged line is named, and without it the example is computed again.
        for damage in ["{}", String(whole[1].dropLast(9))] {
            let lines = [whole[0], damage] + whole[2...]
            try writeFileAtomically(lines.joined(separator: "\n") + "\n", to: path)
            let error = #expect(throws: UserError.self) { try run(settings) }
            #expect(error?.exitStatus == .badData && error?.message.hasPrefix("\(path), line 2: damaged; ") == true)
        }
        try writeFileAtomically(([whole[0]] + whole[2...]).joined(separator: "\n") + "\n", to: path)
        _ = try run(settings)
        #expect(try lines(settings) == [whole[0]] + whole[2...] + [whole[1]])
    }

    @Test func otherSettingsAreRefused() throws {
        let folder = try TemporaryFolder()
        var settings = try settings(folder)
        _ = try run(settings)
        settings.seed = 7
        settings.limit = 2
        let error = #expect(throws: UserError.self) { try run(settings) }
        #expect(error?.message.contains("limit, seed") == true)
    }

    @Test func collisionsAreCountedAndDrawnAgain() throws {
        let folder = try TemporaryFolder()
        var settings = try settings(folder)
        let data = try StudyData(settings, 0)
        #expect(zip(data.irrelevant, rows).allSatisfy { $0! != $1.1 })
        let plain = IrrelevantPairing(responses: rows.map(\.1), seed: 0, forbidsEqual: false)
        #expect(data.collisions == plain.collisions)
        // A file that gives two rows their own text: left out, or used when that is allowed.
        try write([("", "2"), ("", "9"), ("", "4"), ("", "9")], to: folder["other.jsonl"])
        settings.irrelevant = .files([folder["other.jsonl"]])
        let given = try StudyData(settings, 0)
        #expect(given.irrelevant == [nil, "9", nil, "9"] && given.collisions == 2)
        let report = try run(settings)
        #expect(report.pairing("m", "d", .irrelevant)?.examples == 2)
        #expect(report.pairing("m", "d", .irrelevant)?.skipped == ["no other response with another text": 2])
        settings.allowsEqual = true
        #expect(try StudyData(settings, 0).irrelevant == ["2", "9", "4", "9"])
    }

    /// The control of row 12: irrelevant responses that are the correct ones differ by nothing.
    @Test func itselfHasNoDifference() throws {
        let folder = try TemporaryFolder()
        var settings = try settings(folder)
        (settings.irrelevant, settings.allowsEqual) = (.files([folder["rows.jsonl"]]), true)
        let report = try run(settings)
        #expect(report.relativeDifference("m", "d", .q)?.byLayer == [0, 0])
        #expect(report.collisions.first?.collisions == 4)
    }

    @Test func cutResponsesAreCounted() throws {
        let folder = try TemporaryFolder()
        var settings = try settings(folder)
        try write(rows + [("a long question without end ", "5")], to: folder["rows.jsonl"])
        settings.maxLength = 8
        settings.irrelevant = nil
        let report = try run(settings), correct = try #require(report.pairing("m", "d", .correct))
        #expect(correct.examples == 4 && correct.skipped == ["response cut off": 1])
    }

    /// Of the gradients only v's is not finite: q keeps the example.
    @Test func nonFiniteProjectionsAreLeftOutAlone() throws {
        let folder = try TemporaryFolder(), settings = try settings(folder)
        let file: ExampleFile
        try createDirectories(settings.output)
        file = try ExampleFile(folder: settings.output)
        let spectrum = try #require(
            GradientSpectrum(
                outputGradient: Tensor([1, 0] as [Float], [1, 2]), input: Tensor([2, 0] as [Float], [1, 2])))
        for row in 0..<2 {
            let gradients = ExampleGradients(
                loss: 1, spectra: [.q: [spectrum, spectrum], .v: row == 0 ? nil : .some([spectrum, spectrum])])
            try file.append(
                ExampleRecord.line(
                    ExampleKey("m", "d", .correct, row), source: "", tokens: 2, responseTokens: 1, gradients,
                    savesSingularValues: true))
        }
        let report = try StudyReport(settings, [StudyData(settings, 0)], file, ReportOptions())
        let correct = try #require(report.pairing("m", "d", .correct))
        #expect(correct.projections[.q]!.examples == 2 && correct.projections[.q]!.notFinite == 0)
        #expect(correct.projections[.q]!.curve == [2, 2])
    }
}
