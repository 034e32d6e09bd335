public import Core

/// The rules by which an endpoint is used or avoided. Not thread-safe: ``PoolMember`` guards it.
///
/// - A new endpoint is used until something speaks against it.
/// - A scrape that cannot connect takes it out at once, and the next good one brings it back.
/// - Scrapes that get no answer in time take it out after ``slowScrapeLimit`` in a row: a busy
///   engine may be slow to show its metrics.
/// - Requests open its circuit: one that cannot connect does so at once, others after
///   ``CircuitBreaker/Rules/failureLimit`` in a row. Where a sidecar is dead the engine behind it
///   still answers scrapes, so these alone do not close it again: a good one lets a single request
///   try.
public struct EndpointHealth: Sendable {
    /// Scrapes without an answer that it takes to rule an endpoint out.
    public static let slowScrapeLimit = 3

    /// What requests say of it.
    public private(set) var circuit: CircuitBreaker
    /// Whether scrapes reach it.
    public private(set) var isReachable = true

    private var slowScrapes = 0

    /// Whether requests may go there.
    public var isHealthy: Bool { isReachable && circuit.admits }

    /// Makes the health of a new endpoint.
    public init(_ rules: CircuitBreaker.Rules = CircuitBreaker.Rules()) {
        circuit = CircuitBreaker(rules)
    }

    /// A request goes there. Returns whether it is a probe, whose end must be told by
    /// ``probeEnded()``.
    public mutating func requestStarted(at now: MonotonicTime) -> Bool {
        circuit.requestStarted(at: now)
    }

    /// A request could not connect.
    public mutating func requestFailedToConnect(at now: MonotonicTime) {
        circuit.failed(.connection, at: now)
    }

    /// A request got an answer that speaks against the endpoint, or none.
    public mutating func requestFailed(at now: MonotonicTime) {
        circuit.failed(.answer, at: now)
    }

    /// A request got a good answer.
    public mutating func requestSucceeded() {
        circuit.succeeded()
    }

    /// A probe is over, whether or not it told anything.
    public mutating func probeEnded() {
        circuit.probeEnded()
    }

    /// A scrape could not connect, or lost its connection.
    public mutating func scrapeFailedToConnect() {
        isReachable = false
    }

    /// A scrape got no answer in time.
    public mutating func scrapeTimedOut() {
        slowScrapes += 1
        if slowScrapes >= Self.slowScrapeLimit { isReachable = false }
    }

    /// A scrape got an answer.
    public mutating func scraped(at now: MonotonicTime) {
        slowScrapes = 0
        isReachable = true
        circuit.letProbe(at: now)
    }
}
