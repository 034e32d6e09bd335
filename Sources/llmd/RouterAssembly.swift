import ArgumentParser
import Configuration
import Core
import Foundation
import KVIndex
import KVIndexIO
import Logging
import Messaging
import ModelServers
import Net
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

    @Option(
        help: ArgumentHelp(
            "A model server, as name=N,address=HOST:PORT[,role=R][,metrics=HOST:PORT][,events=E]"
                + "[,replay=E]; may be given again.", valueName: "server"))
    var endpoint: [String] = []

    @Option(
        help: ArgumentHelp(
            "A file of model servers, objectives and model rewrites; it is read again when it "
                + "changes."))
    var endpointsFile: String?

    @Option(help: "The models that may be asked for, comma-separated; default: what servers list.")
    var models = ""

    @Option(help: "Milliseconds between two scrapes of a busy model server.")
    var refreshMetricsInterval = 200

    func validate() throws {
        guard [configFile != nil, configText != nil, policy != nil].count(where: { $0 }) <= 1 else {
            throw ValidationError("give one of --config-file, --config-text and --policy")
        }
        guard endpoint.isEmpty || endpointsFile == nil else {
            throw ValidationError("give --endpoint or --endpoints-file, not both")
        }
        guard (10...60_000).contains(refreshMetricsInterval) else {
            throw ValidationError("--refresh-metrics-interval must be from 10 to 60000")
        }
    }
}

/// The composition root of everything that routes: pool, discovery, load, index, plugins.
struct RouterAssembly {
    let router: Router
    let metrics = MetricsRegistry()
    private let pool = EndpointPool()

    init(_ options: RouterOptions) throws {
        metrics.registerProcessMetrics()
        let index = Mutex<KVIndex?>(nil)
        var plugins = PluginRegistry.standard
        let sharing = Mutex<RedisIndexBackend.Configuration?>(nil)
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
                let configuration = try RedisIndexBackend.Configuration(parsing: section)
                sharing.withLock { $0 = configuration }
            })
        let scheduler = try Self.scheduler(options, plugins)
        let servers = try EndpointFile.servers(parsing: options.endpoint, option: "--endpoint")

        var configuration = RouterConfiguration()
        configuration.models = options.models.split(separator: ",").map(String.init)
        router = Router(
            pool: pool, scheduler: scheduler,
            metrics: RouterMetrics(registry: metrics, pool: pool, poolName: "default"),
            configuration: configuration)

        // Events and scrapes come in bursts; a loop of their own keeps them off the requests.
        let background = try EventLoop.start(name: "pool")
        var scraping = ScraperConfiguration()
        scraping.interval = .milliseconds(options.refreshMetricsInterval)
        _ = MetricsScraper(
            pool: pool, on: background, registry: metrics, configuration: scraping)
        if let index = index.withLock(\.self) {
            let source = KVEventSource(
                index: index, context: try MessagingContext(), on: background,
                metrics: KVIndexMetrics(metrics, index: index), logger: Logger(label: "kv-events"))
            if let sharing = sharing.withLock(\.self) {
                let metrics = RedisIndexMetrics(metrics)
                source.share { try RedisIndexBackend(sharing, in: $0, metrics: metrics) }
            }
            pool.observe { _, after in source.update(after.members.map(\.endpoint.server)) }
        }
        if let file = options.endpointsFile {
            let contents = try EndpointFile.contents(at: file)
            pool.update(contents.servers, rules: contents.rules)
            background.execute { [pool] in
                EndpointFileWatcher(path: file, pool: pool, logger: Logger(label: "discovery"))
                    .start(on: background)
            }
        } else {
            pool.update(servers)
        }
    }

    private static func scheduler(
        _ options: RouterOptions, _ plugins: PluginRegistry
    ) throws -> Scheduler {
        if let file = options.configFile {
            let text: String
            do {
                text = try String(contentsOfFile: file, encoding: .utf8)
            } catch {
                throw ConfigError(file: file, line: nil, problem: "cannot be read")
            }
            return try EndpointPickerConfig.scheduler(parsing: text, file: file, registry: plugins)
        }
        let text = options.configText ?? (options.policy ?? .precise).configuration
        return try EndpointPickerConfig.scheduler(
            parsing: text, file: options.configText == nil ? "--policy" : "--config-text",
            registry: plugins)
    }
}
