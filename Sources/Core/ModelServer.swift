/// What part of a request a model server takes, by the pod label `llm-d.ai/role`.
public enum ServerRole: String, Sendable, CaseIterable {
    case encode
    case encodePrefill = "encode-prefill"
    case prefill
    case prefillDecode = "prefill-decode"
    case encodePrefillDecode = "encode-prefill-decode"
    case decode
    case both

    /// The pod label that carries the role.
    public static let label = "llm-d.ai/role"

    /// Whether a server of this role may encode media for others.
    public var takesEncode: Bool {
        switch self {
        case .encode, .encodePrefill, .encodePrefillDecode: true
        case .prefill, .prefillDecode, .decode, .both: false
        }
    }

    /// Whether a server of this role may compute prompts for another.
    public var takesPrefill: Bool {
        switch self {
        case .encodePrefill, .prefill, .prefillDecode, .encodePrefillDecode, .both: true
        case .encode, .decode: false
        }
    }

    /// Whether a server of this role generates tokens.
    public var takesDecode: Bool {
        switch self {
        case .prefillDecode, .encodePrefillDecode, .decode, .both: true
        case .encode, .encodePrefill, .prefill: false
        }
    }
}

/// One endpoint of a pool: a model server that answers OpenAI requests at an address.
public struct ModelServer: Hashable, Sendable {
    /// Unique in its pool: `namespace/pod` on Kubernetes, the configured name elsewhere.
    public var name: String
    /// Where requests go.
    public var address: SocketAddress
    /// Where `/metrics` is scraped; usually `address`, the engine itself behind a sidecar.
    public var metricsAddress: SocketAddress
    /// The labels of the pod, as selectors and filters see them.
    public var labels: [String: String]
    /// Where the engine publishes KV events (a ZMQ endpoint), if it does.
    public var eventsEndpoint: String?
    /// Where the engine replays missed KV events (a ZMQ endpoint), if it does.
    public var replayEndpoint: String?
    /// The model that its KV events concern where they do not tell; nil: it is not known.
    public var eventsModel: String?
    /// How many data-parallel ranks stand behind the address, each an engine with a KV cache and
    /// KV events of its own. The endpoints of its events are those of rank 0.
    public var dataParallelSize: Int

    /// Makes a server; `metricsAddress` defaults to `address`.
    public init(
        name: String, address: SocketAddress, metricsAddress: SocketAddress? = nil,
        labels: [String: String] = [:], eventsEndpoint: String? = nil,
        replayEndpoint: String? = nil, eventsModel: String? = nil, dataParallelSize: Int = 1
    ) {
        self.name = name
        self.address = address
        self.metricsAddress = metricsAddress ?? address
        self.labels = labels
        self.eventsEndpoint = eventsEndpoint
        self.replayEndpoint = replayEndpoint
        self.eventsModel = eventsModel
        self.dataParallelSize = dataParallelSize
    }
}

// Data-parallel ranks, as vLLM (`--data-parallel-size`) and llm-d have them.
extension ModelServer {
    /// The most ranks that a server may have.
    public static let maximumDataParallelSize = 64

    /// The name of one rank: the server's own for rank 0, else with a suffix, as in `decode-0@dp1`.
    public func name(ofRank rank: Int) -> String {
        rank == 0 ? name : "\(name)@dp\(rank)"
    }

    /// One rank as a server of its own, with its name and the endpoints of its events; nil if
    /// these cannot be told from those of rank 0.
    public func rank(_ rank: Int) -> ModelServer? {
        var server = self
        server.name = name(ofRank: rank)
        server.eventsEndpoint = eventsEndpoint.flatMap { Self.endpoint($0, ofRank: rank) }
        server.replayEndpoint = replayEndpoint.flatMap { Self.endpoint($0, ofRank: rank) }
        server.dataParallelSize = 1
        guard (server.eventsEndpoint == nil) == (eventsEndpoint == nil),
            (server.replayEndpoint == nil) == (replayEndpoint == nil)
        else { return nil }
        return server
    }

    /// A ZMQ endpoint as the engine moves it for a rank: as many TCP ports further, and elsewhere
    /// by a suffix.
    private static func endpoint(_ text: String, ofRank rank: Int) -> String? {
        guard rank > 0 else { return text }
        guard text.hasPrefix("tcp://") else { return "\(text)_dp\(rank)" }
        guard let colon = text.lastIndex(of: ":"),
            let port = UInt16(text[text.index(after: colon)...]), port > 0,
            let moved = UInt16(exactly: Int(port) + rank)
        else { return nil }
        return "\(text[...colon])\(moved)"
    }
}

/// The load of a model server as last scraped from its `/metrics`.
public struct ServerLoad: Equatable, Sendable {
    /// Requests that wait for a place in the batch (`vllm:num_requests_waiting`).
    public var waitingCount = 0
    /// Requests in the batch (`vllm:num_requests_running`).
    public var runningCount = 0
    /// The part of the KV cache in use, 0 to 1 (`vllm:kv_cache_usage_perc`).
    public var kvUsage = 0.0
    /// Tokens in one KV block (`vllm:cache_config_info`), if the engine told.
    public var blockSize: Int?
    /// Blocks in the KV cache (`vllm:cache_config_info`), if the engine told.
    public var blockCount: Int?
    /// Its LoRA adapters (`vllm:lora_requests_info`), if the engine told.
    public var lora: LoRALoad?
    /// Figures that the configuration asked for, by the names that it gave them.
    public var attributes: [String: Double] = [:]
    /// When the scrape that gave these figures ended; nil before the first.
    public var scrapedAt: MonotonicTime?

    /// A server of which nothing is known yet.
    public init() {}
}

/// The LoRA adapters that a model server works with.
public struct LoRALoad: Equatable, Sendable {
    /// How many it can work with at a time.
    public var maximumCount: Int
    /// The names of those that requests in the batch use.
    public var running: [String]
    /// The names of those that requests wait for.
    public var waiting: [String]

    /// Makes a load.
    public init(maximumCount: Int, running: [String] = [], waiting: [String] = []) {
        self.maximumCount = maximumCount
        self.running = running
        self.waiting = waiting
    }
}

/// Where a KV block lies, from fastest to slowest.
public enum Tier: UInt8, Sendable, CaseIterable, Comparable {
    case gpu
    case cpu
    case disk
    case remote

    /// Whether `left` is the faster tier.
    public static func < (left: Tier, right: Tier) -> Bool { left.rawValue < right.rawValue }
}
