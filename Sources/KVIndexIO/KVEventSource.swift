public import Core
public import KVIndex
public import Logging
public import Messaging
public import Net

/// What is known of one engine's KV events.
public struct KVEngineState: Equatable, Sendable {
    /// The model server's name.
    public var name: String
    /// Whether the subscription is up; always false for an engine that connects to us.
    public var isConnected: Bool
    /// Its batches: the last one, gaps, replays, restarts.
    public var sequence: SequenceTracker.Counters
    /// Its blocks: held, stored, removed, parked.
    public var index: EndpointCounters
    /// Batches that wait for the end of a replay.
    public var heldCount: Int
    /// Batches that are not what engines send.
    public var decodeErrorCount: Int
}

/// Keeps an index in step with the model servers of a pool: subscribes to the KV events of each,
/// follows their sequence, asks for what was missed, and drops what is gone.
///
/// Runs on one event loop, which should not carry requests: a burst of events takes its time.
public actor KVEventSource {
    /// Where events come from and how patient to be.
    public struct Configuration: Sendable {
        /// Where engines connect to (fan-in), beside those that have an events endpoint of their
        /// own. Their topics must be `kv@<address or name of the model server>@<model>`.
        public var fanInEndpoint: String?
        /// What engines serve whose topic does not tell it.
        public var defaultModel = ""
        /// What the subscriptions take.
        public var subscription = {
            var subscription = KVEventSubscriber.Configuration()
            subscription.maximumMessageBytes = 16 << 20
            return subscription
        }()
        /// How replays are tried.
        public var tracking = SequenceTracker.Policy()
        /// How long to wait for the next batch of a replay.
        public var replayIdleTimeout = Duration.seconds(2)
        /// How many engines may replay at a time.
        public var maximumReplayCount = 8
        /// The time before a socket that could not be opened is tried again.
        public var reopenDelay = Duration.seconds(5)

        /// Every topic, and upstream's delays.
        public init() {}
    }

    /// The loop.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        loop.asUnownedSerialExecutor()
    }

    private nonisolated let loop: EventLoop
    private var environment: EngineStream.Environment
    private var streams: [String: EngineStream] = [:]
    private let fanIn: FanIn

    /// Makes a source of an empty pool.
    ///
    /// - Parameters:
    ///   - index: what the events are applied to. Every model server of the pool is registered in
    ///     it under its name.
    ///   - loop: where the sockets live.
    public init(
        index: KVIndex, context: MessagingContext, on loop: EventLoop,
        configuration: Configuration = Configuration(), metrics: KVIndexMetrics, logger: Logger
    ) {
        self.loop = loop
        fanIn = FanIn(metrics: metrics)
        environment = EngineStream.Environment(
            index: index, context: context, loop: loop, configuration: configuration,
            metrics: metrics, logger: logger,
            gate: ReplayGate(limit: configuration.maximumReplayCount))
    }

    /// Opens the endpoint that engines connect to, if there is one.
    ///
    /// - Returns: the endpoint with its real port.
    /// - Throws: ``MessagingError``, such as that the endpoint is in use.
    @discardableResult
    public func listen() throws(MessagingError) -> String? {
        if let endpoint = environment.configuration.fanInEndpoint, fanIn.endpoint == nil {
            try fanIn.listen(at: endpoint, environment)
        }
        return fanIn.endpoint
    }

    /// Takes over the pool as it is now: new servers are subscribed to, those that are gone lose
    /// their entries in the index, those that moved begin anew. Any thread; calls take effect in
    /// their order.
    public nonisolated func update(_ servers: [ModelServer]) {
        loop.execute { self.assumeIsolated { $0.replace(servers) } }
    }

    /// Shares the index with other routers from now on, by what `makeSharing` makes on the loop.
    /// Any thread; to be called before the first ``update(_:)``.
    public nonisolated func share(
        by makeSharing: @escaping @Sendable (IndexSharingEnvironment) throws -> any IndexSharing
    ) {
        loop.execute { self.assumeIsolated { $0.startSharing(makeSharing) } }
    }

    private func startSharing(
        _ makeSharing: (IndexSharingEnvironment) throws -> any IndexSharing
    ) {
        do {
            environment.sharing = try makeSharing(
                IndexSharingEnvironment(
                    index: environment.index, loop: loop, logger: environment.logger))
        } catch {
            environment.logger.error("the index is not shared: \(error)")
        }
    }

    /// The state of every engine, by name.
    public func engines() -> [KVEngineState] {
        streams.values.map(\.state).sorted { $0.name < $1.name }
    }

    /// Closes every socket; the index keeps what it has.
    public func shutdown() {
        fanIn.close()
        for stream in streams.values { stream.close() }
        streams = [:]
        environment.sharing?.close()
    }

    private func replace(_ servers: [ModelServer]) {
        let new = Dictionary(servers.map { ($0.name, $0) }) { first, _ in first }
        for (name, stream) in streams where new[name].map(stream.serves) != true {
            stream.close()
            streams[name] = nil
            environment.index.remove(stream.endpoint)
        }
        // Those that moved begin anew in the sharing, too.
        environment.sharing?.update(streams.values.map(\.server))
        for (name, server) in new where streams[name] == nil {
            do {
                let endpoint = try environment.index.register(name)
                streams[name] = EngineStream(server, endpoint, environment)
            } catch {
                environment.logger.error(
                    "not indexed: \(error)", metadata: ["endpoint": "\(name)"])
            }
        }
        environment.sharing?.update(streams.values.map(\.server))
        fanIn.streams = [:]
        for stream in streams.values {
            fanIn.streams[stream.server.name] = stream
            fanIn.streams[stream.server.address.description] = stream
        }
    }
}

extension EngineStream {
    /// Whether the server is the one that the stream reads, at the same places.
    fileprivate func serves(_ server: ModelServer) -> Bool {
        server.address == self.server.address
            && server.eventsEndpoint == self.server.eventsEndpoint
            && server.replayEndpoint == self.server.replayEndpoint
            && server.eventsModel == self.server.eventsModel
    }
}
