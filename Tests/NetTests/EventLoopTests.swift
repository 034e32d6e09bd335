import Foundation
import Net
import Synchronization
import Testing

@Suite(.serialized) struct EventLoopTests {
    let loop: EventLoop

    init() throws {
        loop = try EventLoop.start(name: "loop")
    }

    @Test func executesInOrderFromManyThreads() throws {
        defer { loop.shutdown() }
        let inbox = Inbox<(thread: Int, index: Int)>()
        for thread in 0..<4 {
            Thread.detachNewThread { [loop] in
                for index in 0..<1000 {
                    loop.execute { inbox.put((thread, index)) }
                }
            }
        }
        var next = [0, 0, 0, 0]
        for _ in 0..<4000 {
            let (thread, index) = try inbox.next()
            #expect(index == next[thread])
            next[thread] += 1
        }
        let isCurrent = try loop.run { [loop] in loop.isCurrent }
        #expect(isCurrent)
        #expect(!loop.isCurrent)
    }

    @Test func timersFireInOrderAndNeverEarly() throws {
        defer { loop.shutdown() }
        let inbox = Inbox<(delay: Int, waited: Duration)>()
        loop.execute { [loop] in
            let start = ContinuousClock.now
            for delay in [30, 10, 20, 0, 10] {
                loop.schedule(after: .milliseconds(delay)) {
                    inbox.put((delay, ContinuousClock.now - start))
                }
            }
            loop.schedule(after: .milliseconds(15)) { inbox.put((15, .seconds(1))) }.cancel()
        }
        for expected in [0, 10, 10, 20, 30] {
            let (delay, waited) = try inbox.next()
            #expect(delay == expected)
            #expect(waited >= .milliseconds(expected))
        }
    }

    @Test func repeatingTimerStopsWhenCancelled() throws {
        defer { loop.shutdown() }
        let inbox = Inbox<Int>()
        loop.execute { [loop] in
            var count = 0
            var timer: Net.Timer?
            timer = loop.schedule(every: .milliseconds(2)) {
                count += 1
                inbox.put(count)
                if count == 3 {
                    timer?.cancel()
                    loop.schedule(after: .milliseconds(20)) { inbox.put(-1) }
                }
            }
        }
        for expected in [1, 2, 3, -1] { #expect(try inbox.next() == expected) }
    }

    @Test func readableDescriptorIsReportedUntilCancelled() throws {
        defer { loop.shutdown() }
        var ends: [Int32] = [0, 0]
        #expect(pipe(&ends) == 0)
        let (reader, writer) = (ends[0], ends[1])
        defer {
            close(reader)
            close(writer)
        }
        let inbox = Inbox<UInt8>()
        loop.execute { [loop] in
            var watcher: FileWatcher?
            watcher = try? loop.watchReadable(reader) {
                var byte: UInt8 = 0
                read(reader, &byte, 1)
                inbox.put(byte)
                if byte == 2 { watcher?.cancel() }
            }
        }
        write(writer, [1, 2, 3] as [UInt8], 3)
        #expect(try inbox.next() == 1)
        #expect(try inbox.next() == 2)
        try loop.run {}
        try loop.run {}
        #expect(inbox.isEmpty)
    }

    @Test func badDescriptorIsAnError() throws {
        defer { loop.shutdown() }
        let failed = try loop.run { [loop] in
            (try? loop.watchReadable(9999) {}) == nil
        }
        #expect(failed)
    }

    @Test func signalsReachTheLoop() throws {
        defer { loop.shutdown() }
        let inbox = Inbox<Int32>()
        try loop.run { [loop] in
            _ = try? SignalWatcher([SIGUSR1, SIGUSR2], on: loop) { inbox.put($0) }
        }
        kill(getpid(), SIGUSR2)
        #expect(try inbox.next() == SIGUSR2)
        kill(getpid(), SIGUSR1)
        #expect(try inbox.next() == SIGUSR1)
    }

    @Test func actorsRunOnTheirLoop() async throws {
        defer { loop.shutdown() }
        actor Resident {
            let loop: EventLoop
            nonisolated var unownedExecutor: UnownedSerialExecutor {
                loop.asUnownedSerialExecutor()
            }
            init(_ loop: EventLoop) { self.loop = loop }
            func isHome() -> Bool { loop.isCurrent }
        }
        let resident = Resident(loop)
        #expect(await resident.isHome())
    }

    @Test func shutdownRunsWhatWasExecutedBefore() throws {
        let count = Mutex(0)
        for _ in 0..<100 { loop.execute { count.withLock { $0 += 1 } } }
        loop.shutdown()
        #expect(count.withLock { $0 } == 100)
        let isAccepted = loop.execute {}
        #expect(!isAccepted)
        loop.shutdown()
    }
}

@Suite(.serialized) struct SubprocessTests {
    let loop: EventLoop

    init() throws {
        loop = try EventLoop.start(name: "loop")
    }

    enum Event: Sendable, Equatable {
        case line(String)
        case error(String)
        case exit(Subprocess.Exit)
    }

    private func spawn(
        _ script: String, environment: [String: String]? = nil,
        then: @escaping @Sendable (Subprocess) -> Void = { _ in }
    ) -> Inbox<Event> {
        let inbox = Inbox<Event>()
        loop.execute { [loop] in
            let process = try? Subprocess(
                "/bin/sh", arguments: ["-c", script], environment: environment,
                standardOutput: .lines { inbox.put(.line($0)) },
                standardError: .lines { inbox.put(.error($0)) }, on: loop
            ) { inbox.put(.exit($0)) }
            if let process { then(process) }
        }
        return inbox
    }

    @Test func linesAndExitCode() throws {
        defer { loop.shutdown() }
        let inbox = spawn("echo one; echo $X; printf tail; exit 3", environment: ["X": "two"])
        #expect(try inbox.next() == .line("one"))
        #expect(try inbox.next() == .line("two"))
        #expect(try inbox.next() == .line("tail"))
        #expect(try inbox.next() == .exit(Subprocess.Exit(code: 3, signal: 0)))
    }

    @Test func errorOutputIsSeparate() throws {
        defer { loop.shutdown() }
        let inbox = spawn("echo bad >&2")
        #expect(try inbox.next() == .error("bad"))
        #expect(try inbox.next() == .exit(Subprocess.Exit(code: 0, signal: 0)))
    }

    @Test func killedChildReportsTheSignal() throws {
        defer { loop.shutdown() }
        let inbox = spawn("echo up; exec sleep 100") { process in
            nonisolated(unsafe) let process = process
            process.kill(signal: SIGTERM)
        }
        var event = try inbox.next()
        if event == .line("up") { event = try inbox.next() }
        #expect(event == .exit(Subprocess.Exit(code: 0, signal: SIGTERM)))
    }

    @Test func missingProgramIsAnError() throws {
        defer { loop.shutdown() }
        let error = try loop.run { [loop] () -> NetError? in
            do throws(NetError) {
                _ = try Subprocess("/no/such/program", arguments: [], on: loop) { _ in }
                return nil
            } catch {
                return error
            }
        }
        #expect(error == .notFound("/no/such/program"))
    }

    @Test func loopKillsItsChildren() throws {
        let pids = Inbox<Int32>()
        let inbox = spawn("exec sleep 100") { pids.put($0.pid) }
        let pid = try pids.next()
        loop.shutdown()
        #expect(try inbox.next() == .exit(Subprocess.Exit(code: 0, signal: SIGKILL)))
        // Nobody waits for it any more but this process.
        var status: Int32 = 0
        waitpid(pid, &status, 0)
        #expect(kill(pid, 0) != 0)
    }
}
