public import Core
public import Net
internal import Relay

/// How a sidecar serves the decode engine beside it.
public struct SidecarConfiguration: Sendable {
    /// Where requests come in.
    public var address: SocketAddress
    /// The decode engine.
    public var engine: SocketAddress
    /// The side of the clients: TLS, limits, timeouts.
    public var server = HTTPServerConfiguration()
    /// The side of the engines: limits, timeouts.
    public var client = HTTPClientConfiguration.modelServers
    /// Hosts, or `host:port`, that a request may name as its prefiller; nil: any. Others are
    /// refused with 403.
    public var allowedPrefillers: Set<String>?
    /// Whether responses name the address of the prefiller that computed the prompt, in
    /// `x-llmd-prefill`.
    public var revealsPrefiller = false
    /// How long prefilling may take, all prefillers together; the decode engine computes the
    /// prompt after that.
    public var prefillTimeout = Duration.seconds(120)
    /// The longest body of a request that goes to a prefiller first; a longer one is refused with
    /// 413.
    public var maximumBodyBytes = 32 << 20
    /// The longest answer of a prefiller to accept.
    public var maximumPrefillResponseBytes = 64 << 20

    /// Makes a configuration with the defaults above.
    public init(address: SocketAddress, engine: SocketAddress) {
        self.address = address
        self.engine = engine
    }
}
