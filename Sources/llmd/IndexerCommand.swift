import ArgumentParser
import Configuration
import Core
import Hashing
import Indexer
import KVIndex
import KVIndexIO
import Logging
import Messaging
import ModelServers
import Net
import Scan
import Telemetry

struct IndexerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "indexer",
        abstract: "The index of KV blocks as a service: which engine holds how much of a prompt?",
        discussion: """
            Answers indexer.v1.IndexerService/GetPodScores (gRPC) and POST /query (JSON) on one \
            port. It follows the KV events of the engines that are listed, that connect to \
            --events-bind, or that register by POST /register.
            """)

    @OptionGroup var service: ServiceOptions
    @OptionGroup var pool: PoolOptions

    @Option(help: "The port of gRPC and HTTP.")
    var port: UInt16 = 50051

    @Option(help: "The port of /metrics and /health.")
    var metricsPort: UInt16 = 9090

    @Flag(help: "TLS on --port, with a certificate of its own unless --cert-path names one.")
    var secureServing = false

    @Option(help: "A folder with tls.crt and tls.key; they are read again when they change.")
    var certPath: String?

    @Option(help: "Tokens in a block of the index.")
    var blockSize = KVIndex.Configuration().blockSize

    @Option(
        help: """
            How the index makes keys of blocks: xxh64 or cbor-fnv; default: xxh64, and cbor-fnv \
            with --redis-layout llm-d.
            """)
    var hashAlgorithm: RequestKeyAlgorithm?

    @Option(help: "The seed of the keys.")
    var hashSeed = KVIndex.Configuration().hashSeed

    @Option(help: "What the index may take in memory, in bytes.")
    var indexBytes = KVIndex.Configuration().maximumBytes

    @Option(help: "What a block is worth by where it lies, each from 0 to 1.")
    var tierWeights = TierWeights.standard

    @Option(help: "The model of engines whose KV events do not name it.")
    var model = ""

    @Option(help: "The ZMQ endpoint that engines connect to, such as tcp://*:5557.")
    var eventsBind: String?

    @Flag(inversion: .prefixedNo, help: "POST /register and /unregister.")
    var registration = true

    @Option(
        name: .customLong("tokenizer-url"),
        help: "Who is asked for the tokens of prompts; default: the engines that are listed.")
    var tokenizerURL: String?

    @OptionGroup var redis: RedisOptions

    func validate() throws {
        if certPath != nil, !secureServing {
            throw ValidationError("--cert-path needs --secure-serving")
        }
        guard (1...65536).contains(blockSize) else {
            throw ValidationError("--block-size must be from 1 to 65536")
        }
        guard hashSeed.utf8.count <= KVIndex.maximumHashSeedBytes else {
            throw ValidationError(
                "--hash-seed may have \(KVIndex.maximumHashSeedBytes) bytes at most")
        }
        _ = try tokenizer()
    }

    func run() async throws {
        let group = try service.start("indexer")
        let stop = try await StopSignal(on: group.loops[0])
        let metrics = MetricsRegistry()
        metrics.registerProcessMetrics()
        let sharing = try redis.sharing()
        let index = try KVIndex(configuration: indexConfiguration(sharedBy: sharing))

        // Events and scrapes come in bursts; a loop of their own keeps them off the requests.
        let background = try EventLoop.start(name: "pool")
        let source = try await events(of: index, sharedBy: sharing, on: background, metrics)
        let engines = EngineDirectory { source.update($0) }
        let members = EndpointPool()
        members.observe { _, after in engines.setPool(after.members.map(\.endpoint.server)) }
        try pool.fill(members, on: background)

        var configuration = IndexerConfiguration(address: service.address(port))
        configuration.allowsRegistration = registration
        configuration.tokenizer = try tokenizer()
        if configuration.tokenizer == nil {
            // Only to know which engines can be asked.
            var scraping = ScraperConfiguration()
            scraping.interval = .seconds(1)
            _ = MetricsScraper(
                pool: members, on: background, registry: metrics, configuration: scraping)
        }
        if secureServing {
            configuration.tls =
                try certPath.map {
                    try CertificateFolder(path: $0).context(followedOn: background)
                } ?? .selfSigned(names: ["localhost"])
        }
        let server = try IndexerServer.start(
            on: group, lookup: PrefixLookup(index: index, engines: engines, weights: tierWeights),
            engines: engines, pool: members, configuration: configuration, metrics: metrics)
        _ = try AdminServer.listen(
            on: group, at: service.address(metricsPort), metrics: metrics, kvEvents: source)
        await stop.serve()
        await server.drain(within: service.drainDeadline)
        await source.shutdown()
    }

    private func indexConfiguration(sharedBy sharing: RedisSharing?) -> KVIndex.Configuration {
        var configuration = KVIndex.Configuration()
        configuration.blockSize = blockSize
        configuration.algorithm =
            hashAlgorithm ?? sharing?.keyAlgorithm ?? configuration.algorithm
        configuration.hashSeed = hashSeed
        configuration.maximumBytes = indexBytes
        return configuration
    }

    private func events(
        of index: KVIndex, sharedBy sharing: RedisSharing?, on loop: EventLoop,
        _ metrics: MetricsRegistry
    ) async throws -> KVEventSource {
        var configuration = KVEventSource.Configuration()
        configuration.fanInEndpoint = eventsBind
        configuration.defaultModel = model
        let source = KVEventSource(
            index: index, context: try MessagingContext(), on: loop, configuration: configuration,
            metrics: KVIndexMetrics(metrics, index: index), logger: Logger(label: "kv-events"))
        sharing?.start(for: source, registry: metrics)
        try await source.listen()
        return source
    }

    private func tokenizer() throws -> SocketAddress? {
        try tokenizerURL.map {
            try SocketAddress(url: $0, option: "--tokenizer-url", paths: ["", "/"])
        }
    }
}

/// How an index is shared through Redis.
struct RedisOptions: ParsableArguments {
    @Option(help: "A Redis server to share the index through, such as redis://host:6379.")
    var redis: String?

    @Option(help: "How the index lies there: llmd, or llm-d to share it with llm-d's own.")
    var redisLayout: String?

    @Option(help: "Keeps indexes apart that share a server.")
    var redisNamespace: String?

    @Option(help: "A file whose first line is Redis' password.")
    var redisPasswordFile: String?

    @Option(help: "PEM certificates to trust for rediss://.")
    var redisCaFile: String?

    func validate() throws {
        let others = [redisLayout, redisNamespace, redisPasswordFile, redisCaFile]
        if redis == nil, others.contains(where: { $0 != nil }) {
            throw ValidationError("options of Redis need --redis")
        }
    }

    /// What the router's `redisConfig` would say; nil without a server.
    func sharing() throws -> RedisSharing? {
        guard let redis else { return nil }
        var json = JSONWriter()
        json.beginObject()
        json.member("address", redis)
        if let redisLayout { json.member("layout", redisLayout) }
        if let redisNamespace { json.member("namespace", redisNamespace) }
        if let redisPasswordFile { json.member("passwordFile", redisPasswordFile) }
        if let redisCaFile { json.member("caFile", redisCaFile) }
        json.endObject()
        return try RedisSharing(
            parsing: ConfigValue(
                parsing: String(decoding: json.bytes, as: UTF8.self), file: "--redis"))
    }
}
