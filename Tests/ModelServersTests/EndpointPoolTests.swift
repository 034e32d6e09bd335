import Core
import ModelServers
import Synchronization
import Testing

@Suite struct EndpointPoolTests {
    private func server(_ name: String, port: UInt16 = 8000) -> ModelServer {
        ModelServer(name: name, address: SocketAddress(host: "10.0.0.1", port: port))
    }

    @Test func unchangedServersKeepTheirState() {
        let pool = EndpointPool()
        pool.update([server("a", port: 1), server("b", port: 2)])
        let before = pool.snapshot
        before.members[1].requestStarted()
        pool.update([server("b", port: 2), server("a", port: 3), server("c", port: 4)])
        let after = pool.snapshot
        #expect(after.endpoints.map(\.server.name) == ["b", "a", "c"])
        #expect(after.members[0] === before.members[1])
        #expect(after.members[0].inFlightCount == 1)
        #expect(after.members[1] !== before.members[0])
        #expect(Set(after.endpoints.map(\.id) + before.endpoints.map(\.id)).count == 4)
        #expect(before.endpoints.count == 2)
    }

    @Test func refreshFollowsChangesOnly() {
        let pool = EndpointPool()
        pool.update([server("a")])
        var snapshot = pool.snapshot
        let first = snapshot
        pool.refresh(&snapshot)
        #expect(snapshot === first)
        pool.update([])
        pool.refresh(&snapshot)
        #expect(snapshot.members.isEmpty)
    }

    @Test func observersSeeTheFirstStateAndEveryChange() {
        let pool = EndpointPool()
        pool.update([server("a")])
        let seen = Mutex<[String]>([])
        pool.observe { before, after in
            let names = [before, after].map { $0.endpoints.map(\.server.name).joined() }
            seen.withLock { $0.append(names.joined(separator: ">")) }
        }
        pool.update([server("a"), server("b", port: 1)])
        pool.update([server("b", port: 1)])
        #expect(seen.withLock { $0 } == [">a", "a>ab", "ab>b"])
    }

    @Test func knowsWhoMayServeAModel() {
        let pool = EndpointPool()
        pool.update([server("a"), server("b", port: 1), server("c", port: 2)])
        let members = pool.snapshot.members
        func serving(_ model: String) -> Set<UInt32>? {
            pool.snapshot.endpointIDs(serving: model)
        }
        #expect(serving("x") == nil)
        pool.setModels(["x", "y"], of: members[0])
        pool.setModels(["x"], of: members[1])
        // Of the third nothing is known: it may have any model.
        #expect(serving("x") == nil)
        #expect(serving("y") == [members[0].endpoint.id, members[2].endpoint.id])
        pool.setModels(["z"], of: members[2])
        #expect(serving("x") == [members[0].endpoint.id, members[1].endpoint.id])
        #expect(serving("z") == [members[2].endpoint.id])
        #expect(serving("unknown") == nil)
        #expect(pool.snapshot.lists("z") && !pool.snapshot.lists("unknown"))
    }

    @Test func rulesStayUntilTheyAreReplaced() {
        let pool = EndpointPool()
        let rules = TrafficRules(objectives: [InferenceObjective(name: "a", priority: 1)])
        pool.update([server("a")], rules: rules)
        pool.update([server("b")])
        #expect(pool.snapshot.rules == rules)
        pool.setRules(TrafficRules())
        #expect(pool.snapshot.rules == TrafficRules())
        #expect(pool.snapshot.endpoints.map(\.server.name) == ["b"])
    }

    @Test func modelsAreKnownWhenAllMembersListedTheirs() {
        let pool = EndpointPool()
        pool.update([server("a"), server("b", port: 1)])
        pool.setModels(["y", "x"], of: pool.snapshot.members[0])
        #expect(pool.snapshot.models == nil)
        pool.setModels(["x", "z"], of: pool.snapshot.members[1])
        #expect(pool.snapshot.models == ["x", "y", "z"])
        let generation = pool.snapshot.generation
        pool.setModels(["x", "z"], of: pool.snapshot.members[1])
        #expect(pool.snapshot.generation == generation)
        pool.update([server("a")])
        #expect(pool.snapshot.models == ["x", "y"])
    }

    @Test func scrapesSetLoadAndHealth() {
        let pool = EndpointPool()
        pool.update([server("a")])
        let member = pool.snapshot.members[0]
        #expect(member.isHealthy && member.load.scrapedAt == nil)
        var load = ServerLoad()
        load.waitingCount = 3
        load.runningCount = 2
        load.kvUsage = 0.5
        load.blockSize = 16
        let now = MonotonicTime.now
        member.scraped(.load(load), at: now)
        load.scrapedAt = now
        #expect(member.load == load)
        member.scraped(.failedToConnect, at: now)
        #expect(!member.isHealthy && member.load == load)
        member.scraped(.unreadable, at: now)
        #expect(member.isHealthy && member.load == load)
    }

    @Test func whatPeersTellOfIsNotOthersToo() {
        let pool = EndpointPool()
        pool.update([server("a")])
        let member = pool.snapshot.members[0]
        member.requestStarted()
        member.prefillStarted(tokenCount: 10)
        member.setPeersLoad(InFlightLoad(requests: 2, prefillTokens: 500))
        #expect(member.knownInFlightCount == 3)
        #expect(member.knownPrefillTokens == 510)
        #expect(member.inFlightCount == 1 && member.prefillTokensInFlight == 10)
        var load = ServerLoad()
        load.runningCount = 7
        member.scraped(.load(load), at: .now)
        #expect(member.othersInFlightCount == 4)
        member.setPeersLoad(.none)
        #expect(member.knownInFlightCount == 1 && member.knownPrefillTokens == 10)
        member.prefillEnded(tokenCount: 10)
        member.requestEnded()
    }

    @Test func whatIsNotOursIsOthers() {
        let pool = EndpointPool()
        pool.update([server("a")])
        let member = pool.snapshot.members[0]
        #expect(member.othersInFlightCount == 0)
        member.requestStarted()
        member.requestStarted()
        var load = ServerLoad()
        load.waitingCount = 3
        load.runningCount = 2
        member.scraped(.load(load), at: .now)
        #expect(member.othersInFlightCount == 3)
        // What changes here until the next scrape does not make it more or less.
        member.requestEnded()
        #expect(member.othersInFlightCount == 3)
        load.waitingCount = 0
        load.runningCount = 0
        member.scraped(.load(load), at: .now)
        #expect(member.othersInFlightCount == 0)
        member.requestEnded()
    }

    /// Readers on other threads see whole snapshots and end up at the last one.
    @Test func readersSeeWholeSnapshots() async {
        let pool = EndpointPool()
        await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<3 {
                group.addTask {
                    var snapshot = pool.snapshot
                    var isWhole = true
                    while snapshot.members.count < 200 {
                        pool.refresh(&snapshot)
                        isWhole = isWhole && snapshot.members.count == snapshot.endpoints.count
                        await Task.yield()
                    }
                    return isWhole
                }
            }
            group.addTask {
                for count in 1...200 {
                    pool.update((0..<count).map { self.server("e\($0)", port: UInt16($0)) })
                    await Task.yield()
                }
                return true
            }
            for await isWhole in group { #expect(isWhole) }
        }
    }
}
