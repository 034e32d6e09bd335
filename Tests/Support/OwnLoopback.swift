package import Core
import Synchronization

private let hostCount = Atomic(UInt32.random(in: 0...UInt32.max))

extension SocketAddress {
    /// An address of 127.0.0.0/8 that no other call gets: nobody else listens there, not even
    /// after a server of the caller's has left it. Port 0 takes any.
    package static func ownLoopback(port: UInt16 = 0) -> SocketAddress {
        // Not below 127.1.0.0: real services are there.
        let number = hostCount.wrappingAdd(1, ordering: .relaxed).newValue % (254 << 16)
        let host = "127.\(1 + number >> 16).\(number >> 8 & 255).\(number & 255)"
        return SocketAddress(host: host, port: port)
    }
}
