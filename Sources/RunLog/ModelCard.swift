// The README of a trained model: what it was made from, how, how well it does, and how to load it.

internal import Diagnostics
internal import Formats

/// What a model card says.
public struct ModelCard: Sendable {
    public var title: String
    /// Hub name or folder of the base model; a local path is shown as its last component.
    public var baseModel: String
    /// True for an adapter, false for whole weights.
    public var isAdapter: Bool
    /// What was done, as in "LoRA, rank 16, all linear layers".
    public var method: String
    /// Each file of data: its name, rows trained on, rows held out, SHA-256.
    public var data: [(name: String, trained: Int, heldOut: Int, sha256: String)]
    public var settings: [(name: String, value: String)]
    /// Measured figures: name and value with unit.
    public var figures: [(name: String, value: String)]
    /// Program and library versions.
    public var versions: [(name: String, value: String)]

    public init(
        title: String, baseModel: String, isAdapter: Bool, method: String,
        data: [(name: String, trained: Int, heldOut: Int, sha256: String)], settings: [(name: String, value: String)],
        figures: [(name: String, value: String)], versions: [(name: String, value: String)]
    ) {
        (self.title, self.baseModel, self.isAdapter, self.method) = (title, baseModel, isAdapter, method)
        (self.data, self.settings, self.figures, self.versions) = (data, settings, figures, versions)
    }

    /// The card as Markdown with the Hub's YAML front matter.
    public var markdown: String {
        let base = baseModel.hasPrefix("/") ? String(baseModel.split(separator: "/").last ?? "") : baseModel
        // JSON strings are YAML strings.
        var front = [
            "---", "base_model: \(JSONValue(base).serialized())",
            "library_name: \(isAdapter ? "peft" : "transformers")",
        ]
        front += [
            "pipeline_tag: text-generation", "tags: [needletail, \(isAdapter ? "lora, " : "")fine-tuned]", "---", "",
        ]
        let body: [String] = [
            "# \(inline(title))", "",
            "\(isAdapter ? "An adapter for" : "A model fine-tuned from") `\(inline(base))`: \(inline(method)). "
                + "Trained with Needletail.", "",
            "## Figures", "", table(["", "value"], figures.map { [$0.name, $0.value] }), "",
            "## Data", "",
            table(
                ["file", "rows trained on", "rows held out", "SHA-256"],
                data.map { [$0.name, grouped($0.trained), grouped($0.heldOut), "`\($0.sha256)`"] }), "",
            "## Settings", "", table(["key", "value"], settings.map { [$0.name, "`\($0.value)`"] }), "",
            "## Use", "", usage(base), "",
            "## Made with", "", table(["", "version"], versions.map { [$0.name, $0.value] }),
        ]
        return (front + body).joined(separator: "\n") + "\n"
    }

    private func usage(_ base: String) -> String {
        let python =
            isAdapter
            ? """
            from peft import PeftModel
            from transformers import AutoModelForCausalLM, AutoTokenizer

            base = AutoModelForCausalLM.from_pretrained(\(JSONValue(base).serialized()))
            model = PeftModel.from_pretrained(base, ".")
            """
            : """
            from transformers import AutoModelForCausalLM, AutoTokenizer

            model = AutoModelForCausalLM.from_pretrained(".")
            """
        return """
            ```sh
            needletail chat .
            ```

            ```python
            \(python)
            tokenizer = AutoTokenizer.from_pretrained(".")
            ```
            """
    }

    private func table(_ head: [String], _ rows: [[String]]) -> String {
        guard !rows.isEmpty else { return "None." }
        let line = { (cells: [String]) in "| \(cells.map(inline).joined(separator: " | ")) |" }
        return ([line(head), "|\(head.map { _ in "---|" }.joined())"] + rows.map(line)).joined(separator: "\n")
    }

    /// One line that keeps to its cell; names of files and settings cannot add markup of their own.
    private func inline(_ text: String) -> String {
        text.unicodeScalars.map { scalar in
            switch scalar {
            case "|": "\\|"
            case "<": "&lt;"
            default: scalar.value < 0x20 || scalar.value == 0x7F ? " " : String(scalar)
            }
        }.joined()
    }
}
