package import Core
import Foundation

/// A redis-server of a test's own, on a loopback address and on a Unix socket. Nothing is kept on
/// disk: a server that was killed comes back empty.
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
                "redis-server", "--port", "\(address.port)", "--bind", address.host,
                "--unixsocket", socketPath, "--dir", folder.path, "--save", "", "--appendonly",
                "no",
                "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
            ] + arguments
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
        let result = posix_spawnp(&pid, "redis-server", &actions, nil, &pointers, nil)
        guard result == 0 else { throw POSIXError(POSIXErrorCode(rawValue: result) ?? .ENOENT) }
        self.pid = pid
    }

    /// Ends the server as a crash would.
    package func kill() {
        guard let pid else { return }
        self.pid = nil
        Foundation.kill(pid, SIGKILL)
        while waitpid(pid, nil, 0) < 0, errno == EINTR {}
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
