import Core
public import Net

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Starts the processes of a plan, restarts those that die, and stops them all.
///
/// Children die with this process, even after kill -9. Runs on one event loop.
public actor StackSupervisor {
    /// What happened to a child of a running stack.
    public enum Event: Sendable {
        /// It ended although nobody asked it to; it is restarted.
        case exited(name: String, reason: String)
        /// It runs again and answers.
        case restarted(name: String, pid: Int32)
        /// It wrote a line to its standard output or standard error.
        case said(name: String, line: String)
    }

    /// A child as it runs now.
    private struct Running {
        var process: Subprocess
        var startedAt: MonotonicTime
        var isReady = false
        var lastLine: String?
    }

    private enum State {
        case idle, starting, running, stopping
    }

    /// What is started.
    public let plan: StackPlan

    private let executable: String
    private let loop: EventLoop
    private let client: HTTPClient
    private let report: @Sendable (Event) -> Void
    private var state = State.idle
    private var running: [String: Running] = [:]
    private var failures: [String: Int] = [:]
    private var startFailure: StackError?
    private var waiter: CheckedContinuation<Void, Never>?

    /// What a child prints on its standard output, as a line of its own, once it serves.
    public static let readyLine = "ready"

    /// A child that lived longer starts again without a longer delay.
    private static let provenLife = Duration.seconds(10)
    private static let startDeadline = Duration.seconds(20)
    private static let stopDeadline = Duration.seconds(10)
    private static let killDeadline = Duration.seconds(1)
    private static let restartDelays: [Duration] = [
        .milliseconds(200), .milliseconds(500), .seconds(1), .seconds(2), .seconds(5),
    ]

    /// The supervisor runs on its loop.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        loop.asUnownedSerialExecutor()
    }

    /// Makes a supervisor; nothing starts yet.
    ///
    /// - Parameters:
    ///   - executable: The path of the `llmd` binary.
    ///   - report: Called on the loop.
    public init(
        plan: StackPlan, executable: String, on loop: EventLoop,
        report: @escaping @Sendable (Event) -> Void
    ) {
        self.plan = plan
        self.executable = executable
        self.loop = loop
        self.report = report
        client = HTTPClient(on: loop)
    }

    /// Starts every child and waits until all have said ``readyLine``.
    ///
    /// - Returns: The process ids by name; nil if ``stop()`` was called meanwhile.
    /// - Throws: The first failure; everything that had started is stopped by then.
    public func start() async throws(StackError) -> [String: Int32]? {
        state = .starting
        do {
            // Engines first: a gateway that meets a closed port avoids it for a while.
            let (engines, others) = (plan.engines, plan.children.filter { $0.kind != .engine })
            for group in [engines, others] where state == .starting {
                for child in group { try spawn(child) }
                try await waitUntilReady(group)
            }
        } catch {
            await stop()
            throw error
        }
        guard state == .starting else { return nil }
        state = .running
        return running.mapValues(\.process.pid)
    }

    /// Asks the children to end, in the reverse order of their start, and kills those that do not
    /// within ten seconds.
    public func stop() async {
        guard state != .stopping else { return }
        state = .stopping
        wake()
        let deadline = MonotonicTime.now + Self.stopDeadline
        for kind in [StackPlan.Child.Kind.gateway, .sidecar, .engine] {
            let names = plan.children.filter { $0.kind == kind }.map(\.name)
            for name in names { running[name]?.process.kill(signal: SIGTERM) }
            while names.contains(where: { running[$0] != nil }) {
                guard await change(before: deadline) == .timedOut else { continue }
                for name in names { running[name]?.process.kill(signal: SIGKILL) }
                _ = await change(before: .now + Self.killDeadline)
            }
        }
        client.shutdown()
    }

    /// What the processes count now; nil unless all were started and none was asked to stop.
    public func metrics() async -> StackMetrics? {
        guard state == .running else { return nil }
        let metrics = await StackMetrics.read(of: plan, client: client)
        return state == .running ? metrics : nil
    }

    private func spawn(_ child: StackPlan.Child) throws(StackError) {
        let name = child.name
        do {
            let process = try Subprocess(
                executable, arguments: child.arguments,
                standardOutput: .lines { [weak self] line in
                    self?.assumeIsolated { $0.printed(name, line) }
                },
                standardError: .lines { [weak self] line in
                    self?.assumeIsolated { $0.said(name, line) }
                },
                diesWithParent: true, on: loop,
                onExit: { [weak self] exit in
                    self?.assumeIsolated { $0.exited(child, exit) }
                })
            running[name] = Running(process: process, startedAt: .now)
        } catch {
            throw .cannotSpawn(name: name, reason: "\(error)")
        }
    }

    private func said(_ name: String, _ line: String) {
        running[name]?.lastLine = line
        if state == .running { report(.said(name: name, line: line)) }
    }

    private func printed(_ name: String, _ line: String) {
        guard line == Self.readyLine else {
            if state == .running { report(.said(name: name, line: line)) }
            return
        }
        guard let process = running[name]?.process else { return }
        running[name]?.isReady = true
        wake()
        if state == .running { report(.restarted(name: name, pid: process.pid)) }
    }

    private func exited(_ child: StackPlan.Child, _ exit: Subprocess.Exit) {
        let ended = running.removeValue(forKey: child.name)
        wake()
        switch state {
        case .starting:
            startFailure =
                startFailure
                ?? .childDied(name: child.name, status: "\(exit)", lastLine: ended?.lastLine)
        case .running:
            report(.exited(name: child.name, reason: "\(exit)"))
            if let ended, MonotonicTime.now - ended.startedAt > Self.provenLife {
                failures[child.name] = 0
            }
            restart(child)
        case .idle, .stopping:
            break
        }
    }

    private func restart(_ child: StackPlan.Child) {
        let failure = failures[child.name, default: 0]
        failures[child.name] = failure + 1
        let delay = Self.restartDelays[min(failure, Self.restartDelays.count - 1)]
        loop.schedule(after: delay) { [weak self] in
            self?.assumeIsolated { supervisor in
                guard supervisor.state == .running else { return }
                do {
                    try supervisor.spawn(child)
                } catch {
                    supervisor.report(.said(name: child.name, line: "\(error)"))
                    supervisor.restart(child)
                }
            }
        }
    }

    /// Returns early when the stack is stopped.
    private func waitUntilReady(_ group: [StackPlan.Child]) async throws(StackError) {
        let deadline = MonotonicTime.now + Self.startDeadline
        while state == .starting {
            if let startFailure { throw startFailure }
            let missing = group.first { running[$0.name]?.isReady != true }
            guard let missing else { return }
            guard await change(before: deadline) == .changed else {
                throw .notReady(
                    name: missing.name, seconds: Int(Self.startDeadline.components.seconds))
            }
        }
    }

    // MARK: - Waiting

    private enum Wait {
        case changed, timedOut
    }

    /// Waits until a child is ready or ends, or the stack is to stop. One task at a time waits:
    /// `stop` wakes `start`, which waits no more.
    private func change(before deadline: MonotonicTime) async -> Wait {
        let timer = loop.schedule(after: max(deadline - .now, .zero)) { [weak self] in
            self?.assumeIsolated { $0.wake() }
        }
        await withCheckedContinuation { waiter = $0 }
        timer.cancel()
        return MonotonicTime.now < deadline ? .changed : .timedOut
    }

    private func wake() {
        waiter?.resume()
        waiter = nil
    }
}
