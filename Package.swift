// swift-tools-version: 6.2
import PackageDescription

// The rooms and the arrows between them: docs/architecture.md.

let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// Rooms without pointers: the compiler flags every unsafe construct.
let safe = strict + [.strictMemorySafety()]

let cSettings: [CSetting] = [
    .define("_GNU_SOURCE"),
    .treatAllWarnings(as: .error),
]

func system(_ name: String, pkgConfig: String, apt: String) -> Target {
    .systemLibrary(
        name: name, path: "Sources/System/\(name)", pkgConfig: pkgConfig, providers: [.apt([apt])])
}

func core(_ name: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [])
    -> Target
{
    .target(name: name, dependencies: dependencies, exclude: exclude, cSettings: cSettings)
}

func room(
    _ name: String, _ dependencies: [Target.Dependency] = [], settings: [SwiftSetting] = strict
) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(of name: String, _ dependencies: [Target.Dependency] = [], fixtures: Bool = false)
    -> Target
{
    .testTarget(
        name: "\(name)Tests", dependencies: [.byName(name: name)] + dependencies,
        exclude: fixtures ? ["Fixtures"] : [], swiftSettings: strict)
}

let argumentParser = Target.Dependency.product(
    name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")

let package = Package(
    name: "llmd",
    products: [.executable(name: "llmd", targets: ["llmd"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        system("CNGHTTP2", pkgConfig: "libnghttp2", apt: "libnghttp2-dev"),
        system("COpenSSL", pkgConfig: "openssl", apt: "libssl-dev"),
        system("CUV", pkgConfig: "libuv", apt: "libuv1-dev"),
        system("CZeroMQ", pkgConfig: "libzmq", apt: "libzmq3-dev"),

        // The C performance core.
        core("CScan"),
        core("CHashing"),
        core("CTransfer"),
        core("CNet", ["CUV", "CNGHTTP2", "COpenSSL"]),

        // Their Swift faces.
        room("Core", settings: safe),
        room("Scan", ["CScan"]),
        room("Hashing", ["CHashing", "Core"]),
        room("Transfer", ["CTransfer", "Core"]),
        room("Net", ["CNet", "Core"]),
        room("Messaging", ["CZeroMQ", "Core", "Net"]),
        room("Telemetry", ["Core", logging]),

        // The router.
        room("KVIndex", ["Core", "Hashing", "Scan"]),
        room("KVIndexIO", ["Core", "KVIndex", "Messaging", "Net", "Telemetry"]),
        room("Scheduling", ["Core", "Telemetry", yams]),
        room("SchedulingPlugins", ["Core", "Scheduling"]),
        room("ModelServers", ["Core", "Net", "Scan", "Telemetry", yams]),
        room(
            "RequestPipeline",
            ["Core", "Hashing", "KVIndex", "ModelServers", "Scan", "Scheduling", "Telemetry"]),
        room("ExtProc", ["Core", "Net", "RequestPipeline", "Telemetry"]),
        room("Gateway", ["Core", "Net", "RequestPipeline", "Telemetry"]),

        // Beside and behind the router.
        room("Sidecar", ["Core", "Net", "Scan", "Telemetry"]),
        room(
            "Simulator",
            ["Core", "Hashing", "Messaging", "Net", "Scan", "Telemetry", "Transfer"]),

        // One machine: the stack of `llmd up`, and the load that measures it.
        room("Stack", ["Core", "Net", "Scan", "Telemetry"]),
        room("Bench", ["Core", "Net", "Scan", "Stack"]),
        .executableTarget(
            name: "llmd",
            dependencies: [
                argumentParser, logging, "Bench", "Core", "ExtProc", "Gateway", "KVIndex",
                "KVIndexIO", "Messaging", "ModelServers", "Net", "RequestPipeline", "Scheduling",
                "SchedulingPlugins", "Sidecar", "Simulator", "Stack", "Telemetry",
            ],
            swiftSettings: strict),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c17
)
