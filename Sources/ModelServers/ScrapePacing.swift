/// When to scrape an endpoint next: often while it works, seldom while nothing changes.
public struct ScrapePacing: Sendable {
    private let busy: Duration
    private let idle: Duration
    private var current: Duration

    /// `busy` is the time between scrapes while requests run, `idle` the longest one. If they are
    /// the same, the rate does not adapt.
    public init(busy: Duration, idle: Duration) {
        self.busy = busy
        self.idle = max(busy, idle)
        current = busy
    }

    /// Whether the time to the next scrape is longer than it would be with requests.
    public var isResting: Bool { current > busy }

    /// The time from the start of a scrape to the start of the next; `isActive` says whether
    /// requests run or anything has changed. Doubles with each scrape that found nothing going on.
    public mutating func interval(isActive: Bool) -> Duration {
        current = isActive ? busy : min(current * 2, idle)
        return current
    }
}
