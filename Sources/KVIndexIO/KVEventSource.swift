public import Core
public import KVIndex
public import Logging
public import Messaging
public import Net

/// Keeps an index in step with the model servers of a pool: subscribes to the KV events of each,
/// follows their sequence, asks for what was missed, and drops what is gone.
///
/// Runs on one event loop, which should not carry requests: a burst of events takes its time.
public actor KVEventSource {
    /// Where events come from and how patient to be.
    public struct Configuration: Sendable {
        /// Where engines connect to (fan-in) that have no events endpoint of their own. Their topics
        /// must be `kv@<address or name of the model server>@<model>`.
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
        /// How many batches that cannot be read are borne.
        public var quarantine = SourceQuarantine.Policy()
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
    private nonisolated let board: EngineBoard
    private var environment: EngineStream.Environment
    private var servers: [String: EngineRanks] = [:]
    private let fanIn: FanIn

    /// Makes a source of an empty pool.
    ///
    /// - Parameters:
    ///   - index: what the events are applied to. Every model server of the pool is registered in
    ///     it under its name, with its further data-parallel ranks.
    ///   - loop: where the sockets live.
    ///   - metrics: those of no other source.
    public init(
        index: KVIndex, context: MessagingContext, on loop: EventLoop,
        configuration: Configuration = Configuration(), metrics: KVIndexMetrics, logger: Logger
    ) {
        self.loop = loop
        board = EngineBoard(index: index)
        metrics.show(board)
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

    /// Shares the index with other routers from now on, by what `makeSharing` makes on the loop,
    /// beside what was made before. Any thread; to be called before the first ``update(_:)``.
    public nonisolated func share(
        by makeSharing: @escaping @Sendable (IndexSharingEnvironment) throws -> any IndexSharing
    ) {
        loop.execute { self.assumeIsolated { $0.startSharing(makeSharing) } }
    }

    private func startSharing(
        _ makeSharing: (IndexSharingEnvironment) throws -> any IndexSharing
    ) {
        do {
            let new = try makeSharing(
                IndexSharingEnvironment(
                    index: environment.index, loop: loop, logger: environment.logger))
            environment.sharing = environment.sharing.map { JointSharing($0, new) } ?? new
        } catch {
            environment.logger.error("the index is not shared: \(error)")
        }
    }

    /// The state of every engine, by name. Any thread.
    public nonisolated var engines: [KVEngineState] { board.engines }

    /// Closes every socket; the index keeps what it has.
    public func shutdown() {
        fanIn.close()
        for ranks in servers.values { ranks.close() }
        servers = [:]
        board.show([])
        environment.sharing?.close()
    }

    private func replace(_ list: [ModelServer]) {
        let new = Dictionary(list.map { ($0.name, $0) }) { first, _ in first }
        for (name, ranks) in servers where new[name].map(ranks.serve) != true {
            ranks.remove()
            servers[name] = nil
        }
        // Those that moved begin anew in the sharing, too.
        enginesChanged()
        // In the order of the list: of two that want one name the first has it.
        for server in list where servers[server.name] == nil {
            servers[server.name] = EngineRanks(server, environment) { [weak self] in
                self?.assumeIsolated { $0.enginesChanged() }
            }
        }
        fanIn.servers = [:]
        for ranks in servers.values where ranks.server.eventsEndpoint == nil {
            fanIn.servers[ranks.server.name] = ranks
            fanIn.servers[ranks.server.address.description] = ranks
        }
        enginesChanged()
    }

    private func enginesChanged() {
        let streams = servers.values.flatMap(\.streams.values)
        board.show(streams.map(\.report))
        environment.sharing?.update(streams.map(\.server))
    }
}

extension EngineRanks {
    /// Whether the server is the one whose engines these are, at the same places.
    fileprivate func serve(_ server: ModelServer) -> Bool {
        server.address == self.server.address
            && server.eventsEndpoint == self.server.eventsEndpoint
            && server.replayEndpoint == self.server.replayEndpoint
            && server.eventsModel == self.server.eventsModel
            && server.dataParallelSize == self.server.dataParallelSize
    }
}
