import Core
import KVIndexIO
import Testing

@Suite(.timeLimit(.minutes(1))) struct ReplicaNodeTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    /// A router that knows the endpoint from its events, and knew it before anybody else.
    private func source(
        _ number: UInt64, _ blocks: [SharedBlock] = [],
        _ configure: (inout ReplicaNode.Configuration) -> Void = { _ in }
    ) -> ReplicaRouter {
        let router = ReplicaRouter(number, configure)
        router.node.update(["e"])
        router.event(.cleared, at: "e", now: start)
        for block in blocks { router.event(.stored(block), at: "e", now: start) }
        return router
    }

    private func follower(_ number: UInt64) -> ReplicaRouter {
        let router = ReplicaRouter(number)
        router.node.update(["e"])
        return router
    }

    @Test func aFollowerHearsEverythingAndThenChanges() {
        let teller = source(1, blocks(0..<20_000))
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, now: start)
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(0..<20_000)))
        #expect(follower.node.isAgreed)
        let before = link.bytesToFollower
        teller.event(.removed(blocks(5..<6)[0]), at: "e", now: start)
        teller.event(.stored(blocks(5..<6, .cpu)[0]), at: "e", now: start)
        settle([link], at: start)
        #expect(follower.held("e") == teller.held("e"))
        #expect(link.bytesToFollower - before < 100)
        teller.event(.cleared, at: "e", now: start)
        teller.event(.stored(blocks(9..<10)[0]), at: "e", now: start)
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(9..<10)))
    }

    @Test func aConnectionThatComesBackGoesOnWhereItWas() {
        let teller = source(1, blocks(0..<5000))
        let follower = follower(2)
        let first = ReplicaLink(1, from: follower, to: teller, now: start)
        settle([first], at: start)
        first.cut()
        teller.event(.stored(blocks(5000..<5001)[0]), at: "e", now: start)
        let second = ReplicaLink(2, from: follower, to: teller, now: start)
        settle([second], at: start)
        #expect(follower.held("e") == Set(blocks(0..<5001)))
        #expect(teller.node.counters.snapshotsTold == 1)
        #expect(second.bytesToFollower < 300)
    }

    @Test func aRouterThatStartedAnewTellsEverything() {
        let follower = follower(2)
        let first = ReplicaLink(1, from: follower, to: source(1, blocks(0..<10)), now: start)
        settle([first], at: start)
        first.cut()
        // The same number of changes, of another life.
        let second = ReplicaLink(2, from: follower, to: source(1, blocks(50..<60)), now: start)
        settle([second], at: start)
        #expect(follower.held("e") == Set(blocks(50..<60)))
    }

    @Test func whoIsTooSlowForTheLogHearsEverythingAgain() {
        let teller = source(1, blocks(0..<10)) { $0.maximumLogCount = 64 }
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, now: start)
        settle([link], at: start)
        for block in blocks(10..<1000) { teller.event(.stored(block), at: "e", now: start) }
        teller.event(.removed(blocks(0..<1)[0]), at: "e", now: start)
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(1..<1000)))
        #expect(teller.node.counters.logOverruns == 1)
        #expect(teller.node.counters.snapshotsTold == 2)
    }

    @Test func blocksThatChangeWhileTheyAreToldComeOutRight() {
        let teller = source(1, blocks(0..<20_000)) { $0.maximumFrameBytes = 4 << 10 }
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, capacity: 1, now: start)
        for round in UInt64(0)..<20 {
            link.send(at: start)
            link.deliver(at: start)
            for block in blocks((round * 500)..<(round * 500 + 50)) {
                teller.event(.removed(block), at: "e", now: start)
            }
            let number = 30_000 + round
            teller.event(.stored(blocks(number..<(number + 1))[0]), at: "e", now: start)
        }
        #expect(!follower.node.isAgreed)
        settle([link], at: start)
        #expect(follower.held("e") == teller.held("e"))
        #expect(follower.countsOnce("e"))
    }

    @Test func anotherRouterIsFollowedWhenOneIsGone() {
        let (first, second) = (source(5, blocks(0..<10)), source(6, blocks(1..<11)))
        let follower = follower(2)
        let toFirst = ReplicaLink(1, from: follower, to: first, now: start)
        let toSecond = ReplicaLink(2, from: follower, to: second, now: start)
        settle([toFirst, toSecond], at: start)
        #expect(follower.held("e") == Set(blocks(0..<10)))
        #expect(second.node.counters.snapshotsTold == 0)
        toFirst.cut()
        settle([toSecond], at: start)
        #expect(follower.held("e") == Set(blocks(1..<11)))
        #expect(follower.countsOnce("e"))
        // Nobody left: what is known stays.
        toSecond.cut()
        #expect(follower.held("e") == Set(blocks(1..<11)))
        #expect(!follower.node.isAgreed)
    }

    @Test func anEndpointThatIsNotInTheTellersPoolIsNotFollowed() {
        let teller = source(1, blocks(0..<10))
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, now: start)
        settle([link], at: start)
        teller.node.update([])
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(0..<10)))
        #expect(!follower.node.isAgreed)
        // The pool of another life of the endpoint, which has lost its blocks.
        teller.node.update(["e"])
        teller.event(.cleared, at: "e", now: start)
        teller.event(.stored(blocks(3..<4)[0]), at: "e", now: start)
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(3..<4)))
    }

    @Test func eventsGoBeforeWhatOthersTold() {
        let teller = source(1, blocks(0..<100))
        let newcomer = follower(2)
        let link = ReplicaLink(1, from: newcomer, to: teller, capacity: 1, now: start)
        // Removed here before the other router hears of it, and a block both hear of.
        newcomer.event(.removed(blocks(7..<8)[0]), at: "e", now: start)
        newcomer.event(.stored(blocks(100..<101)[0]), at: "e", now: start)
        teller.event(.stored(blocks(100..<101)[0]), at: "e", now: start)
        settle([link], at: start)
        var expected = Set(blocks(0..<101))
        expected.remove(blocks(7..<8)[0])
        #expect(newcomer.held("e") == expected)
        // Known now: the other router's word counts no more.
        teller.event(.removed(blocks(8..<9)[0]), at: "e", now: start)
        settle([link], at: start)
        #expect(newcomer.held("e") == expected)
        // What the engine tells a second time counts once.
        newcomer.event(.stored(blocks(20..<21)[0]), at: "e", now: start)
        #expect(newcomer.countsOnce("e"))
        newcomer.event(.removed(blocks(20..<21)[0]), at: "e", now: start)
        expected.remove(blocks(20..<21)[0])
        #expect(newcomer.held("e") == expected)
    }

    @Test func whoLostItsEventsIsFollowedNoMoreAndFollowsOthers() {
        let (first, second) = (source(5, blocks(0..<10)), source(6, blocks(0..<10)))
        // Twice in the cache; others tell of it once.
        first.event(.stored(blocks(0..<1)[0]), at: "e", now: start)
        let follower = follower(2)
        let links = [
            ReplicaLink(1, from: follower, to: first, now: start),
            ReplicaLink(2, from: follower, to: second, now: start),
            ReplicaLink(3, from: first, to: second, now: start),
        ]
        settle(links, at: start)
        #expect(second.node.counters.snapshotsTold == 0)
        first.lose("e")
        second.event(.removed(blocks(0..<1)[0]), at: "e", now: start)
        second.event(.stored(blocks(20..<21)[0]), at: "e", now: start)
        settle(links, at: start)
        let expected = Set(blocks(1..<10) + blocks(20..<21))
        #expect(!first.node.isOffered("e"))
        #expect(first.held("e") == expected && first.countsOnce("e"))
        #expect(follower.held("e") == expected && follower.countsOnce("e"))
        // They come again: first what the other one knows, then they alone count.
        first.event(.stored(blocks(30..<31)[0]), at: "e", now: start)
        settle(links, at: start)
        #expect(first.node.isOffered("e"))
        #expect(first.held("e") == expected.union(blocks(30..<31)) && first.countsOnce("e"))
        second.event(.removed(blocks(1..<2)[0]), at: "e", now: start)
        settle(links, at: start)
        #expect(first.held("e") == expected.union(blocks(30..<31)))
    }

    @Test func whoLostItsEventsGoesOnWithoutOthers() {
        let router = source(5, blocks(0..<10))
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: router, now: start)
        settle([link], at: start)
        // Told before the offer ends.
        router.event(.stored(blocks(10..<11)[0]), at: "e", now: start)
        router.lose("e")
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(0..<11)) && router.held("e") == follower.held("e"))
        #expect(!router.node.isOffered("e") && !router.node.isAgreed)
        // The engine is idle, and says that nothing was missed.
        router.node.applied([], at: "e", now: start)
        router.node.tick(start + .seconds(6))
        router.perform()
        #expect(router.node.isOffered("e"))
        settle([link], at: start)
        #expect(follower.held("e") == Set(blocks(0..<11)) && follower.node.isAgreed)
    }

    /// The log of a time when other routers were followed does not tell what they told.
    @Test func whoFollowedMeanwhileTellsEverythingAgain() {
        let (first, second) = (source(5, blocks(0..<10)), source(6, blocks(0..<10)))
        let follower = follower(2)
        let toFirst = ReplicaLink(1, from: follower, to: first, now: start)
        settle([toFirst], at: start)
        first.lose("e")
        settle([toFirst], at: start)
        let between = ReplicaLink(3, from: first, to: second, now: start)
        second.event(.stored(blocks(20..<21)[0]), at: "e", now: start)
        settle([toFirst, between], at: start)
        first.node.applied([], at: "e", now: start)
        settle([toFirst, between], at: start)
        #expect(first.node.isOffered("e"))
        #expect(follower.held("e") == Set(blocks(0..<10) + blocks(20..<21)))
    }

    /// A log that is told in several frames: what is known after the first is not all.
    @Test func whoHasEventsIsToldTheWholeOfALongLog() {
        let teller = source(1, blocks(0..<10))
        let newcomer = follower(2)
        let first = ReplicaLink(1, from: newcomer, to: teller, now: start)
        settle([first], at: start)
        first.cut()
        // 19 bytes each, more than two frames of 64 KiB.
        for block in blocks(10..<8010) { teller.event(.stored(block), at: "e", now: start) }
        newcomer.event(.stored(blocks(9000..<9001)[0]), at: "e", now: start)
        let second = ReplicaLink(2, from: newcomer, to: teller, now: start)
        settle([second], at: start)
        #expect(newcomer.held("e") == Set(blocks(0..<8010) + blocks(9000..<9001)))
        #expect(newcomer.countsOnce("e"))
    }

    @Test func tellsHowFarFollowersAreBehind() {
        let teller = source(1, blocks(0..<10_000))
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, capacity: 1, now: start)
        #expect(teller.node.lag == 0)
        while teller.node.lag == 0 {
            link.send(at: start)
            link.deliver(at: start)
        }
        #expect(teller.node.lag == 10_000)
        settle([link], at: start)
        #expect(teller.node.lag == 0)
        for block in blocks(10_000..<10_007) { teller.event(.stored(block), at: "e", now: start) }
        #expect(teller.node.lag == 7)
        settle([link], at: start)
        #expect(teller.node.lag == 0)
        #expect(follower.node.heardAt(1) == start && follower.node.heardAt(2) == nil)
    }

    @Test func whoFollowsIsNotFollowed() {
        let teller = source(1, blocks(0..<10))
        let (second, third) = (follower(2), follower(3))
        let links = [
            ReplicaLink(1, from: second, to: teller, now: start),
            ReplicaLink(2, from: third, to: second, now: start),
        ]
        settle(links, at: start)
        #expect(second.held("e") == Set(blocks(0..<10)))
        #expect(third.held("e").isEmpty)
    }

    @Test func whoWaitsInVainIsFollowedAllTheSame() {
        let router = ReplicaRouter(1) { $0.loadingPatience = .seconds(5) }
        router.node.update(["e"])
        router.event(.stored(blocks(0..<1)[0]), at: "e", now: start)
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: router, now: start)
        settle([link], at: start)
        #expect(follower.held("e").isEmpty)
        let later = start + .seconds(6)
        router.node.tick(later)
        settle([link], at: later)
        #expect(follower.held("e") == Set(blocks(0..<1)))
    }

    @Test func routersWhoseKeysDifferDoNotShare() {
        let teller = source(1) { $0.keys.seed = "17" }
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, now: start)
        settle([link], at: start)
        #expect(
            teller.closed[1]?.description
                == "its keys are made otherwise: xxh64, blocks of 16 tokens, seed ''; "
                + "this router's: xxh64, blocks of 16 tokens, seed '17'")
    }

    @Test func aRouterDoesNotFollowItselfNorAnotherOneTwice() {
        let router = source(1)
        let follower = follower(2)
        let links = [
            ReplicaLink(2, from: follower, to: router, now: start),
            ReplicaLink(3, from: follower, to: router, now: start),
        ]
        settle(links, at: start)
        #expect(follower.closed.values.map(\.self) == [.duplicate(1)])
        let other = ReplicaRouter(1)
        let twin = ReplicaLink(4, from: other, to: router, now: start)
        settle([twin], at: start)
        #expect(other.closed[4] == .itself)
    }

    @Test func silenceEndsAConnectionAndHeartbeatsKeepIt() {
        let teller = source(1)
        let follower = follower(2)
        let link = ReplicaLink(1, from: follower, to: teller, now: start)
        var now = start
        settle([link], at: now)
        for _ in 0..<30 {
            now = now + .seconds(1)
            teller.node.tick(now)
            follower.node.tick(now)
            settle([link], at: now)
        }
        #expect(!link.isBroken)
        now = now + .seconds(10)
        follower.node.tick(now)
        follower.perform()
        #expect(follower.closed[1] == .silent)
    }

    @Test(arguments: [
        ReplicaFrame.blocks(number: 1, []), .changes(number: 1, position: 9, []),
        .end(number: 1, position: 1), .begin(number: 2, position: 0), .unfollow(number: 1),
        .follow(number: 1, endpoint: "e", epoch: 0, position: 0),
        .changes(number: 1, position: .max, [.cleared]),
    ])
    func framesOutOfPlaceEndTheConnection(_ frame: ReplicaFrame) {
        let follower = follower(2)
        follower.node.connected(1, at: start)
        let greeting = ReplicaFrame.greeting(
            ReplicaGreeting(
                router: 1, epoch: 1, maximumFrameBytes: 1 << 16,
                keys: ReplicaKeys(algorithm: "xxh64", blockSize: 16, seed: "")))
        for frame in [greeting, .offer(endpoint: "e", isOffered: true), frame] {
            frame.encoded.withUnsafeBytes { follower.node.received($0, on: 1, at: start) }
        }
        follower.perform()
        guard case .unexpected = follower.closed[1] else {
            Issue.record("\(String(describing: follower.closed[1]))")
            return
        }
    }
}
