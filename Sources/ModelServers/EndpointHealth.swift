public import Core

/// The rules by which an endpoint is used or avoided. Not thread-safe: ``PoolMember`` guards it.
///
/// - A new endpoint is used until something speaks against it.
/// - A connection that fails, of a request or of a scrape, takes it out at once.
/// - Scrapes that get no answer in time take it out after ``slowScrapeLimit`` in a row: a busy
///   engine may be slow to show its metrics.
/// - Only a good scrape brings it back, and after a request failed to connect not before
///   ``holdDown``: where a sidecar is dead the engine behind it still answers scrapes.
public struct EndpointHealth: Sendable {
    /// Scrapes without an answer that it takes to rule an endpoint out.
    public static let slowScrapeLimit = 3
    /// How long a good scrape does not count after a request failed to connect.
    public static let holdDown = Duration.seconds(1)

    /// Whether requests may go there.
    public private(set) var isHealthy = true

    private var slowScrapes = 0
    private var heldUntil: MonotonicTime?

    /// Makes the health of a new endpoint.
    public init() {}

    /// A request could not connect.
    public mutating func requestFailedToConnect(at now: MonotonicTime) {
        isHealthy = false
        heldUntil = now + Self.holdDown
    }

    /// A scrape could not connect, or lost its connection.
    public mutating func scrapeFailedToConnect() {
        isHealthy = false
    }

    /// A scrape got no answer in time.
    public mutating func scrapeTimedOut() {
        slowScrapes += 1
        if slowScrapes >= Self.slowScrapeLimit { isHealthy = false }
    }

    /// A scrape got an answer.
    public mutating func scraped(at now: MonotonicTime) {
        slowScrapes = 0
        if let heldUntil, now < heldUntil { return }
        heldUntil = nil
        isHealthy = true
    }
}
