package import Core

/// The places where other routers may be: which is connected to, and when one is tried again. No
/// I/O. Loop-bound.
///
/// Two places can be one router, as the IPv4 and the IPv6 address of a name are. The first to greet
/// is followed; the other one is not tried again while that connection lasts.
package struct ReplicaPeers {
    private enum State: Equatable {
        /// Not connected; to be tried again.
        case waiting
        case connected(Int, router: UInt64?)
        case duplicate(of: UInt64)
        /// This router itself.
        case own
    }

    private struct Peer {
        var state = State.waiting
        var delay: Duration
        var problem: ReplicaError?
        /// When a router was last heard there; before, when it was first looked for.
        var heardAt: MonotonicTime
    }

    /// A place to be tried again.
    package struct Retry: Equatable {
        package var address: SocketAddress
        package var delay: Duration
    }

    /// What follows from the end of a connection.
    package struct End {
        /// Where it led; nil if it was none of these.
        package var address: SocketAddress?
        /// Whether people should know.
        package var isNews = false
        package var retries: [Retry] = []
    }

    private let delays: ClosedRange<Duration>
    private var peers: [SocketAddress: Peer] = [:]

    /// `delays`: how soon and how late a lost peer is tried again.
    package init(delays: ClosedRange<Duration>) {
        self.delays = delays
    }

    /// Takes a list over. Returns what is new and to be tried, and the connections to what is gone.
    package mutating func replace(
        with addresses: [SocketAddress], at now: MonotonicTime
    ) -> (new: [SocketAddress], gone: [Int], retries: [Retry]) {
        var gone: [Int] = []
        var retries: [Retry] = []
        for (address, peer) in peers where !addresses.contains(address) {
            peers[address] = nil
            guard case .connected(let id, let router) = peer.state else { continue }
            gone.append(id)
            if let router { retries += tryDuplicates(of: router) }
        }
        var new: [SocketAddress] = []
        for address in addresses where peers[address] == nil {
            peers[address] = Peer(delay: delays.lowerBound, heardAt: now)
            new.append(address)
        }
        return (new, gone, retries.filter { addresses.contains($0.address) })
    }

    /// A connection was opened. False if the place is none any more, or has one.
    package mutating func connect(_ address: SocketAddress, as id: Int) -> Bool {
        guard let peer = peers[address] else { return false }
        if case .connected = peer.state { return false }
        peers[address]?.state = .connected(id, router: nil)
        return true
    }

    /// A router has greeted; where.
    package mutating func greeted(_ id: Int, _ router: UInt64) -> SocketAddress? {
        guard let address = address(of: id) else { return nil }
        peers[address]?.state = .connected(id, router: router)
        peers[address]?.delay = delays.lowerBound
        peers[address]?.problem = nil
        return address
    }

    /// A connection ended.
    package mutating func ended(_ id: Int, _ error: ReplicaError) -> End {
        guard let address = address(of: id), var peer = peers[address],
            case .connected(_, let router) = peer.state
        else { return End() }
        var end = End(address: address)
        switch error {
        case .duplicate(let router) where isFollowed(router): peer.state = .duplicate(of: router)
        case .itself:
            peer.state = .own
            // The address may become another's, but seldom.
            end.retries.append(Retry(address: address, delay: delays.upperBound * 6))
        default:
            peer.state = .waiting
            end.isNews = error != peer.problem
            end.retries.append(Retry(address: address, delay: Self.spread(peer.delay)))
            peer.delay = min(peer.delay * 2, delays.upperBound)
        }
        peer.problem = error
        peers[address] = peer
        if let router { end.retries += tryDuplicates(of: router) }
        return end
    }

    /// Time passes; `heard` tells when something was heard last on a connection.
    package mutating func tick(_ heard: (Int) -> MonotonicTime?) {
        for (address, peer) in peers {
            guard case .connected(let id, _) = peer.state, let time = heard(id) else { continue }
            peers[address]?.heardAt = time
        }
    }

    /// When each router was last heard, by its place; this one itself, and what is followed
    /// elsewhere, is not among them.
    package var heardAt: [SocketAddress: MonotonicTime] {
        peers.filter {
            switch $0.value.state {
            case .waiting, .connected: true
            case .duplicate, .own: false
            }
        }
        .mapValues(\.heardAt)
    }

    private func address(of id: Int) -> SocketAddress? {
        peers.first { _, peer in
            if case .connected(id, _) = peer.state { true } else { false }
        }?.key
    }

    private func isFollowed(_ router: UInt64) -> Bool {
        peers.values.contains { peer in
            if case .connected(_, router) = peer.state { true } else { false }
        }
    }

    /// The router at several places is not followed any more: it may be at any of them.
    private mutating func tryDuplicates(of router: UInt64) -> [Retry] {
        peers.filter { $0.value.state == .duplicate(of: router) }.keys.map { address in
            peers[address]?.state = .waiting
            return Retry(address: address, delay: Self.spread(delays.lowerBound))
        }
    }

    /// Not all at once.
    private static func spread(_ delay: Duration) -> Duration {
        delay * Double.random(in: 0.75...1.25)
    }
}
