public import Core
public import Net

/// Posts to a service what has gathered, again and again, on one loop: one post at a time, each
/// with a deadline. What cannot be delivered is lost.
public final class PeriodicPost: Sendable {
    private let loop: EventLoop
    private let state: LoopBox

    // Proof for the annotation: the box is opened on the loop alone.
    private final class LoopBox: @unchecked Sendable {
        var client: HTTPClient?
        var timer: Timer?
        var running: BufferedRequest?
    }

    /// Starts to post. Any thread.
    ///
    /// - Parameters:
    ///   - interval: the time between two posts.
    ///   - next: what to post now; nil: nothing. Called on the loop, not while a post runs.
    ///   - ended: called on the loop with what became of each post.
    public init(
        every interval: Duration, on loop: EventLoop,
        next: @escaping @Sendable () -> ServiceQuestion?,
        ended: @escaping @Sendable (ServiceOutcome) -> Void
    ) {
        self.loop = loop
        let state = LoopBox()
        self.state = state
        loop.execute {
            var configuration = HTTPClientConfiguration()
            configuration.maximumConnectionsPerHost = 1
            configuration.maximumIdlePerHost = 1
            let client = HTTPClient(on: loop, configuration: configuration)
            state.client = client
            state.timer = loop.schedule(every: interval) {
                guard state.running == nil, let question = next() else { return }
                state.running = BufferedRequest(question, through: client) { outcome in
                    state.running = nil
                    ended(outcome)
                }
            }
        }
    }

    /// Stops for good. Any thread.
    public func stop() {
        loop.execute { [state] in
            state.timer?.cancel()
            state.running?.cancel()
            state.running = nil
            state.client?.shutdown()
        }
    }
}
