import Core
import KVIndexIO
import Testing

@Suite struct ReplicaPeersTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)
    private let four = SocketAddress(host: "10.0.0.7", port: 9010)
    private let six = SocketAddress(host: "fd00::7", port: 9010)

    private func peers(_ addresses: [SocketAddress]) -> ReplicaPeers {
        var peers = ReplicaPeers(delays: .milliseconds(100)...(.seconds(5)))
        let new = peers.replace(with: addresses, at: start).new
        #expect(new == addresses)
        for (index, address) in addresses.enumerated() {
            let isTried = peers.connect(address, as: index + 1)
            #expect(isTried)
        }
        return peers
    }

    /// A router with an IPv4 and an IPv6 address, by the protocol and by the places.
    @Test func aRouterAtTwoAddressesIsFollowedOnceAndLeftAlone() {
        var peers = peers([four, six])
        let (router, follower) = (ReplicaRouter(7), ReplicaRouter(2))
        let links = [1, 2].map { ReplicaLink($0, from: follower, to: router, now: start) }
        settle(links, at: start)
        #expect(follower.node.tellerCount == 1)
        let first = follower.closed[1] == nil ? 1 : 2
        let place = peers.greeted(first, 7)
        #expect(place == (first == 1 ? four : six))
        #expect(follower.closed[3 - first] == .duplicate(7))
        let end = peers.ended(3 - first, .duplicate(7))
        #expect(end.address == (first == 1 ? six : four) && end.retries.isEmpty && !end.isNews)
        // Looked up again: the same two.
        let again = peers.replace(with: [four, six], at: start)
        #expect(again.new.isEmpty && again.gone.isEmpty && again.retries.isEmpty)
        // It may be at either when it is not followed any more.
        let lost = peers.ended(first, .silent)
        #expect(Set(lost.retries.map(\.address)) == [four, six] && lost.isNews)
        #expect(lost.retries.allSatisfy { $0.delay < .milliseconds(200) })
        let areTried = [peers.connect(four, as: 3), peers.connect(six, as: 4)]
        #expect(areTried == [true, true])
    }

    @Test func anAddressThatLeavesMakesRoomForTheOther() {
        var peers = peers([four, six])
        _ = peers.greeted(1, 7)
        _ = peers.ended(2, .duplicate(7))
        let (new, gone, retries) = peers.replace(with: [six], at: start)
        #expect(new.isEmpty && gone == [1] && retries.map(\.address) == [six])
        let isTried = peers.connect(four, as: 3)
        #expect(!isTried)
    }

    @Test func aDuplicateOfNobodyIsTriedAgain() {
        var peers = peers([four, six])
        _ = peers.greeted(1, 7)
        _ = peers.ended(1, .silent)
        let end = peers.ended(2, .duplicate(7))
        #expect(end.retries.map(\.address) == [six])
    }

    @Test func whoIsLostIsTriedLaterAndLater() {
        var peers = peers([four])
        var delays: [Duration] = []
        for id in 2..<12 {
            let end = peers.ended(id - 1, .connection("refused"))
            #expect(end.isNews == (id == 2))
            delays += end.retries.map(\.delay)
            let isTried = peers.connect(four, as: id)
            #expect(isTried)
        }
        #expect(delays.count == 10)
        #expect(delays[0] <= .milliseconds(125) && delays[9] >= .seconds(3))
        #expect(delays.allSatisfy { $0 <= .seconds(7) })
        // A greeting, and all is forgotten.
        _ = peers.greeted(11, 7)
        let end = peers.ended(11, .connection("refused"))
        #expect(end.isNews && end.retries[0].delay <= .milliseconds(125))
    }

    @Test func itselfIsTriedSeldomAndNoNews() {
        var peers = peers([four])
        let end = peers.ended(1, .itself)
        #expect(!end.isNews && end.retries.map(\.delay) == [.seconds(30)])
    }

    @Test func tellsWhenRoutersWereHeard() {
        let other = SocketAddress(host: "10.0.0.8", port: 9010)
        let nobody = SocketAddress(host: "10.0.0.9", port: 9010)
        let own = SocketAddress(host: "10.0.0.1", port: 9010)
        var peers = peers([four, six, other, nobody, own])
        _ = peers.greeted(1, 7)
        _ = peers.greeted(3, 8)
        _ = peers.ended(2, .duplicate(7))
        _ = peers.ended(4, .connection("refused"))
        _ = peers.ended(5, .itself)
        let times = [1: start + .seconds(4), 3: start + .seconds(3)]
        peers.tick { times[$0] }
        _ = peers.ended(3, .silent)
        peers.tick { _ in nil }
        #expect(
            peers.heardAt == [
                four: start + .seconds(4), other: start + .seconds(3), nobody: start,
            ])
    }

    @Test func endsOfOtherConnectionsAreNobodys() {
        var peers = peers([four])
        let end = peers.ended(9, .silent)
        #expect(end.address == nil && end.retries.isEmpty)
        let isTried = peers.connect(four, as: 2)
        #expect(!isTried)
    }
}
