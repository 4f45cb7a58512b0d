// swift-tools-version: 6.1
// Needletail: LLM training in Swift on LibTorch. The graph of targets is drawn in ARCHITECTURE.md.
import Foundation
import PackageDescription

/// LibTorch: `$LIBTORCH`, else what `scripts/bootstrap` put into `.deps/libtorch`.
let libtorch = ProcessInfo.processInfo.environment["LIBTORCH"] ?? Context.packageDirectory + "/.deps/libtorch"
/// Arrow's C++ libraries and headers, which `scripts/bootstrap` takes out of the pyarrow wheel.
let arrow = Context.packageDirectory + "/.deps/arrow"

let swiftSettings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")

/// The Swift runtime goes into the programs themselves: they start faster, and an installed program needs no Swift.
/// (The two libraries below FoundationEssentials are named because objects compiled for the shared one do not.)
let staticSwift = [
    "-static-stdlib", "-use-ld=lld", "-lFoundation", "-lCoreFoundation", "-lFoundationInternationalization",
    "-l_FoundationICU", "-l_FoundationCollections", "-l_FoundationCShims",
]

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

/// - Parameter fixtures: whether the folder has golden files, which tests find through their own path.
func tests(_ name: String, _ dependencies: [Target.Dependency], fixtures: Bool = true) -> Target {
    .testTarget(
        name: name, dependencies: dependencies, exclude: fixtures ? ["Fixtures"] : [], swiftSettings: swiftSettings)
}

/// Where programs look for LibTorch at run time: beside an installed program, in the checkout, or at `$LIBTORCH`.
let rpaths =
    ["$ORIGIN/../../lib/needletail", "$ORIGIN/../../../.deps/libtorch/lib"]
    + (ProcessInfo.processInfo.environment["LIBTORCH"].map { [$0 + "/lib"] } ?? [])
let libtorchLinking: [LinkerSetting] = [
    .unsafeFlags(["-L\(libtorch)/lib"] + rpaths.flatMap { ["-Xlinker", "-rpath", "-Xlinker", $0] }),
    .linkedLibrary("torch_cpu"), .linkedLibrary("c10"),
]

