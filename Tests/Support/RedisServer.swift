package import Core
import Foundation
import Synchronization

/// A redis-server of a test's own, on a loopback address and on a Unix socket. Nothing is kept on
/// disk: a server that was killed comes back empty. It ends with this process, however that ends.
///
/// Unchecked: a test uses it from one task at a time.
package final class RedisServer: @unchecked Sendable {
    /// Where it listens, the same after a restart.
    package let address = SocketAddress.ownLoopback(port: 6379)
    /// The path of the Unix socket.
    package var socketPath: String { folder.appending(path: "s").path }

    private let folder: URL
    private let arguments: [String]
    private var pid: pid_t?
    /// Lets the thread go that started the server.
    private var starter: DispatchSemaphore?

    /// Starts a server; it may not listen yet.
    package init(_ arguments: [String] = []) throws {
        self.arguments = arguments
        folder = FileManager.default.temporaryDirectory
            .appending(path: "llmd-redis-\(UInt64.random(in: 0 ... .max))")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try start()
    }

    deinit {
        kill()
        try? FileManager.default.removeItem(at: folder)
    }

    /// Starts the server again after ``kill()``.
    package func start() throws {
        let words =
            [
                "setpriv", "--pdeathsig", "KILL", "--", "redis-server", "--port", "\(address.port)",
                "--bind", address.host,
                "--unixsocket", socketPath, "--dir", folder.path, "--save", "", "--appendonly",
                "no",
                "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
            ] + arguments
        // The kernel ends the server with the thread that starts it, so this one waits.
        let hasStarted = DispatchSemaphore(value: 0)
        let mayEnd = DispatchSemaphore(value: 0)
        let result = Mutex<Result<pid_t, POSIXError>>(.failure(POSIXError(.ECHILD)))
        Thread.detachNewThread {
            let spawned = Self.spawn(words)
            result.withLock { $0 = spawned }
            hasStarted.signal()
            if case .success = spawned { mayEnd.wait() }
        }
        hasStarted.wait()
        starter = mayEnd
        pid = try result.withLock { try $0.get() }
    }

    private static func spawn(_ words: [String]) -> Result<pid_t, POSIXError> {
        // Not Foundation's Process: started from several threads at once it overruns its own
        // memory, and it waits on a run loop.
        var pointers: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer {
            for pointer in pointers { free(pointer) }
            posix_spawn_file_actions_destroy(&actions)
        }
        for descriptor in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        // What other tests have open would stay open as long as this server runs.
        for descriptor in STDERR_FILENO + 1..<1024 {
            posix_spawn_file_actions_addclose(&actions, descriptor)
        }
        var pid: pid_t = 0
        let result = posix_spawnp(&pid, words[0], &actions, nil, &pointers, nil)
        guard result == 0 else {
            return .failure(POSIXError(POSIXErrorCode(rawValue: result) ?? .ENOENT))
        }
        return .success(pid)
    }

    /// Ends the server as a crash would.
    package func kill() {
        guard let pid else { return }
        self.pid = nil
        Foundation.kill(pid, SIGKILL)
        while waitpid(pid, nil, 0) < 0, errno == EINTR {}
        starter?.signal()
    }

    /// Stops the server in the middle of what it does.
    package func suspend() {
        if let pid { Foundation.kill(pid, SIGSTOP) }
    }

    /// Lets the server go on.
    package func resume() {
        if let pid { Foundation.kill(pid, SIGCONT) }
    }

    /// CPU time that the server has used, in nanoseconds.
    package func cpuNanoseconds() throws -> UInt64 {
        guard let pid else { return 0 }
        let text = try String(contentsOfFile: "/proc/\(pid)/schedstat", encoding: .utf8)
        return text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0
    }
}
