// swift-tools-version: 6.1
// Needletail: LLM training in Swift on LibTorch. The graph of targets is drawn in ARCHITECTURE.md.
import Foundation
import PackageDescription

/// LibTorch: `$LIBTORCH`, else what `scripts/bootstrap` put into `.deps/libtorch`.
let libtorch = ProcessInfo.processInfo.environment["LIBTORCH"] ?? Context.packageDirectory + "/.deps/libtorch"

let swiftSettings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    let fixtures = FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/Tests/\(name)/Fixtures")
    return .testTarget(
        name: name, dependencies: dependencies, exclude: fixtures ? ["Fixtures"] : [], swiftSettings: swiftSettings)
}

let targets: [Target] = [
    library("Diagnostics"),
    library("Formats", ["Diagnostics"]),
    library("Tokenizers", ["Formats", "Diagnostics"]),
    library("ChatTemplates", ["Formats", "Diagnostics"]),
    library("Datasets", ["Tokenizers", "ChatTemplates", "Formats", "Diagnostics"]),
    library("RunConfig", ["Diagnostics", "Yams"]),
    library("RunLog", ["Formats", "Diagnostics", crypto]),
    tests("FormatsTests", ["Formats", "Diagnostics"]),
    tests("TokenizersTests", ["Tokenizers", "Formats", "Diagnostics"]),
    tests("ChatTemplatesTests", ["ChatTemplates", "Formats"]),
    tests("DatasetsTests", ["Datasets", "Tokenizers", "Formats"]),
    tests("RunConfigTests", ["RunConfig", "Diagnostics"]),
    tests("RunLogTests", ["RunLog", "Formats", "Diagnostics"]),
]

/// While the foundation is laid on several branches, a target whose folder is not there yet is left out.
func exists(_ target: Target) -> Bool {
    let folder = target.type == .test ? "Tests" : "Sources"
    return FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/\(folder)/\(target.name)")
}

let package = Package(
    name: "needletail",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", exact: "1.8.2"),
        .package(url: "https://github.com/apple/swift-crypto", exact: "4.5.2"),
        .package(url: "https://github.com/jpsim/Yams", exact: "6.2.2"),
    ],
    targets: targets.filter(exists),
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx20
)
