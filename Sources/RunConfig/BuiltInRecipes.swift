// Configurations that come with the program: `recipes ls/cat/cp`. Each is a complete file that names what it decides
// and leaves the rest to the defaults; a test loads every one.

/// A configuration that comes with the program.
public struct BuiltInRecipe: Sendable {
    public let name: String
    /// One line for `recipes ls`.
    public let summary: String
    public let yaml: String

    /// Sorted by name.
    public static let all: [BuiltInRecipe] = [demoSarcasm, sftDoRA, sftFull, sftLoRA, sftQLoRA]

    public static func named(_ name: String) -> BuiltInRecipe? { all.first { $0.name == name } }
}

extension BuiltInRecipe {
    static let sftLoRA = BuiltInRecipe(
        name: "sft-lora", summary: "Fine-tune a chat model on your rows with a LoRA adapter; the place to start.",
        yaml: """
            # Fine-tune a chat model with LoRA: little memory, a small file as result.
            # needletail train sft-lora.yaml model.path=MODEL data.train=rows.jsonl
            recipe: sft
            model:
              path: models/SmolLM2-135M-Instruct  # a Hugging Face folder or a GGUF file
            data:
              train: [rows.jsonl]                 # chat, instruction, prompt/completion or text rows
              validation_fraction: 0.05
              max_length: 1024
            adapter:
              method: lora
              rank: 16
              alpha: 32
              targets: [all_linear]
            schedule:
              name: cosine
              warmup_ratio: 0.03
            training:
              epochs: 2
              batch_rows: 16
            output: runs/sft-lora

            """)

    static let sftDoRA = BuiltInRecipe(
        name: "sft-dora", summary: "As sft-lora with DoRA: often closer to full fine-tuning, somewhat slower.",
        yaml: """
            # Fine-tune a chat model with DoRA: as LoRA, with the length of each weight row trained apart.
            # needletail train sft-dora.yaml model.path=MODEL data.train=rows.jsonl
            recipe: sft
            model:
              path: models/SmolLM2-135M-Instruct
            data:
              train: [rows.jsonl]
              validation_fraction: 0.05
            adapter:
              method: dora
              rank: 16
              alpha: 32
            schedule:
              name: cosine
              warmup_ratio: 0.03
            training:
              epochs: 2
              batch_rows: 16
            output: runs/sft-dora

            """)

    static let sftQLoRA = BuiltInRecipe(
        name: "sft-qlora", summary: "As sft-lora on frozen weights of 4 bits (QLoRA): the least memory.",
        yaml: """
            # Fine-tune a chat model with QLoRA: a LoRA adapter on weights that are kept in 4 bits; CPU only.
            # needletail train sft-qlora.yaml model.path=MODEL data.train=rows.jsonl
            recipe: sft
            model:
              path: models/SmolLM2-135M-Instruct
              quantize: nf4                       # or as_stored for a GGUF file's own blocks
            data:
              train: [rows.jsonl]
              validation_fraction: 0.05
            adapter:
              method: lora
              rank: 16
              alpha: 32
            schedule:
              name: cosine
              warmup_ratio: 0.03
            training:
              epochs: 2
              batch_rows: 16
            output: runs/sft-qlora

            """)

    static let sftFull = BuiltInRecipe(
        name: "sft-full", summary: "Train all weights; for small models or much data. Memory: 16 bytes a weight.",
        yaml: """
            # Fine-tune all weights of a chat model.
            # needletail train sft-full.yaml model.path=MODEL data.train=rows.jsonl
            recipe: sft
            model:
              path: models/SmolLM2-135M-Instruct
            data:
              train: [rows.jsonl]
              validation_fraction: 0.05
            adapter:
              method: full
            optimizer:
              learning_rate: 2e-5
              weight_decay: 0.01
            schedule:
              name: cosine
              warmup_ratio: 0.03
            training:
              epochs: 2
              batch_rows: 16
            output: runs/sft-full

            """)

    static let demoSarcasm = BuiltInRecipe(
        name: "demo-sarcasm", summary: "What `make demo` trains: sarcastic or sincere headlines, 2,000 rows by LoRA.",
        yaml: """
            # Teach SmolLM2-135M-Instruct to tell sarcastic from sincere headlines; `make demo` runs this.
            recipe: sft
            model:
              path: models/SmolLM2-135M-Instruct
            data:
              train: [runs/demo-rows/train.jsonl]      # 2,000 headlines, exact duplicates removed
              validation: [runs/demo-rows/held-out.jsonl]
              max_length: 256
            adapter:
              method: lora
              rank: 16
              alpha: 32
              targets: [all_linear]
            optimizer:
              learning_rate: 5e-4
            schedule:
              name: linear
            training:
              epochs: 1
              batch_rows: 16
              eval_every: 63
              save_every: 32
            output: runs/demo

            """)
}
