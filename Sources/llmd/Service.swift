import ArgumentParser
import Core
import Foundation
import Logging
import Net
import Stack
import Telemetry

/// Options of every role that serves.
struct ServiceOptions: ParsableArguments {
    @Option(help: "The address to listen on.")
    var host = "0.0.0.0"

    @Option(help: "Event loops, each a thread; 0: one per core.")
    var loops = 0

    @Option(help: "The least severe messages to log: trace, debug, info, warning, error.")
    var logLevel: Logger.Level = .info

    @Option(help: "How log lines look: text or json.")
    var logFormat: LineLogHandler.Format = .text

    @Option(help: "How long running requests may take to end after SIGTERM, in seconds.")
    var drainTimeout = 30.0

    var drainDeadline: Duration { Duration(seconds: drainTimeout) }

    func validate() throws {
        guard (0...1024).contains(loops) else {
            throw ValidationError("--loops must be from 0 to 1024")
        }
        guard drainTimeout >= 0, drainTimeout <= 86_400 else {
            throw ValidationError("--drain-timeout must be from 0 to 86400")
        }
    }

    /// Sets up logging and starts the loops.
    func start(_ role: String) throws -> EventLoopGroup {
        let level = SharedLogLevel(logLevel)
        let format = logFormat
        LoggingSystem.bootstrap { label in
            LineLogHandler(label: label, format: format, level: level)
        }
        let cores = ProcessInfo.processInfo.activeProcessorCount
        return try EventLoopGroup(count: loops == 0 ? cores : loops, name: role)
    }

    func address(_ port: UInt16) -> SocketAddress {
        SocketAddress(host: host, port: port)
    }
}

/// SIGTERM or SIGINT, from now on.
struct StopSignal: Sendable {
    private let signals: AsyncStream<Int32>

    /// Starts to watch; the signals do not end the process by themselves any more.
    init(on loop: EventLoop) async throws {
        let (signals, stream) = AsyncStream.makeStream(of: Int32.self)
        try await withCheckedThrowingContinuation {
            (watching: CheckedContinuation<Void, any Error>) in
            loop.execute {
                do {
                    _ = try SignalWatcher([SIGTERM, SIGINT], on: loop) { stream.yield($0) }
                    watching.resume()
                } catch {
                    watching.resume(throwing: error)
                }
            }
        }
        self.signals = signals
    }

    /// Waits for the first signal.
    func wait() async {
        for await _ in signals { return }
    }

    /// Tells people and supervisors that the role serves, and waits for the first signal.
    func serve() async {
        FileHandle.standardOutput.write(Data("\(StackSupervisor.readyLine)\n".utf8))
        await wait()
    }
}
