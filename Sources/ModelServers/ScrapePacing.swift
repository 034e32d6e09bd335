/// When to scrape an endpoint next: often while it works, seldom while nothing changes.
public struct ScrapePacing: Sendable {
    private let busy: Duration
    private let idle: Duration
    private var current: Duration

    /// `busy` is the wait while requests run, `idle` the longest one.
    public init(busy: Duration, idle: Duration) {
        self.busy = busy
        self.idle = max(busy, idle)
        current = busy
    }

    /// The wait after a scrape; `isActive` says whether requests run or anything has changed.
    /// Doubles with each scrape that found nothing going on.
    public mutating func wait(isActive: Bool) -> Duration {
        current = isActive ? busy : min(current * 2, idle)
        return current
    }
}
