import Core
public import Net

/// A connection to one Redis server, made again whenever it is lost.
///
/// Lives on its event loop: made, used and closed there. Commands go out as they come, without
/// waiting for replies before. A pipeline whose replies are late ends the connection: what is
/// behind it would be late as well.
public final class RedisClient {
    /// What the connection is like.
    public enum State: Hashable, Sendable {
        /// An attempt is under way.
        case connecting
        /// Commands are taken.
        case ready
        /// The last attempt or connection failed; another attempt follows.
        case waiting(RedisError)
        /// ``RedisClient/close()`` was called.
        case closed
    }

    /// What the connection is like now.
    public private(set) var state = State.connecting
    /// Bytes of commands that wait for their replies.
    public private(set) var queuedByteCount = 0

    /// Whether commands are taken now.
    public var isReady: Bool { state == .ready }

    private struct Pending {
        var count: Int
        var byteCount: Int
        var deadline: MonotonicTime
        var completion: (Result<RedisReplies, RedisError>) -> Void
    }

    private let configuration: RedisConfiguration
    private let loop: EventLoop
    private let tls: TLSClientContext?
    private let stateChanged: (State) -> Void
    private var stream: ByteStream?
    private var reader = ReplyReader()
    private var pending: [Pending] = []
    private var head = 0
    private var timer: Timer?
    private var isTimerLast = false
    private var attempt: Timer?
    private var delay: Duration
    private var isInHandshake = false

    /// Starts to connect, and goes on trying until ``close()``.
    ///
    /// - Parameter stateChanged: hears about each new state, never from inside a call.
    /// - Throws: ``RedisError/address(_:problem:)`` if the TLS settings cannot be used.
    public init(
        _ configuration: RedisConfiguration, on loop: EventLoop,
        stateChanged: @escaping (State) -> Void = { _ in }
    ) throws(RedisError) {
        loop.preconditionInLoop()
        self.configuration = configuration
        self.loop = loop
        self.stateChanged = stateChanged
        delay = configuration.reconnectDelay.lowerBound
        do throws(NetError) {
            tls = try configuration.tls.map { (verify) throws(NetError) in
                try TLSClientContext(verify: verify)
            }
        } catch {
            throw .address("\(configuration.remote)", problem: "cannot have TLS: \(error)")
        }
        connect()
    }

    /// Sends commands.
    ///
    /// - Parameter completion: called exactly once unless this throws, never from inside a call.
    ///   The replies are valid during the call only; each may be an error of its own.
    /// - Throws: ``RedisError`` if the commands were not taken: there is no connection, or too many
    ///   bytes wait for their replies.
    public func send(
        _ pipeline: RedisPipeline,
        completion: @escaping (Result<RedisReplies, RedisError>) -> Void
    ) throws(RedisError) {
        loop.preconditionInLoop()
        switch state {
        case .ready: break
        case .connecting: throw .notConnected("connecting to \(configuration.remote)")
        case .waiting(let error): throw .notConnected(error.description)
        case .closed: throw .closed
        }
        guard queuedByteCount + pipeline.bytes.count <= configuration.maximumQueuedBytes else {
            throw .queueFull(limitBytes: configuration.maximumQueuedBytes)
        }
        write(pipeline, within: configuration.commandTimeout, completion)
    }

    /// Gives the connection up and makes a new one, for a server that turned out to be the wrong
    /// one: an old primary, say, whose name now leads elsewhere.
    public func reconnect(because error: RedisError) {
        loop.schedule(after: .zero) { [weak self] in self?.fail(error) }
    }

    /// Ends the connection for good. Commands without replies fail with ``RedisError/closed``.
    public func close() {
        guard state != .closed else { return }
        attempt?.cancel()
        attempt = nil
        state = .closed
        disconnect(.closed)
    }

    // MARK: - Connecting

    private func connect() {
        isInHandshake = true
        do throws(NetError) {
            stream = try ByteStream(
                to: configuration.remote, tls: tls, connectTimeout: configuration.connectTimeout,
                on: loop
            ) { [weak self] event in self?.handle(event) }
        } catch {
            let error = unreachable(error)
            loop.schedule(after: .zero) { [weak self] in self?.fail(error) }
        }
    }

