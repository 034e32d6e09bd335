import Foundation

/// Ports of the loopback address on which nobody listens now, for programs that must be told one.
public func freePorts(_ count: Int) throws -> [UInt16] {
    // All are held until all are found, so that they differ.
    var sockets: [Int32] = []
    defer { for socket in sockets { close(socket) } }
    return try (0..<count).map { _ in
        let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        sockets.append(socket)
        var (address, length) = loopback(port: 0)
        let isBound = withSocketAddress(&address) {
            bind(socket, $0, length) == 0 && getsockname(socket, $0, &length) == 0
        }
        guard isBound else { throw PerfError("no free port") }
        return UInt16(bigEndian: address.sin_port)
    }
}

/// Waits until a program that does not tell listens on a port, 30 seconds at most.
public func waitForListener(on port: UInt16) throws {
    for _ in 0..<3000 {
        let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(socket) }
        var (address, length) = loopback(port: port)
        if withSocketAddress(&address, { connect(socket, $0, length) == 0 }) { return }
        usleep(10_000)
    }
    throw PerfError("nothing listens on port \(port)")
}

private func loopback(port: UInt16) -> (sockaddr_in, socklen_t) {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = INADDR_LOOPBACK.bigEndian
    address.sin_port = port.bigEndian
    return (address, socklen_t(MemoryLayout<sockaddr_in>.size))
}

private func withSocketAddress<Result>(
    _ address: inout sockaddr_in, _ body: (UnsafeMutablePointer<sockaddr>) -> Result
) -> Result {
    withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1, body)
    }
}
