import Foundation

/// A redis-server of a test's own, on a free port of 127.0.0.1 and on a Unix socket. Nothing is
/// kept on disk: a server that was killed comes back empty.
///
/// Unchecked: a test uses it from one task at a time.
package final class RedisServer: @unchecked Sendable {
    /// The port, the same after a restart.
    package let port: UInt16
    /// The path of the Unix socket.
    package var socketPath: String { folder.appending(path: "s").path }

    private let folder: URL
    private let arguments: [String]
    private var process: Process?

    /// Starts a server; it may not listen yet.
    package init(_ arguments: [String] = []) throws {
        self.arguments = arguments
        port = try Self.freePort()
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
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments =
            [
                "redis-server", "--port", "\(port)", "--bind", "127.0.0.1", "--unixsocket",
                socketPath, "--dir", folder.path, "--save", "", "--appendonly", "no",
                "--repl-diskless-sync-delay", "0", "--enable-debug-command", "yes",
            ] + arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        process.standardInput = FileHandle.nullDevice
        try process.run()
        self.process = process
    }

    /// Ends the server as a crash would.
    package func kill() {
        guard let process else { return }
        self.process = nil
        Foundation.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// Stops the server in the middle of what it does.
    package func suspend() {
        if let process { Foundation.kill(process.processIdentifier, SIGSTOP) }
    }

    /// Lets the server go on.
    package func resume() {
        if let process { Foundation.kill(process.processIdentifier, SIGCONT) }
    }

    /// CPU time that the server has used, in nanoseconds.
    package func cpuNanoseconds() throws -> UInt64 {
        guard let process else { return 0 }
        let text = try String(
            contentsOfFile: "/proc/\(process.processIdentifier)/schedstat", encoding: .utf8)
        return text.split(separator: " ").first.flatMap { UInt64($0) } ?? 0
    }

    /// A port that nobody listens on now.
    package static func freePort() throws -> UInt16 {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(fd) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = in_addr_t(0x7f00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutableBytes(of: &address) { bytes in
            let pointer = bytes.assumingMemoryBound(to: sockaddr.self).baseAddress
            return bind(fd, pointer, size) == 0 ? getsockname(fd, pointer, &size) : -1
        }
        guard result == 0 else { throw POSIXError(.EADDRNOTAVAIL) }
        return UInt16(bigEndian: address.sin_port)
    }
}
