// `make install`: a folder that can be moved, and completions that a shell understands.
import Testing

/// The checkout that these tests were built in.
private let checkout = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")

struct InstallTests {
    /// The whole of LibTorch is copied, so this is one test: what was installed still works where it was moved to, and
    /// loads nothing of the checkout.
    @Test func installedProgramMoves() throws {
        try withTemporaryFolder { folder in
            let installed = try shell(
                "'\(checkout)/scripts/install' \"$PWD/first\" && mv first 'second place'", in: folder)
            try #require(installed.status == 0, "\(installed.errors)")
            let doctor = try shell(
                "env -u LD_LIBRARY_PATH -u LIBTORCH LD_DEBUG=files 'second place/bin/needletail' doctor", in: folder)
            #expect(doctor.status == 0 && doctor.output.contains("libtorch"))
            let libraries = doctor.errors.split(separator: "\n").filter {
                $0.contains("calling init:") && ["libtorch", "libc10", "libgomp"].contains(where: $0.contains)
            }
            #expect(!libraries.isEmpty)
            let place = "second place/libexec/needletail/../../lib/needletail/"
            for line in libraries { #expect(line.contains(place), "\(line)") }
            let convert = try shell(
                "env -u LD_LIBRARY_PATH LD_DEBUG=files 'second place/bin/needletail' data convert "
                    + "'\(checkout)/Tests/DatasetsTests/Fixtures/chats.parquet' rows.jsonl", in: folder)
            #expect(convert.status == 0)
            let arrow = convert.errors.split(separator: "\n").filter {
                $0.contains("calling init:") && ["arrow", "parquet"].contains(where: $0.contains)
            }
            #expect(arrow.count == 3)
            for line in arrow { #expect(line.contains("second place/bin/../lib/needletail/"), "\(line)") }
        }
    }

    /// What bash offers for the last word of a line.
    @Test(arguments: [
        ("tr", "train"), ("tokenizer enc", "encode"), ("recipes cat demo-s", "demo-sarcasm"),
        ("train --dry", "--dry-run"),
        ("completion z", "zsh"),
    ])
    func bashCompletes(_ words: String, _ offer: String) throws {
        try withTemporaryFolder { folder in
            let outcome = try shell(
                """
                needletail completion bash > completion && bash -n completion && bash --norc -c '
                    source ./completion; COMP_WORDS=(needletail "$@"); COMP_CWORD=$#
                    COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
                    _needletail needletail "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[*]}"
                ' complete \(words)
                """, in: folder)
            #expect(outcome.status == 0 && outcome.errors.isEmpty, "\(outcome.errors)")
            #expect(outcome.output == "\(offer)\n")
        }
    }
}