let targets: [Target] = [
    // Without LibTorch: what text verbs need.
    library("Diagnostics"),
    .target(name: "CCompression"),
    library("Formats", ["CCompression", "Diagnostics"]),
    library("Tokenizers", ["Formats", "Diagnostics"]),
    library("ChatTemplates", ["Formats", "Diagnostics"]),
    library("Datasets", ["Tokenizers", "ChatTemplates", "Formats", "Diagnostics", crypto]),
    library("RunConfig", ["Diagnostics", "Yams"]),
    library("RunLog", ["Formats", "Diagnostics", crypto]),
    library("ModelFiles", ["RunLog", "Formats", "Tokenizers", "Diagnostics", crypto]),
    library(
        "Hub",
        [
            "ModelFiles", "RunLog", "Formats", "Diagnostics", crypto,
            .product(name: "AsyncHTTPClient", package: "async-http-client"),
            .product(name: "NIOCore", package: "swift-nio"), .product(name: "NIOHTTP1", package: "swift-nio"),
            .product(name: "NIOPosix", package: "swift-nio"),
        ]),
    library(
        "RecipeData", ["RunConfig", "ModelFiles", "Datasets", "Tokenizers", "ChatTemplates", "Formats", "Diagnostics"]),
    // A library of its own, opened when a Parquet or Arrow file is met. SwiftPM links it as if Swift were in it: the flags
    // keep the Swift runtime out.
    .target(
        name: "CArrow", cxxSettings: [.unsafeFlags(["-isystem", arrow + "/include"])],
        linkerSettings: [
            .unsafeFlags(
                ["-static-stdlib", "-nostartfiles", "-no-toolchain-stdlib-rpath", "-L\(arrow)/lib"]
                    + ["$ORIGIN", "$ORIGIN/../../../.deps/arrow/lib"].flatMap {
                        ["-Xlinker", "-rpath", "-Xlinker", $0]
                    }),
            .linkedLibrary("arrow"), .linkedLibrary("parquet"),
        ]),
    .target(name: "Kernels"),
    library("RandomStreams", ["Kernels"]),
    library(
        "Merging",
        [
            "ModelFiles", "RunConfig", "RunLog", "ChatTemplates", "Tokenizers", "RandomStreams", "Kernels", "Formats",
            "Diagnostics", crypto,
        ]),
    library("Evolution", ["Merging", "RunConfig", "RunLog", "RandomStreams", "Formats", "Diagnostics", crypto]),
    library(
        "CommandLineInterface",
        [
            "RecipeData", "Merging", "Datasets", "ChatTemplates", "Tokenizers", "Hub", "ModelFiles", "RunConfig",
            "RunLog",
            "Formats",
            "Diagnostics", argumentParser,
        ]),
    .executableTarget(
        name: "needletail", dependencies: ["CommandLineInterface"], swiftSettings: swiftSettings,
        linkerSettings: [.unsafeFlags(staticSwift, .when(platforms: [.linux]))]),

    // On LibTorch.
    .target(
        name: "CTorch", dependencies: ["Kernels"],
        cxxSettings: [
            .unsafeFlags(["-isystem", libtorch + "/include", "-isystem", libtorch + "/include/torch/csrc/api/include"])
        ],
        linkerSettings: libtorchLinking),
    library("Tensors", ["CTorch", "RandomStreams", "Kernels"]),
    library("Layers", ["Tensors", "RandomStreams"]),
    library("Optimizers", ["Tensors", "Layers"]),
    library("Checkpoints", ["Formats", "Tensors", "Diagnostics"]),
    library(
        "Models",
        ["Checkpoints", "Layers", "Tensors", "RandomStreams", "ModelFiles", "Tokenizers", "Formats", "Diagnostics"]),
    library("Generation", ["Models", "Layers", "Tensors", "RandomStreams", "Tokenizers"]),
    library(
        "Evaluation",
        [
            "Models", "Layers", "Generation", "Datasets", "ChatTemplates", "Tokenizers", "Tensors", "Formats",
            "Diagnostics",
        ]),
    library(
        "Recipes",
        [
            "RecipeData", "RunConfig", "RunLog", "Datasets", "ChatTemplates", "Tokenizers", "Generation", "Evaluation",
            "Models",
            "ModelFiles",
            "Checkpoints", "Optimizers", "Layers", "Tensors", "RandomStreams", "Formats", "Diagnostics",
        ]),
    library(
        "GradientAnalysis",
        [
            "Models", "ModelFiles", "Layers", "Tensors", "RandomStreams", "Datasets", "ChatTemplates", "Tokenizers",
            "RunLog",
            "Formats", "Diagnostics",
        ]),
    library(
        "Assembly",
        [
            "Merging", "Models", "Checkpoints", "ModelFiles", "Layers", "Tensors", "RandomStreams", "Tokenizers",
            "Formats", "Diagnostics",
        ]),
    .executableTarget(
        name: "needletail-engine",
        dependencies: [
            "CommandLineInterface", "Recipes", "Assembly", "GradientAnalysis", "Evolution", "Merging", "Evaluation",
            "Generation", "Models", "ModelFiles", "RunConfig", "RunLog", "Datasets", "Tokenizers", "Checkpoints",
            "Optimizers", "Layers", "Tensors", "RandomStreams", "Formats", "Diagnostics",
        ],
        swiftSettings: swiftSettings, linkerSettings: [.unsafeFlags(staticSwift, .when(platforms: [.linux]))]),

    .target(
        name: "TestSupport",
        dependencies: [
            "Models", "ModelFiles", "Checkpoints", "Layers", "Tensors", "RandomStreams", "Tokenizers", "Formats",
        ],
        path: "Tests/TestSupport", swiftSettings: swiftSettings),
    .target(name: "TestClock", path: "Tests/TestClock", swiftSettings: swiftSettings),
    tests("FormatsTests", ["Formats", "Diagnostics"]),
    tests("TokenizersTests", ["Tokenizers", "Formats", "Diagnostics", "TestClock"]),
    tests("ChatTemplatesTests", ["ChatTemplates", "Formats", "Diagnostics", "TestClock"]),
    tests("DatasetsTests", ["Datasets", "Tokenizers", "ChatTemplates", "Formats", "Diagnostics", crypto]),
    tests("RunConfigTests", ["RunConfig", "Diagnostics", "TestClock"], fixtures: false),
    tests("RunLogTests", ["RunLog", "Formats", "Diagnostics"]),
    tests("ModelFilesTests", ["ModelFiles", "RunLog", "Formats", "Diagnostics"], fixtures: false),
    tests("HubTests", ["Hub", "ModelFiles", "Formats", "Diagnostics"], fixtures: false),
    tests("CommandLineTests", ["CommandLineInterface", "Formats", "Diagnostics", argumentParser], fixtures: false),
    tests("TensorsTests", ["Tensors", "RandomStreams", "Kernels", "TestSupport"], fixtures: false),
    tests("KernelsTests", ["Kernels"], fixtures: false),
    tests("LayersTests", ["Layers", "Tensors", "RandomStreams", "TestSupport"], fixtures: false),
    tests(
        "OptimizersTests", ["Optimizers", "Layers", "Tensors", "RandomStreams", "Formats", "TestSupport"],
        fixtures: false),
    tests(
        "ModelsTests",
        [
            "Models", "Merging", "ModelFiles", "Checkpoints", "Optimizers", "Layers", "Tensors", "RandomStreams",
            "Kernels",
            "Tokenizers",
            "Formats", "Diagnostics", "TestSupport",
        ]),
    tests(
        "MergingTests",
        [
            "Merging", "ModelFiles", "ChatTemplates", "Tokenizers", "RandomStreams", "Kernels", "Formats",
            "Diagnostics", "TestClock",
        ]),
    tests(
        "AssemblyTests",
        [
            "Assembly", "Merging", "Models", "ModelFiles", "Checkpoints", "Layers", "Tensors", "RandomStreams",
            "RunConfig", "Tokenizers", "Formats", "Diagnostics", "TestSupport",
        ], fixtures: false),
    tests("EvolutionTests", ["Evolution", "Merging", "RunLog", "RandomStreams", "Formats", "Diagnostics"]),
    tests(
        "GradientAnalysisTests",
        [
            "GradientAnalysis", "Models", "ModelFiles", "Layers", "Tensors", "RandomStreams", "Datasets", "Tokenizers",
            "Formats", "Diagnostics", "TestSupport",
        ]),
    tests(
        "GenerationTests",
        ["Generation", "Models", "Layers", "Tensors", "RandomStreams", "Tokenizers", "Formats", "TestSupport"],
        fixtures: false),
    tests(
        "EvaluationTests",
        [
            "Evaluation", "Generation", "Models", "Datasets", "Tensors", "Tokenizers", "Formats", "Diagnostics",
            "TestSupport",
        ], fixtures: false),
    tests(
        "RecipesTests",
        [
            "Recipes", "RecipeData", "ModelFiles", "RunConfig", "Evaluation", "Models", "Optimizers", "Layers",
            "Datasets", "Tensors",
            "Tokenizers", "Formats", "Diagnostics", "TestSupport",
        ]),
]

/// Readers of files from outside under libFuzzer; only verify/fuzz.py builds it, with `--sanitize fuzzer`.
let fuzzing: [Target] =
    ProcessInfo.processInfo.environment["NEEDLETAIL_FUZZ"] == nil
    ? []
    : [
        .executableTarget(
            name: "needletail-fuzz",
            dependencies: [
                "RunConfig", "RunLog", "Merging", "ModelFiles", "Datasets", "Tokenizers", "ChatTemplates", "Formats",
                "Diagnostics", "FuzzMemory", crypto,
            ],
            path: "verify/fuzz", swiftSettings: swiftSettings),
        .target(name: "FuzzMemory", path: "verify/fuzz-memory"),
    ]

let package = Package(
    name: "needletail",
    platforms: [.macOS(.v15)],
    products: [.library(name: "needletail-arrow", type: .dynamic, targets: ["CArrow"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", exact: "4.5.2"),
        .package(url: "https://github.com/apple/swift-nio", exact: "2.101.2"),
        .package(url: "https://github.com/jpsim/Yams", exact: "6.2.2"),
        .package(url: "https://github.com/swift-server/async-http-client", exact: "1.37.0"),
    ],
    targets: targets + fuzzing,
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx20
)
