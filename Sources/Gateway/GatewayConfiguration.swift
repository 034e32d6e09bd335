public import Core
public import Net
internal import Relay
public import Telemetry

/// How the gateway serves clients.
public struct GatewayConfiguration: Sendable {
    /// Where clients connect.
    public var address: SocketAddress
    /// The side of the clients: TLS, limits, timeouts.
    public var server = HTTPServerConfiguration()
    /// The side of the model servers: limits, timeouts.
    public var client = HTTPClientConfiguration.modelServers
    /// Requests served at once; above it clients get 503 and `retry-after`.
    public var maximumConcurrentRequests = 10_000
    /// Whether responses name the endpoints that served them, in `x-llmd-decode` and, if a sidecar
    /// told, `x-llmd-prefill`.
    public var revealsEndpoints = false
    /// How long a client may take over a request's body; above it 408.
    public var bodyTimeout = Duration.seconds(300)
    /// Which pages of browsers may call; nil: nothing is said of it.
    public var cors: CORSPolicy?
    /// Who may call, and how much; nil: everybody.
    public var keys: APIKeys?
    /// Whether engines get the key that a client showed, where there are keys.
    public var forwardsAuthorization = false
    /// Gets a line for every request; nil: no lines.
    public var accessLog: LogFile?
    /// What the limits of keys take for the time.
    package var clock: @Sendable () -> MonotonicTime = { .now }

    /// Makes a configuration with the defaults above.
    public init(address: SocketAddress) {
        self.address = address
    }
}
