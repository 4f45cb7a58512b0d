// needletail download
internal import ArgumentParser
internal import Diagnostics
internal import Hub
internal import ModelFiles
internal import RunLog

/// Fetches a repository of the Hugging Face Hub into its cache.
struct DownloadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "download", abstract: "Fetch a model from the Hugging Face Hub into its cache.",
        discussion: """
            The cache is the one that Python's programs use; what is there is not fetched again, and after an interruption \
            the same command goes on where it stopped. What is fetched is checked against its hash, what is there against \
            its size; --verify reads that, too, and compares its hash. Pickles and weights of other programs are left out \
            where the repository has safetensors or GGUF. The folder is printed; afterwards the repository's name stands for \
            it wherever a model is asked for. With HF_HUB_OFFLINE nobody is asked: the folder must have what can be known to \
            belong to it.

            Environment: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT, \
            HF_HUB_DOWNLOAD_TIMEOUT, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_DISABLE_PROGRESS_BARS, XDG_CACHE_HOME, \
            HTTPS_PROXY, HTTP_PROXY, NO_PROXY; after them the older HUGGINGFACE_HUB_CACHE, HUGGING_FACE_HUB_TOKEN and \
            TRANSFORMERS_OFFLINE. There is no telemetry, so HF_HUB_DISABLE_TELEMETRY and DO_NOT_TRACK have nothing to switch off.

            Example:
              needletail download HuggingFaceTB/SmolLM2-135M-Instruct
            """)

    @Argument(help: ArgumentHelp("ORG/NAME, perhaps with @REVISION.", valueName: "repository"))
    var repository: String

    @Option(help: ArgumentHelp("A branch, tag or commit; main when not given.", valueName: "name"))
    var revision: String?

    @Option(help: ArgumentHelp("Only files like this, as in a shell; may be repeated.", valueName: "pattern"))
    var include: [String] = []

    @Option(help: ArgumentHelp("No files like this; may be repeated.", valueName: "pattern"))
    var exclude: [String] = []

    @Flag(help: "Compare the hash of files that are there already; what is damaged is fetched again.")
    var verify = false

    func run() throws {
        guard let wanted = HubRepository(repository, revision: revision) else {
            throw UserError("\(repository): a repository is ORG/NAME or ORG/NAME@REVISION", .usage)
        }
        guard let cache = HubCache() else {
            throw UserError("no folder for the cache: set HOME, HF_HOME or HF_HUB_CACHE", .cannotWrite)
        }
        let isQuiet = hubSwitch("HF_HUB_DISABLE_PROGRESS_BARS", environmentVariable)
        let settings = hubIsOffline(environmentVariable) ? nil : try HubSettings.fromEnvironment(environmentVariable)
        let selection = HubSelection(include: include, exclude: exclude)
        defer { ProgressLine.finish() }
        let folder = try download(wanted, selection, into: cache, settings, verifies: verify) {
            if !isQuiet { ProgressLine.show($0, isLast: $1) }
        }
        try StandardOutput.write(folder + "\n")
    }
}
