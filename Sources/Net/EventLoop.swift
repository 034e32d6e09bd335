internal import CNet
internal import Synchronization

/// One thread that runs an event loop. Everything of this room lives and dies on one loop: it is
/// made there, called there, and calls back there.
///
/// A running loop keeps itself alive; ``shutdown()`` ends it.
public final class EventLoop: Sendable {
    // Proof for the annotation: set once, freed in deinit, and the C side takes calls from every
    // thread where this class makes them from every thread.
    nonisolated(unsafe) let handle: OpaquePointer
    private let mailbox: Mailbox

    private init(handle: OpaquePointer, mailbox: Mailbox) {
        self.handle = handle
        self.mailbox = mailbox
    }

    deinit {
        cn_loop_destroy(handle)
    }

    /// Starts a loop on a thread of its own, called `name` (15 bytes of it are kept).
    ///
    /// Ignores SIGPIPE for the whole process.
    public static func start(name: String) throws(NetError) -> EventLoop {
        let mailbox = Mailbox()
        let user = Unmanaged.passRetained(mailbox)
        var handle: OpaquePointer?
        let status = cn_loop_start(
            name,
            { user in
                Unmanaged<Mailbox>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue().drain()
            },
            { user in
                Unmanaged<Mailbox>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue().release()
            },
            user.toOpaque(), &handle)
        guard status == CN_OK, let handle else {
            user.release()
            throw NetError(status)
        }
        let loop = EventLoop(handle: handle, mailbox: mailbox)
        mailbox.keep(loop)
        return loop
    }

    /// Runs `body` on the loop, after everything executed before it. Any thread.
    ///
    /// - Returns: False, and `body` never runs, once ``shutdown()`` was called.
    @discardableResult
    public func execute(_ body: @escaping @Sendable () -> Void) -> Bool {
        guard let isFirst = mailbox.add(body) else { return false }
        if isFirst { cn_loop_wake(handle) }
        return true
    }

    /// Whether the calling thread is the loop's. Any thread.
    public var isCurrent: Bool { cn_loop_is_current(handle) }

    /// Stops the process if the calling thread is not the loop's.
    public func preconditionInLoop() {
        precondition(isCurrent, "called outside of its event loop")
    }

    /// Runs `body` once, not before `delay` has passed. On the loop.
    @discardableResult
    public func schedule(after delay: Duration, _ body: @escaping () -> Void) -> Timer {
        Timer(on: self, after: delay, every: nil, body)
    }

    /// Runs `body` every `interval`, first after one interval, until cancelled. On the loop.
    @discardableResult
    public func schedule(every interval: Duration, _ body: @escaping () -> Void) -> Timer {
        Timer(on: self, after: interval, every: interval, body)
    }

    /// Runs `body` in every turn in which `fd` is readable or broken (level-triggered), until
    /// cancelled. The caller keeps `fd` open meanwhile. On the loop.
    public func watchReadable(_ fd: Int32, _ body: @escaping () -> Void) throws(NetError)
        -> FileWatcher
    {
        try FileWatcher(on: self, fd, body)
    }

    /// Ends the loop: what was executed before still runs, what is open ends with
    /// ``NetError/cancelled``; then waits for the thread. Any thread but the loop's own; a second
    /// call does nothing.
    public func shutdown() {
        precondition(!isCurrent, "an event loop cannot wait for its own end")
        guard mailbox.close() else { return }
        cn_loop_stop(handle)
        cn_loop_join(handle)
    }
}

/// The closures on their way to a loop, and the loop's reference to itself.
private final class Mailbox: Sendable {
    private struct State {
        var bodies: [@Sendable () -> Void] = []
        var owner: EventLoop?
        var isClosed = false
    }

    private let state = Mutex(State())

    func keep(_ loop: EventLoop) {
        state.withLock { $0.owner = loop }
    }

    func release() {
        let owner = state.withLock { state in
            defer { state.owner = nil }
            return state.owner
        }
        withExtendedLifetime(owner) {}
    }

    /// Whether the mailbox was empty before; nil if it is closed.
    func add(_ body: @escaping @Sendable () -> Void) -> Bool? {
        state.withLock { state in
            if state.isClosed { return nil }
            state.bodies.append(body)
            return state.bodies.count == 1
        }
    }

    /// False if it was closed already.
    func close() -> Bool {
        state.withLock { state in
            defer { state.isClosed = true }
            return !state.isClosed
        }
    }

    func drain() {
        let bodies = state.withLock { state in
            let bodies = state.bodies
            state.bodies = []
            return bodies
        }
        for body in bodies { body() }
    }
}

/// Some loops, handed out in turn.
public final class EventLoopGroup: Sendable {
    /// The loops; never empty.
    public let loops: [EventLoop]
    private let turn = Atomic<Int>(0)

    /// Starts `count` loops, called `name-0`, `name-1` and so on.
    public init(count: Int, name: String) throws(NetError) {
        precondition(count > 0, "an event loop group needs a loop")
        var loops: [EventLoop] = []
        for index in 0..<count {
            do throws(NetError) {
                loops.append(try EventLoop.start(name: "\(name)-\(index)"))
            } catch {
                for loop in loops { loop.shutdown() }
                throw error
            }
        }
        self.loops = loops
    }

    /// The next loop in turn. Any thread.
    public func next() -> EventLoop {
        let index = turn.wrappingAdd(1, ordering: .relaxed).oldValue
        return loops[Int(UInt(bitPattern: index) % UInt(loops.count))]
    }

    /// Ends every loop and waits for it. Any thread but the loops' own.
    public func shutdown() {
        for loop in loops { loop.shutdown() }
    }
}
