internal import Core
internal import Net
internal import Relay
internal import Telemetry

/// What every request passes before the router: pages of browsers, API keys and their limits; and
/// what is noted of it. Any thread.
final class FrontDoor: Sendable {
    let cors: CORSPolicy?
    let keys: APIKeys?
    let log: LogFile?
    let clock: @Sendable () -> MonotonicTime
    let refusals: RefusalCounters?

    init(_ configuration: GatewayConfiguration, _ registry: MetricsRegistry) {
        cors = configuration.cors
        keys = configuration.keys
        log = configuration.accessLog
        clock = configuration.clock
        refusals = keys == nil ? nil : RefusalCounters(registry)
    }

    /// Lets a request in; nil if there is nothing to watch about it.
    func open(_ exchange: ServerExchange) -> Visit? {
        guard cors != nil || keys != nil || log != nil else { return nil }
        let visit = Visit(exchange, through: self)
        exchange.watcher = visit
        return visit
    }
}

/// Counts requests that keys were the reason to refuse. Any thread.
final class RefusalCounters: Sendable {
    let unauthorized: Counter
    let overLimit: Counter

    init(_ registry: MetricsRegistry) {
        let refused = registry.counters(
            "llmd_gateway_keys_refused_total",
            "Requests refused for want of a valid key, or by the limits of one.",
            labels: ["reason"])
        unauthorized = refused.child("invalid_api_key")
        overLimit = refused.child("rate_limit_exceeded")
    }
}