    private func handle(_ event: ByteStream.Event) {
        switch event {
        case .opened: introduce()
        case .received(let bytes): receive(bytes)
        case .closed(let error):
            fail(isInHandshake ? unreachable(error) : .connectionLost(error))
        }
    }

    private func unreachable(_ error: NetError) -> RedisError {
        // What could not be connected to is part of some problems already.
        if case .connectFailed(let reason) = error, reason.hasPrefix("\(configuration.remote)") {
            return .notConnected(reason)
        }
        return .notConnected("\(configuration.remote): \(error)")
    }

    /// Says who we are. The last command tells a server that is not ready from one that is.
    private func introduce() {
        var pipeline = RedisPipeline()
        if let password = configuration.password {
            pipeline.begin("AUTH", argumentCount: configuration.username == nil ? 1 : 2)
            if let username = configuration.username { pipeline.add(username) }
            pipeline.add(password)
        }
        if configuration.database != 0 {
            pipeline.append("SELECT", String(configuration.database))
        }
        pipeline.append("PING")
        write(pipeline, within: configuration.connectTimeout) { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let replies):
                if let error = replies.firstError { return fail(.server(error)) }
                isInHandshake = false
                delay = configuration.reconnectDelay.lowerBound
                change(to: .ready)
            case .failure: break
            }
        }
    }

    private func fail(_ error: RedisError) {
        guard state != .closed, attempt == nil else { return }
        attemptLater(because: error)
        disconnect(error)
        stateChanged(state)
    }

    private func attemptLater(because error: RedisError) {
        state = .waiting(error)
        let pause = delay * Double.random(in: 0.5...1)
        delay = min(delay * 2, configuration.reconnectDelay.upperBound)
        attempt = loop.schedule(after: pause) { [weak self] in
            guard let self else { return }
            attempt = nil
            change(to: .connecting)
            connect()
        }
    }

    private func change(to new: State) {
        guard state != new else { return }
        state = new
        stateChanged(new)
    }

    /// Ends the connection, and what waits for it.
    private func disconnect(_ error: RedisError) {
        stream?.close()
        stream = nil
        timer?.cancel()
        timer = nil
        reader = ReplyReader()
        let failed = pending[head...]
        pending = []
        head = 0
        queuedByteCount = 0
        guard !failed.isEmpty else { return }
        loop.schedule(after: .zero) { for entry in failed { entry.completion(.failure(error)) } }
    }

    // MARK: - Commands and replies

    private func write(
        _ pipeline: RedisPipeline, within timeout: Duration,
        _ completion: @escaping (Result<RedisReplies, RedisError>) -> Void
    ) {
        precondition(pipeline.count > 0 && pipeline.isComplete, "commands must be complete")
        pending.append(
            Pending(
                count: pipeline.count, byteCount: pipeline.bytes.count, deadline: .now + timeout,
                completion: completion))
        queuedByteCount += pipeline.bytes.count
        stream?.write(pipeline.bytes)
        if timer == nil { watch() }
    }

    private func receive(_ bytes: UnsafeRawBufferPointer) {
        isTimerLast = false
        do throws(RedisError) {
            try reader.feed(bytes, maximumBytes: configuration.maximumReplyBytes)
        } catch {
            return fail(error)
        }
        while head < pending.count, reader.count >= pending[head].count {
            let entry = pending[head]
            head += 1
            queuedByteCount -= entry.byteCount
            if head == pending.count {
                pending.removeAll(keepingCapacity: true)
                head = 0
            }
            let reader = reader
            reader.take(entry.count) { entry.completion(.success($0)) }
            // The completion may have ended the connection.
            guard reader === self.reader else { return }
        }
        if pending.isEmpty, reader.count > 0 {
            fail(.malformedReply("a reply that nobody asked for"))
        }
    }

    /// Waits for the deadline of the first pipeline. A loop that was busy elsewhere finds replies in
    /// its socket only after its timers: the connection is given up one turn later.
    private func watch() {
        guard head < pending.count else {
            timer = nil
            return
        }
        let left = pending[head].deadline - .now
        if left > .zero { isTimerLast = false }
        if left <= .zero, isTimerLast { return fail(.timedOut) }
        isTimerLast = left <= .zero
        timer = loop.schedule(after: max(left, .zero)) { [weak self] in self?.watch() }
    }
}
