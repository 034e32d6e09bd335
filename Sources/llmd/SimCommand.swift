import ArgumentParser
import Core
import Foundation
import Net
import Simulator
import Transfer

struct SimCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sim",
        abstract: "A model server with vLLM's API whose GPU time is modelled.",
        discussion: """
            KV blocks are real memory, prefix caching, KV events and prefill/decode transfers are \
            real; only the time of the GPU is computed, from published figures.
            """)

    @Option(help: "The address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "The port of the HTTP API.")
    var port: UInt16 = 8200

    @Option(help: "The model it stands for.")
    var model = "llmd-sim"

    @Option(help: "Names that requests may call the model by, instead of --model; comma-separated.")
    var servedModelName = ""

    @Option(help: "What part of a request it is meant for: prefill, decode or both.")
    var role = ServerRole.both

    @Option(help: "Tokens in a KV block.")
    var blockSize = SimulatorConfiguration().blockSize

    @Option(help: "KV blocks in the pool.")
    var kvCacheSize = SimulatorConfiguration().blockCount

    @Option(help: "Bytes of memory that stand for a KV block; a multiple of 64.")
    var blockBytes = SimulatorConfiguration().blockByteCount

    @Option(help: "Sequences that run at once.")
    var maxNumSeqs = SimulatorConfiguration().maximumRunning

    @Option(help: "Requests that wait for a place; more are refused with 429.")
    var maxWaitingQueueLength = SimulatorConfiguration().maximumWaiting

    @Option(help: "Tokens of a prompt and its reply together.")
    var maxModelLen = SimulatorConfiguration().maximumModelLength

    @Flag(help: "Serve LoRA adapters, and the routes that load and unload them.")
    var enableLora = false

    @Option(help: "Different LoRA adapters that run at once.")
    var maxLoras = 1

    @Option(help: "Different LoRA adapters in host memory; default: --max-loras.")
    var maxCpuLoras: Int?

    @Option(help: "Milliseconds to read an adapter that is not in host memory.")
    var loraLoadTime = 0.0

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "LoRA adapters that are loaded at the start.", valueName: "name=path"))
    var loraModules: [String] = []

    @Option(help: "The seed of block hashes, as PYTHONHASHSEED.")
    var hashSeed = SimulatorConfiguration().hashSeed

    @Option(help: "Determines jitter and replies.")
    var seed: UInt64 = 0

    @Option(help: "Percent of the generations that fail on purpose.")
    var failureInjectionRate = 0.0

    @Option(
        help: """
            How they fail, comma-separated: \(InjectedFailure.names); default: the first six.
            """)
    var failureTypes: String?

    @Option(help: "The ZMQ endpoint of KV events.")
    var zmqEndpoint: String?

    @Option(help: "The ZMQ endpoint that replays KV events.")
    var kvEventsReplayEndpoint: String?

    @Option(help: "The port where other engines pull KV blocks; 0 takes a free one.")
    var kvTransferPort: UInt16 = 0

    @Option(help: "The path that a pull must take: memfd, cma or tcp; default: the best.")
    var kvTransferPath: TransferPath?

    @Option(help: "Prompt tokens per second, instead of the published figure.")
    var prefillTokensPerSecond: Double?

    @Option(help: "Milliseconds from one token to the next, instead of the published figure.")
    var interTokenLatency: Double?

    func validate() throws {
        guard maxLoras >= 1 else { throw ValidationError("--max-loras must be at least 1") }
        if let maxCpuLoras, maxCpuLoras < maxLoras {
            throw ValidationError("--max-cpu-loras must be at least --max-loras, \(maxLoras)")
        }
        guard loraModules.isEmpty || enableLora else {
            throw ValidationError("--lora-modules needs --enable-lora")
        }
        _ = try adapters()
        _ = try failureKinds()
    }

    private func failureKinds() throws -> [InjectedFailure] {
        guard let failureTypes else { return InjectedFailure.upstream }
        return try failureTypes.split(separator: ",").map { name in
            guard let kind = InjectedFailure(rawValue: String(name)) else {
                throw ValidationError(
                    "no failure type '\(name)'; there are \(InjectedFailure.names)")
            }
            return kind
        }
    }

    private func adapters() throws -> [LoRAModule] {
        try loraModules.map { text in
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw ValidationError("--lora-modules takes name=path, not '\(text)'")
            }
            return LoRAModule(name: parts[0], path: parts[1])
        }
    }

    func run() async throws {
        var configuration = SimulatorConfiguration()
        configuration.address = SocketAddress(host: host, port: port)
        configuration.model = model
        configuration.servedModelNames = servedModelName.split(separator: ",").map(String.init)
        configuration.role = role
        configuration.blockSize = blockSize
        configuration.blockCount = kvCacheSize
        configuration.blockByteCount = blockBytes
        configuration.maximumRunning = maxNumSeqs
        configuration.maximumWaiting = maxWaitingQueueLength
        configuration.maximumModelLength = min(maxModelLen, kvCacheSize * blockSize)
        configuration.maximumAdapters = enableLora ? maxLoras : 0
        configuration.maximumResidentAdapters = enableLora ? maxCpuLoras : nil
        configuration.latency.adapterLoad = Duration(seconds: loraLoadTime / 1000)
        configuration.adapters = try adapters()
        configuration.hashSeed = hashSeed
        configuration.seed = seed
        configuration.failurePercent = failureInjectionRate
        configuration.failureKinds = try failureKinds()
        configuration.eventsEndpoint = zmqEndpoint
        configuration.replayEndpoint = kvEventsReplayEndpoint
        configuration.transferAddress = SocketAddress(host: host, port: kvTransferPort)
        if let kvTransferPath { configuration.transferPaths = [kvTransferPath] }
        if let prefillTokensPerSecond {
            configuration.latency.prefillTokensPerSecond = prefillTokensPerSecond
        }
        if let interTokenLatency {
            configuration.latency.interTokenLatency = Duration(seconds: interTokenLatency / 1000)
        }
        let stop = try await StopSignal(on: EventLoop.start(name: "signals"))
        let engine = try await SimulatorServer.start(configuration)
        await stop.serve()
        await engine.drain(within: .seconds(10))
    }
}

extension InjectedFailure {
    /// All names, for help and errors.
    static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
