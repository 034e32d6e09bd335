public import Configuration
public import Core

extension ReplicaIndexBackend {
    /// How an index is shared with other routers.
    public struct Configuration: Hashable, Sendable {
        /// Where the other routers are.
        public enum Peers: Hashable, Sendable {
            /// At these addresses. This router's own may be among them.
            case addresses([SocketAddress])
            /// At every address of a name, which is looked up again and again. This router's own
            /// may be among them.
            case service(SocketAddress)
        }

        /// Where other routers connect to.
        public var listen: SocketAddress
        /// Where the other routers are.
        public var peers: Peers
        /// Something is sent at least this often on each connection.
        public var heartbeat = Duration.seconds(2)
        /// A connection on which nothing is heard for so long is given up.
        public var silenceLimit = Duration.seconds(10)
        /// How long an endpoint with events waits for somebody who knew it before.
        public var loadingPatience = Duration.seconds(5)
        /// How soon and how late a lost peer is tried again.
        public var reconnectDelay = Duration.milliseconds(100)...Duration.seconds(5)
        /// How often the service's name is looked up.
        public var resolveInterval = Duration.seconds(10)
        /// Connections from other routers.
        public var maximumFollowerCount = 64
        /// Changes of one endpoint that are kept for followers.
        public var maximumLogCount = 1 << 14
        /// Whether routers tell each other what they have in flight.
        public var sharesLoad = true
        /// How often what has changed of it is told.
        public var loadInterval = Duration.milliseconds(20)
        /// How often all of it is told again.
        public var loadRefresh = Duration.seconds(1)
        /// A router that says nothing of its load for so long has none.
        public var loadLease = Duration.seconds(3)
        /// Certificates; nil: connections are plain.
        public var tls: ReplicaTLS?

        /// Shares with the routers at `peers`.
        public init(listen: SocketAddress, peers: Peers) {
            self.listen = listen
            self.peers = peers
        }

        /// Reads `replicaConfig`: `listen`, one of `peers` and `service`, `shareLoad` (true) and
        /// `tls` (``ReplicaTLS``).
        public init(parsing value: ConfigValue) throws(ConfigError) {
            self = try value.section { (section) throws(ConfigError) in
                let listen = try Self.address(section.required("listen"))
                let sharesLoad = try section.optional("shareLoad")?.boolean() ?? true
                let tls = try section.optional("tls").map { (tls) throws(ConfigError) in
                    try ReplicaTLS(parsing: tls)
                }
                let service = section.optional("service")
                if let peers = section.optional("peers") {
                    guard service == nil else {
                        throw peers.error("cannot stand beside service: one of the two tells all")
                    }
                    var addresses: [SocketAddress] = []
                    for peer in try peers.list() { addresses.append(try Self.address(peer)) }
                    return Self(listen, .addresses(addresses), sharesLoad, tls)
                }
                guard let service else {
                    throw section.error("needs peers or service: where the other routers are")
                }
                return Self(listen, .service(try Self.address(service)), sharesLoad, tls)
            }
        }

        private init(
            _ listen: SocketAddress, _ peers: Peers, _ sharesLoad: Bool, _ tls: ReplicaTLS?
        ) {
            self.init(listen: listen, peers: peers)
            self.sharesLoad = sharesLoad
            self.tls = tls
            // Addresses are looked up from the name, which is what certificates have.
            if case .service(let service) = peers, tls?.serverName == nil {
                self.tls?.serverName = service.host
            }
        }

        private static func address(_ value: ConfigValue) throws(ConfigError) -> SocketAddress {
            let text = try value.string()
            do {
                return try SocketAddress(parsing: text)
            } catch {
                throw value.error("'\(error.text)' \(error.problem)")
            }
        }
    }
}
