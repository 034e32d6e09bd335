public import Core
import Hashing
public import Transfer

/// How a simulated engine is set up. The defaults are vLLM's where vLLM has such an option.
public struct SimulatorConfiguration: Sendable {
    /// Where it answers HTTP; port 0 takes a free one.
    public var address = SocketAddress(host: "127.0.0.1", port: 8200)
    /// The model it stands for.
    public var model = "llmd-sim"
    /// The names that requests may call the model by; empty for ``model`` alone.
    public var servedModelNames: [String] = []
    /// What part of a request it is meant for, for `/metrics`. It serves any request all the same,
    /// as vLLM does.
    public var role = ServerRole.both

    /// Tokens in a KV block.
    public var blockSize = 16
    /// KV blocks in the pool. The default is what vLLM's 0.9 of an 80 GB card leaves beside 8 GB
    /// of FP8 weights and activations, at ``LatencyConstants/kvBytesPerToken``.
    public var blockCount = 30_000
    /// Bytes of memory that stand for a block; a multiple of 64. The latency model reckons with
    /// the real ones.
    public var blockByteCount = 8 << 10
    /// The seed of block hashes, as `PYTHONHASHSEED`.
    public var hashSeed = BlockHasher.defaultSeed

    /// Sequences that run at once.
    public var maximumRunning = 256
    /// Requests that wait for a place or for blocks; more are refused with 429.
    public var maximumWaiting = 1000
    /// Tokens of a prompt and its reply together.
    public var maximumModelLength = 131_072
    /// Different LoRA adapters that run at once; 0 serves none, and has no routes to load them.
    public var maximumAdapters = 0
    /// Different LoRA adapters whose weights lie in host memory; nil for ``maximumAdapters``.
    public var maximumResidentAdapters: Int?
    /// The adapters that are loaded at the start.
    public var adapters: [LoRAModule] = []
    /// Token ids from here on are refused.
    public var vocabularySize: UInt32 = 128_256
    /// Bytes of a request body; a longer one is refused with 413.
    public var maximumBodyBytes = 32 << 20

    /// The latency model's figures.
    public var latency = LatencyModel.Parameters()
    /// Determines jitter and replies.
    public var seed: UInt64 = 0

    /// Percent of the generations that fail on purpose, as `seed` has it.
    public var failurePercent = 0.0
    /// How they fail.
    public var failureKinds = InjectedFailure.upstream

    /// The ZMQ endpoint of KV events; nil for none.
    public var eventsEndpoint: String?
    /// The ZMQ endpoint that replays them, if any does.
    public var replayEndpoint: String?
    /// The topic of KV events; nil for `kv@HOST:PORT@MODEL`.
    public var eventsTopic: String?

    /// Where other engines pull KV blocks: a numeric address that they can reach; port 0 takes a
    /// free one.
    public var transferAddress = SocketAddress(host: "127.0.0.1", port: 0)
    /// The paths that a pull may take.
    public var transferPaths = Set(TransferPath.allCases)
    /// How long a pull may take once the engines are connected.
    public var transferTimeout = Duration.seconds(30)
    /// How long blocks are kept for an engine that is to pull them.
    public var lease = Duration.seconds(30)

    /// The defaults.
    public init() {}

    /// ``maximumResidentAdapters``, or its default.
    var residentAdapters: Int { maximumResidentAdapters ?? maximumAdapters }

    /// The names that requests may call the model by; the first one is in replies and metrics.
    public var modelNames: [String] { servedModelNames.isEmpty ? [model] : servedModelNames }

    /// The topic of KV events.
    public var topic: String { eventsTopic ?? "kv@\(address)@\(modelNames[0])" }

    /// - Throws: ``SimulatorError/invalid(option:problem:)`` for the first option that makes no
    ///   sense.
    public func validate() throws(SimulatorError) {
        func require(
            _ condition: Bool, _ option: String, _ problem: String
        ) throws(SimulatorError) {
            guard condition else { throw .invalid(option: option, problem: problem) }
        }
        try require(
            modelNames.allSatisfy { !$0.isEmpty }, "model", "a model name must not be empty")
        try require(blockSize >= 1, "block size", "\(blockSize) is not at least 1 token")
        try require(blockCount >= 1, "block count", "\(blockCount) is not at least 1")
        try require(
            blockByteCount > 0 && blockByteCount % BlockPattern.strideBytes == 0, "block bytes",
            "\(blockByteCount) is not a multiple of \(BlockPattern.strideBytes)")
        try require(maximumRunning >= 1, "running sequences", "\(maximumRunning) is not at least 1")
        try require(maximumWaiting >= 1, "waiting requests", "\(maximumWaiting) is not at least 1")
        try require(maximumAdapters >= 0, "adapters", "\(maximumAdapters) is negative")
        try require(
            residentAdapters >= maximumAdapters, "adapters in memory",
            "\(residentAdapters) are fewer than the \(maximumAdapters) that run at once")
        try require(
            adapters.isEmpty || maximumAdapters > 0, "adapters", "LoRA is not enabled")
        try require(
            adapters.count <= LoRAAdapters.maximumCount, "adapters",
            "\(adapters.count) are more than \(LoRAAdapters.maximumCount)")
        try require(maximumModelLength >= 2, "model length", "\(maximumModelLength) is not above 1")
        try require(
            maximumModelLength <= blockCount * blockSize, "model length",
            "\(maximumModelLength) tokens do not fit the KV cache of \(blockCount) blocks "
                + "of \(blockSize)")
        try require(
            vocabularySize >= ByteTokenizer.vocabularySize, "vocabulary size",
            "\(vocabularySize) is less than the \(ByteTokenizer.vocabularySize) of the tokenizer")
        try require(maximumBodyBytes > 0, "body bytes", "\(maximumBodyBytes) is not positive")
        try require(
            (0...100).contains(failurePercent), "failure injection rate",
            "\(failurePercent) is not in 0...100")
        try require(!failureKinds.isEmpty, "failure types", "there is none")
        try require(lease > .zero, "lease", "must be positive")
        try require(transferTimeout > .zero, "transfer timeout", "must be positive")
        try require(!transferPaths.isEmpty, "transfer paths", "none is allowed")
        try require(
            !["0.0.0.0", "::", ""].contains(transferAddress.host), "transfer address",
            "\(transferAddress) is not one that other engines can be told to connect to")
        try require(
            latency.prefillTokensPerSecond > 0 && latency.kvBytesPerToken >= 0
                && latency.prefillOverhead >= .zero && latency.interTokenLatency > .zero
                && latency.timeFactorUnderLoad >= 1 && latency.adapterLoad >= .zero,
            "latency", "a figure is out of range")
        try require(
            (0...0.3).contains(latency.jitter), "jitter", "\(latency.jitter) is not in 0...0.3")
    }
}

/// Why a simulated engine did not start.
public enum SimulatorError: Error, Equatable, CustomStringConvertible {
    /// An option makes no sense.
    case invalid(option: String, problem: String)
    /// A part of the engine did not start; `part` says which.
    case cannotStart(part: String, reason: String)

    /// One line for people.
    public var description: String {
        switch self {
        case .invalid(let option, let problem): "\(option): \(problem)"
        case .cannotStart(let part, let reason): "\(part): \(reason)"
        }
    }
}
