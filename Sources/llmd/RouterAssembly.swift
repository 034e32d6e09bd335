import ArgumentParser
import Configuration
import Core
import FlowControl
import Foundation
import KVIndex
import KVIndexIO
import Logging
import Messaging
import ModelServers
import Net
import Replay
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry

/// What gateway and endpoint picker have in common.
struct RouterOptions: ParsableArguments {
    @Option(help: "An EndpointPickerConfig file.")
    var configFile: String?

    @Option(help: "An EndpointPickerConfig as text.")
    var configText: String?

    @Option(help: "A built-in configuration instead: \(RoutingPolicy.names).")
    var policy: RoutingPolicy?

    @OptionGroup var pool: PoolOptions

    @OptionGroup var record: RecordOptions

    @Option(help: "The models that may be asked for, comma-separated; default: what servers list.")
    var models = ""

    @Option(help: "Milliseconds between two scrapes of a busy model server.")
    var refreshMetricsInterval = 200

    @Option(help: "Milliseconds between two scrapes of a model server that is idle.")
    var idleMetricsInterval = 1000
    @Option(help: "Failed answers in a row that keep requests away from a server; 0: none do.")
    var circuitBreakerFailures = CircuitBreaker.Rules().failureLimit

    func validate() throws {
        guard (0...1000).contains(circuitBreakerFailures) else {
            throw ValidationError("--circuit-breaker-failures must be from 0 to 1000")
        }
        guard [configFile != nil, configText != nil, policy != nil].count(where: { $0 }) <= 1 else {
            throw ValidationError("give one of --config-file, --config-text and --policy")
        }
        guard (10...60_000).contains(refreshMetricsInterval) else {
            throw ValidationError("--refresh-metrics-interval must be from 10 to 60000")
        }
        guard (10...60_000).contains(idleMetricsInterval) else {
            throw ValidationError("--idle-metrics-interval must be from 10 to 60000")
        }
    }
}

/// The composition root of everything that routes: pool, discovery, load, index, plugins.
struct RouterAssembly {
    let router: Router
    let metrics = MetricsRegistry()
    /// What fills the index; nil without one.
    let kvEvents: KVEventSource?
    /// Who records decisions; nil: nobody does.
    let recorder: DecisionRecorder?
    private let pool: EndpointPool

    init(_ options: RouterOptions, maximumBodyBytes: Int? = nil) throws {
        metrics.registerProcessMetrics()
        var circuit = CircuitBreaker.Rules()
        circuit.failureLimit = options.circuitBreakerFailures
        pool = EndpointPool(circuit: circuit)
        let index = Mutex<KVIndex?>(nil)
        var plugins = PluginRegistry.standard
        let sharing = Mutex<RedisSharing?>(nil)
        let replicas = Mutex<ReplicaIndexBackend.Configuration?>(nil)
        PrecisePrefixCacheProducer.register(
            in: &plugins,
            makeIndex: { (configuration) throws(KVIndexError) in
                let new = try KVIndex(configuration: configuration)
                return try index.withLock { (index) throws(KVIndexError) in
                    guard index == nil else {
                        throw .configuration("there is one index already, and one is enough")
                    }
                    index = new
                    return new
                }
            },
            shareIndex: { (section) throws(ConfigError) in
                let read = try RedisSharing(parsing: section)
                sharing.withLock { $0 = read }
                return read.keyAlgorithm
            },
            shareReplicas: { (section) throws(ConfigError) in
                let read = try ReplicaIndexBackend.Configuration(parsing: section)
                replicas.withLock { $0 = read }
            })
        PredictedLatencyProducer.register(
            in: &plugins, environment: ProcessInfo.processInfo.environment)
        plugins.reserve(FlowPolicy.types)
        let picker = try Self.configuration(options, plugins)
        let admission = try AdmissionConfiguration(picker)

        var configuration = RouterConfiguration()
        if let maximumBodyBytes { configuration.maximumBodyBytes = maximumBodyBytes }
        configuration.models = options.models.split(separator: ",").map(String.init)
        let flow = FlowController(
            admission.flowControl, isEnabled: admission.isFlowControlEnabled, pool: pool,
            registry: metrics)
        recorder = try options.record.recorder(of: picker, registry: metrics)
        router = Router(
            pool: pool, scheduler: picker.scheduler,
            metrics: RouterMetrics(registry: metrics, pool: pool, poolName: "default"),
            flow: flow, configuration: configuration, recorder: recorder)

        // Events and scrapes come in bursts; a loop of their own keeps them off the requests.
        let background = try EventLoop.start(name: "pool")
        if flow.isEnabled {
            background.execute {
                background.schedule(every: .milliseconds(20)) { flow.tick() }
            }
        }
        LatencyTraining.start(
            picker.plugins(as: PredictedLatencyProducer.self), on: background, registry: metrics)
        var scraping = ScraperConfiguration()
        scraping.interval = .milliseconds(options.refreshMetricsInterval)
        scraping.idleInterval = .milliseconds(options.idleMetricsInterval)
        scraping.engines = picker.engineMetrics
        _ = MetricsScraper(
            pool: pool, on: background, registry: metrics, configuration: scraping)
        if let index = index.withLock(\.self) {
            let source = KVEventSource(
                index: index, context: try MessagingContext(), on: background,
                metrics: KVIndexMetrics(metrics, index: index), logger: Logger(label: "kv-events"))
            let redis = sharing.withLock(\.self)
            redis?.start(for: source, registry: metrics)
            if let replicas = replicas.withLock(\.self) {
                let metrics = ReplicaMetrics(metrics)
                let load = SharedLoad(
                    pool: pool, flow: flow,
                    output: picker.plugins(as: InflightLoadProducer.self)
                        .first(where: \.estimatesOutput))
                source.share {
                    try ReplicaIndexBackend(
                        replicas, in: $0, load: load, sharesIndex: redis == nil, metrics: metrics)
                }
            }
            pool.observe { _, after in source.update(after.members.map(\.endpoint.server)) }
            kvEvents = source
        } else {
            kvEvents = nil
        }
        try options.pool.fill(pool, on: background)
    }

    /// Loads the configuration in a file.
    static func configuration(
        file: String, _ plugins: PluginRegistry
    ) throws -> EndpointPickerConfig {
        let text: String
        do {
            text = try String(contentsOfFile: file, encoding: .utf8)
        } catch {
            throw ConfigError(file: file, line: nil, problem: "cannot be read")
        }
        return try EndpointPickerConfig(parsing: text, file: file, registry: plugins)
    }

    private static func configuration(
        _ options: RouterOptions, _ plugins: PluginRegistry
    ) throws -> EndpointPickerConfig {
        if let file = options.configFile { return try configuration(file: file, plugins) }
        let text = options.configText ?? (options.policy ?? .precise).configuration
        return try EndpointPickerConfig(
            parsing: text, file: options.configText == nil ? "--policy" : "--config-text",
            registry: plugins)
    }
}
