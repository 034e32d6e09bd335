public import Core
public import Net
internal import Relay

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

    /// Makes a configuration with the defaults above.
    public init(address: SocketAddress) {
        self.address = address
    }
}
