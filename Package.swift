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
        // Without pkg-config: hiredis' flags are none that SwiftPM lets through.
        .systemLibrary(
            name: "CHiredis", path: "Sources/System/CHiredis", providers: [.apt(["libhiredis-dev"])]
        ),

        // The C performance core.
        core("CScan"),
        core("CHashing"),
        core("CKVIndex"),
        core("CTransfer"),
        core("CNet", ["CUV", "CNGHTTP2", "COpenSSL"]),

        // Their Swift faces.
        room("Core", settings: safe),
        room("Scan", ["CScan"]),
        room("Hashing", ["CHashing", "Core"]),
        room("Transfer", ["CTransfer", "Core"]),
        room("Net", ["CNet", "Core"]),
        room("Messaging", ["CZeroMQ", "Core", "Net"]),
        room("RedisClient", ["CHiredis", "Core", "Net"]),
        room("Telemetry", ["Core", logging]),
        room("Configuration", [yams], settings: safe),

        // The router.
        room("KVIndex", ["CKVIndex", "Core", "Hashing", "Scan"]),
        room(
            "KVIndexIO",
            [
                "Configuration", "Core", "Hashing", "KVIndex", "Messaging", "Net", "RedisClient",
                "Scan", "Telemetry", logging,
            ]),
        room("Scheduling", ["Configuration", "Core"], settings: safe),
        room("FlowControl", ["Configuration", "Core"], settings: safe),
        room(
            "SchedulingPlugins",
            ["Configuration", "Core", "Hashing", "KVIndex", "Scan", "Scheduling", "Telemetry"]),
        room("Replay", ["Configuration", "Core", "Scan", "Scheduling", "Telemetry"]),
        room(
            "ModelServers", ["Configuration", "Core", "Net", "Scan", "Telemetry", logging]),
        room(
            "RequestPipeline",
            [
                "Configuration", "Core", "FlowControl", "ModelServers", "Replay", "Scan",
                "Scheduling", "Telemetry",
            ]),
        room("Relay", ["Core", "Net", "Telemetry"]),
        room(
            "ExtProc", ["Core", "Net", "Relay", "RequestPipeline", "Scheduling", "Telemetry"]),
        room(
            "Gateway",
            [
                "Configuration", "Core", "Hashing", "Net", "Relay", "RequestPipeline", "Scheduling",
                "Telemetry", logging,
            ]),
        room(
            "Indexer",
            [
                "Core", "Hashing", "KVIndex", "ModelServers", "Net", "Relay", "RequestPipeline",
                "Scan", "Telemetry",
            ]),

        // Beside and behind the router.
        room("Sidecar", ["Core", "Net", "Relay", "Scan", "Telemetry"]),
        room(
            "Simulator",
            ["Core", "Hashing", "Messaging", "Net", "Scan", "Telemetry", "Transfer"]),

        // One machine: the stack of `llmd up`, and the load that measures it.
        room("Stack", ["Core", "Net", "Scan"]),
        room("Bench", ["Core", "Net", "Scan"]),
        .executableTarget(
            name: "llmd",
            dependencies: [
                argumentParser, logging, "Bench", "Configuration", "Core", "ExtProc", "FlowControl",
                "Gateway", "Hashing", "Indexer", "KVIndex", "KVIndexIO", "Messaging",
                "ModelServers", "Net",
                "Relay", "Replay", "RequestPipeline", "Scan", "Scheduling", "SchedulingPlugins",
                "Sidecar", "Simulator", "Stack", "Telemetry",
            ],
            swiftSettings: strict),

        // The performance harness; outside of every product.
        .target(
            name: "PerfSupport", dependencies: ["Core", "Net"], path: "perf/support",
            swiftSettings: strict),
        .target(
            name: "CHashingPeer", dependencies: ["COpenSSL"], path: "perf/hashing/peer",
            cSettings: cSettings + [.define("OPENSSL_SUPPRESS_DEPRECATED")]),
        .executableTarget(
            name: "perf-hashing", dependencies: ["CHashingPeer", "Hashing", "PerfSupport"],
            path: "perf/hashing", exclude: ["peer", "vllm_hash.py"], swiftSettings: strict),

        // Servers and clients on loopback that a test holds in its hand.
        .target(
            name: "LoopbackSupport", dependencies: ["Core", "Net"], path: "Tests/Support",
            swiftSettings: strict),
        .executableTarget(
            name: "perf-index",
            dependencies: ["Core", "Hashing", "KVIndex", "PerfSupport", "Scan"],
            path: "perf/index", exclude: ["peer.py"], swiftSettings: strict),
        .target(name: "CTransferFloor", path: "perf/transfer/floor", cSettings: cSettings),
        .executableTarget(
            name: "perf-transfer",
            dependencies: ["CTransferFloor", "Core", "PerfSupport", "Transfer"],
            path: "perf/transfer", exclude: ["floor", "nixl_peer.py"], swiftSettings: strict),
        .target(
            name: "CExtProcEnds", dependencies: ["CNGHTTP2"], path: "perf/router/ends",
            cSettings: cSettings),
        .executableTarget(
            name: "perf-router",
            dependencies: [
                "CExtProcEnds", "Core", "KVIndex", "ModelServers", "Net", "PerfSupport",
                "RequestPipeline", "Scheduling", "SchedulingPlugins", "Telemetry",
            ],
            path: "perf/router", exclude: ["ends", "peer"], swiftSettings: strict),
        .executableTarget(
            name: "perf-redis",
            dependencies: [
                "Core", "KVIndexIO", "Net", "PerfSupport", "RedisClient", "Telemetry", logging,
            ],
            path: "perf/redis", swiftSettings: strict),
        .target(
            name: "CRelayFloor", dependencies: ["CUV"], path: "perf/gateway/floor",
            cSettings: cSettings),
        .executableTarget(
            name: "perf-gateway", dependencies: ["CRelayFloor", "Core", "Net", "PerfSupport"],
            path: "perf/gateway", exclude: ["envoy.yaml", "floor", "nginx.conf"],
            swiftSettings: strict),

        .target(
            name: "CScrapeFloor", path: "perf/scrape/floor", cSettings: cSettings),
        .executableTarget(
            name: "perf-scrape",
            dependencies: [
                "CScrapeFloor", "Core", "ModelServers", "Net", "PerfSupport", "Scan", "Telemetry",
            ],
            path: "perf/scrape", exclude: ["floor", "nginx.conf"], swiftSettings: strict),

        tests(of: "Bench", ["Core"]),
        tests(of: "Configuration"),
        tests(of: "Core"),
        tests(
            of: "ExtProc",
            [
                "Core", "FlowControl", "LoopbackSupport", "ModelServers", "Net", "RequestPipeline",
                "Scheduling",
                "SchedulingPlugins", "Telemetry",
            ], fixtures: true),
        tests(
            of: "Gateway",
            [
                "Configuration", "Core", "FlowControl", "LoopbackSupport", "ModelServers", "Net",
                "Relay", "RequestPipeline", "Scheduling",
                "SchedulingPlugins", "Telemetry",
            ]),
        tests(of: "FlowControl", ["Configuration", "Core"]),
        tests(of: "Hashing", ["Core"]),
        tests(
            of: "Indexer",
            [
                "Core", "Hashing", "KVIndex", "LoopbackSupport", "ModelServers", "Net", "Scan",
                "Scheduling",
                "Telemetry",
            ]),
        tests(of: "KVIndex", ["Core", "Hashing", "Scan"], fixtures: true),
        tests(
            of: "KVIndexIO",
            [
                "Configuration", "Core", "Hashing", "KVIndex", "LoopbackSupport", "Messaging",
                "Net",
                "RedisClient", "Scan", "Telemetry", logging,
            ]),
        tests(of: "Messaging", ["Core", "Net"]),
        tests(
            of: "ModelServers",
            ["Configuration", "Core", "Net", "Scan", "Telemetry", logging],
            fixtures: true),
        tests(of: "Net", ["Core"], fixtures: true),
        tests(of: "RedisClient", ["Core", "LoopbackSupport", "Net"]),
        tests(
            of: "Replay",
            [
                "Configuration", "Core", "ModelServers", "RequestPipeline", "Scheduling",
                "SchedulingPlugins", "Telemetry",
            ]),
        tests(
            of: "RequestPipeline",
            [
                "Configuration", "Core", "FlowControl", "KVIndex", "ModelServers", "Scheduling",
                "SchedulingPlugins", "Telemetry",
            ]),
        tests(of: "Scan", fixtures: true),
        tests(of: "Scheduling", ["Configuration", "Core"]),
        tests(
            of: "SchedulingPlugins",
            ["Configuration", "Core", "Hashing", "KVIndex", "Scheduling"]),
        tests(
            of: "Sidecar", ["Core", "LoopbackSupport", "Net", "Scan", "Telemetry"], fixtures: true),
        tests(
            of: "Simulator", ["Core", "Hashing", "Messaging", "Net", "Transfer"], fixtures: true),
        tests(of: "Stack", ["Core"]),
        tests(of: "Telemetry", [logging]),
        tests(of: "Transfer", ["Core"]),
    ],
    swiftLanguageModes: [.v6],
    cLanguageStandard: .c17
)
