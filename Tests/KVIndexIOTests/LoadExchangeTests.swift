import Core
import KVIndexIO
import Testing

@Suite(.timeLimit(.minutes(1))) struct LoadExchangeTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func load(_ requests: Int, _ tokens: Int = 0) -> InFlightLoad {
        InFlightLoad(requests: requests, prefillTokens: tokens)
    }

    private func report(
        _ router: ReplicaRouter, _ loads: [String: InFlightLoad], at now: MonotonicTime
    ) {
        let endpoints = loads.sorted { $0.key < $1.key }
            .map { EndpointInFlight(name: $0.key, load: $0.value) }
        router.node.report(endpoints, [], at: now)
        router.perform()
    }

    @Test func whatARouterHasCountsAtTheOther() {
        let (a, b) = (ReplicaRouter(1), ReplicaRouter(2))
        report(a, ["e": load(3, 100)], at: start)
        let link = ReplicaLink(1, from: b, to: a, now: start)
        settle([link], at: start)
        #expect(b.loads == ["e": load(3, 100)])
        // What comes and goes between two frames is not told: one frame, with what there is.
        let before = link.bytesToFollower
        for requests in 4..<100 { report(a, ["e": load(requests), "f": load(1)], at: start) }
        settle([link], at: start)
        #expect(b.loads == ["e": load(99), "f": load(1)])
        #expect(link.bytesToFollower - before == 17 + 2 * (23 + 1))
        // Nothing has changed, or is back where it was: no frame.
        report(a, ["e": load(99), "f": load(1)], at: start)
        #expect(!link.send(at: start))
        // An endpoint that is gone has nothing.
        report(a, ["f": load(1)], at: start)
        settle([link], at: start)
        #expect(b.loads == ["f": load(1)])
    }

    @Test(arguments: [true, false])
    func theLoadOfARouterThatIsKilledEndsWithItsLease(isCut: Bool) {
        let (a, b, c) = (ReplicaRouter(1), ReplicaRouter(2), ReplicaRouter(3))
        let links = [
            ReplicaLink(1, from: b, to: a, now: start), ReplicaLink(2, from: b, to: c, now: start),
        ]
        report(a, ["e": load(3)], at: start)
        report(c, ["e": load(1)], at: start)
        settle(links, at: start)
        #expect(b.loads == ["e": load(4)])
        #expect(b.node.loadLedger.peerCount == 2)
        if isCut { links[0].cut() }
        // The other one lives: it says so, though nothing changes.
        report(c, ["e": load(1)], at: start + .milliseconds(1500))
        settle([links[1]], at: start + .milliseconds(1500))
        b.node.tick(start + .milliseconds(2999))
        b.perform()
        #expect(b.loads == ["e": load(4)])
        #expect(b.node.loadLedger.age(at: start + .milliseconds(2999)) == .milliseconds(2999))
        b.node.tick(start + .milliseconds(3000))
        b.perform()
        #expect(b.loads == ["e": load(1)])
        #expect(b.node.loadLedger.peerCount == 1)
    }

    @Test func aConnectionThatComesBackHealsEverything() {
        let (a, b) = (ReplicaRouter(1), ReplicaRouter(2))
        report(a, ["e": load(3), "f": load(2)], at: start)
        let first = ReplicaLink(1, from: b, to: a, now: start)
        settle([first], at: start)
        first.cut()
        report(a, ["f": load(5), "g": load(1)], at: start)
        #expect(b.loads == ["e": load(3), "f": load(2)])
        settle([ReplicaLink(2, from: b, to: a, now: start)], at: start)
        #expect(b.loads == ["f": load(5), "g": load(1)])
    }

    @Test func aRouterThatStartedAnewHasWhatItHasNow() {
        let b = ReplicaRouter(2)
        let old = ReplicaRouter(1)
        report(old, ["e": load(3)], at: start)
        let first = ReplicaLink(1, from: b, to: old, now: start)
        settle([first], at: start)
        first.cut()
        let new = ReplicaRouter(1)
        report(new, ["f": load(1)], at: start)
        settle([ReplicaLink(2, from: b, to: new, now: start)], at: start)
        #expect(b.loads == ["f": load(1)])
    }

    /// An older router knows nothing of loads; the index goes on between the two.
    @Test func aFollowerThatDoesNotAskIsToldNothing() {
        let (a, old) = (ReplicaRouter(1), ReplicaRouter(2) { $0.sharesLoad = false })
        a.node.update(["e"])
        old.node.update(["e"])
        a.event(.cleared, at: "e", now: start)
        report(a, ["e": load(3)], at: start)
        let link = ReplicaLink(1, from: old, to: a, takesLoad: false, now: start)
        settle([link], at: start)
        a.event(.stored(blocks(1..<2)[0]), at: "e", now: start)
        report(a, ["e": load(4)], at: start)
        settle([link], at: start)
        #expect(!link.isBroken)
        #expect(old.held("e") == Set(blocks(1..<2)))
        #expect(old.loads.isEmpty)
        // Who is told unasked says so.
        let rude = ReplicaLink(2, from: old, to: ReplicaRouter(3), takesLoad: true, now: start)
        report(rude.teller, ["e": load(1)], at: start)
        settle([rude], at: start)
        #expect(old.closed[2] == .unexpected("a load that was not asked for"))
    }

    @Test func framesHaveALimit() {
        let (a, b) = (ReplicaRouter(1) { $0.maximumFrameBytes = 4096 }, ReplicaRouter(2))
        let loads = Dictionary(
            uniqueKeysWithValues: (1...2000).map { ("endpoint-\($0)", load($0, 7)) })
        report(a, loads, at: start)
        let link = ReplicaLink(1, from: b, to: a, capacity: 1, now: start)
        var longest = 0
        repeat {
            let before = link.bytesToFollower
            link.deliver(at: start)
            longest = max(longest, link.bytesToFollower - before)
        } while link.send(at: start)
        #expect(b.loads == loads)
        #expect(longest <= 4096)
        #expect(longest > 4000)
    }

    @Test func whoTellsOfTooManyIsRefused() throws {
        var ledger = LoadLedger(lease: .seconds(3))
        func endpoints(_ numbers: Range<Int>) -> [EndpointInFlight] {
            numbers.map { EndpointInFlight(name: "\($0)", load: load(1)) }
        }
        let report = LoadReport(sequence: 1, floor: 0, endpoints: endpoints(0..<16_384))
        try ledger.received(report, from: 1, epoch: 1, at: start)
        #expect(throws: ReplicaError.tooMany("endpoints with a load")) {
            try ledger.received(
                LoadReport(sequence: 2, floor: 0, endpoints: endpoints(16_384..<16_385)),
                from: 1, epoch: 1, at: start)
        }
        let flows = (0...4096).map {
            AttainedService(
                flow: FlowID(fairnessID: "\($0)", priority: 0), tokens: 1, halfLifeSeconds: 60)
        }
        #expect(throws: ReplicaError.tooMany("flows")) {
            try ledger.received(
                LoadReport(sequence: 3, floor: 0, services: flows), from: 1, epoch: 1, at: start)
        }
    }

    @Test func serviceIsForgottenOnTheWayToo() throws {
        let flow = FlowID(fairnessID: "team", priority: 0)
        let (a, b) = (ReplicaRouter(1), ReplicaRouter(2))
        let link = ReplicaLink(1, from: b, to: a, now: start)
        settle([link], at: start)
        let service = AttainedService(flow: flow, tokens: 800, halfLifeSeconds: 10)
        a.node.report([], [service], at: start)
        a.perform()
        settle([link], at: start + .seconds(1))
        let told = try #require(b.services[flow])
        #expect(abs(told - service.aged(by: .seconds(1)).tokens) < 1e-6)
        #expect(abs(service.aged(by: .seconds(10)).tokens - 400) < 1e-6)
        // Not among the flows any more.
        a.node.report([], [], at: start + .seconds(2))
        a.perform()
        settle([link], at: start + .seconds(2))
        #expect(b.services.isEmpty)
    }
}
