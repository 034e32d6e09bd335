package import Core
import Foundation
import Synchronization

/// A Unix socket in front of a server on loopback: what comes on either side goes to the other.
package final class UnixForwarder: Sendable {
    /// The path of the socket, which is the caller's own.
    package let path: String
    private let folder: URL
    private let listener: Int32

    /// Listens from now on.
    package init(to address: SocketAddress) throws {
        folder = FileManager.default.temporaryDirectory
            .appending(path: "llmd-unix-\(UInt64.random(in: 0 ... .max))")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        path = folder.appending(path: "s").path
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var local = sockaddr_un()
        local.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &local.sun_path) { $0.copyBytes(from: path.utf8) }
        guard bind(listener, of: &local) == 0, listen(listener, 16) == 0 else {
            throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
        }
        var remote = sockaddr_in()
        remote.sin_family = sa_family_t(AF_INET)
        remote.sin_port = address.port.bigEndian
        inet_pton(AF_INET, address.host, &remote.sin_addr)
        let (listener, target) = (listener, remote)
        Thread.detachNewThread {
            while true {
                let near = accept(listener, nil, nil)
                guard near >= 0 else { return }
                var target = target
                let far = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
                guard connect(far, to: &target) == 0 else {
                    close(near)
                    close(far)
                    continue
                }
                Self.join(near, far)
            }
        }
    }

    /// Takes no further connections, and leaves no socket behind.
    package func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        try? FileManager.default.removeItem(at: folder)
    }

    deinit { close(listener) }

    /// Copies both ways; an end of one side is the end of both.
    private static func join(_ one: Int32, _ other: Int32) {
        let running = Running()
        for (source, sink) in [(one, other), (other, one)] {
            Thread.detachNewThread {
                var bytes = [UInt8](repeating: 0, count: 4096)
                while true {
                    let count = recv(source, &bytes, bytes.count, 0)
                    guard count > 0, send(sink, bytes, count, Int32(MSG_NOSIGNAL)) == count
                    else { break }
                }
                shutdown(one, Int32(SHUT_RDWR))
                shutdown(other, Int32(SHUT_RDWR))
                if running.endOne() == 0 {
                    close(one)
                    close(other)
                }
            }
        }
    }

    private final class Running: Sendable {
        private let count = Atomic(2)
        func endOne() -> Int { count.wrappingSubtract(1, ordering: .relaxed).newValue }
    }
}

private func bind(_ descriptor: Int32, of address: inout sockaddr_un) -> Int32 {
    withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
    }
}

private func connect(_ descriptor: Int32, to address: inout sockaddr_in) -> Int32 {
    withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
}
