import Core
import Hashing
import Simulator
import Testing

/// A scheduler whose time a test moves, and what came out of it, as `milliseconds what`.
private final class Bench {
    var scheduler: EngineScheduler
    private(set) var log: [String] = []
    private(set) var events: [EngineScheduler.Event] = []
    private(set) var now = at(0)

    init(
        blocks: Int = 64, maxRunning: Int = 8, maxWaiting: Int = 100, maxAdapters: Int = 0,
        maxResidentAdapters: Int = 0, adapterLoad: Duration = .zero,
        loadFactor: Double = 1
    ) throws {
        var parameters = LatencyModel.Parameters()
        parameters.prefillTokensPerSecond = 1000
        parameters.prefillOverhead = .milliseconds(5)
        parameters.interTokenLatency = .milliseconds(10)
        parameters.timeFactorUnderLoad = loadFactor
        parameters.kvBytesPerToken = 1000
        parameters.adapterLoad = adapterLoad
        scheduler = EngineScheduler(
            pool: BlockPool(count: blocks, blockSize: 4), hasher: try BlockHasher(blockSize: 4),
            model: LatencyModel(parameters, maxRunning: maxRunning, seed: 1),
            limits: .init(
                maxRunning: maxRunning, maxWaiting: maxWaiting, maxAdapters: maxAdapters,
                maxResidentAdapters: maxResidentAdapters,
                lease: .seconds(30)))
    }

    static func request(
        _ id: String, prompt: [UInt32], tokens: Int, remote: RemoteKV? = nil,
        keepsBlocks: Bool = false, adapter: LoRAAdapter? = nil
    ) -> EngineRequest {
        var limits = Reply.Limits(maxTokens: tokens)
        limits.ignoresEndOfSequence = true
        var generator = SeededGenerator(seed: 1)
        return EngineRequest(
            id: id, prompt: prompt, reply: Reply(limits, &generator), remote: remote,
            keepsBlocks: keepsBlocks, adapter: adapter)
    }

    /// Lets time pass deadline by deadline, as a loop with exact timers does.
    func run(until end: MonotonicTime) {
        while let next = scheduler.nextDeadline, next <= end {
            now = next
            call { $0.advance(to: next, &$1) }
        }
        now = end
        call { $0.advance(to: end, &$1) }
    }

    func submit(_ request: EngineRequest) { call { $0.submit(request, at: self.now, &$1) } }
    func abort(_ request: EngineRequest) { call { $0.abort(request, at: self.now, &$1) } }
    func failTransfer(_ request: EngineRequest) {
        call { $0.transferFailed(request, at: self.now, &$1) }
    }
    func unpin(_ id: String) { call { $0.unpin(id, at: self.now, &$1) } }

    private func call(_ body: (inout EngineScheduler, inout [EngineScheduler.Event]) -> Void) {
        var new: [EngineScheduler.Event] = []
        body(&scheduler, &new)
        let time = Double(now.nanoseconds) / 1e6
        let stamp = time == time.rounded() ? "\(Int(time))" : "\(time)"
        for event in new {
            switch event {
            case .admitted: break
            case .fill(let block, _): log.append("\(stamp) fill \(block)")
            case .token(let request, _):
                log.append("\(stamp) \(request.id) \(request.generatedCount)")
            case .ended(let request): log.append("\(stamp) \(request.id) ended")
            case .pull(let request): log.append("\(stamp) \(request.id) pull")
            case .releaseRemote(let request): log.append("\(stamp) \(request.id) release remote")
            case .preempted(let request): log.append("\(stamp) \(request.id) preempted")
            case .leaseExpired(let request): log.append("\(stamp) \(request.id) expired")
            case .fence(let blocks): log.append("\(stamp) fence \(blocks)")
            }
        }
        events += new
    }

    func takeLog() -> [String] {
        defer { log = [] }
        return log
    }

    var isIdle: Bool {
        scheduler.nextDeadline == nil && scheduler.runningCount == 0
            && scheduler.capacityWaitingCount == 0 && scheduler.transferWaitingCount == 0
    }
}

private func tokens(_ range: Range<UInt32>) -> [UInt32] { Array(range) }

@Suite struct EngineSchedulerTests {
    @Test func oneRequest() throws {
        let bench = try Bench()
        #expect(bench.isIdle)
        let request = Bench.request("A", prompt: tokens(0..<10), tokens: 3)
        bench.submit(request)
        #expect(bench.scheduler.runningCount == 1)
        // Three blocks of prompt; positions 10 and 11 fill the third, for the tokens are 12.
        #expect(bench.scheduler.pool.freeCount == 61)
        bench.run(until: at(100))
        #expect(
            bench.takeLog() == [
                "15 fill 0", "15 fill 1", "15 A 1", "25 A 2", "35 fill 2", "35 A 3", "35 A ended",
            ])
        #expect(request.timeline.scheduled == at(0) && request.timeline.firstToken == at(15))
        #expect(request.timeline.lastToken == at(35))
        let intervals = bench.events.compactMap { event -> Duration?? in
            if case .token(_, let interval) = event { interval } else { nil }
        }
        #expect(intervals == [nil, .milliseconds(10), .milliseconds(10)])
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
        #expect(bench.scheduler.pool.cachedHashes.count == 3)
    }

    @Test func promptsOneByOneTokensInCommonSteps() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<10), tokens: 5))
        bench.submit(Bench.request("B", prompt: tokens(100..<120), tokens: 2))
        #expect(bench.scheduler.capacityWaitingCount == 1)
        bench.run(until: at(100))
        // B's prompt is done at 40, in the middle of a step; it takes part from 45 on.
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "15 A 1", "25 A 2", "35 A 3", "40 B 1", "45 A 4", "55 A 5", "55 A ended", "55 B 2",
                "55 B ended",
            ])
        #expect(bench.isIdle)
    }

    @Test func aPromptDoneAtTheEndOfAStepJoinsTheNext() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 3))
        bench.submit(Bench.request("B", prompt: tokens(100..<105), tokens: 2))
        bench.run(until: at(100))
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "10 A 1", "20 B 1", "20 A 2", "30 A 3", "30 A ended", "30 B 2", "30 B ended",
            ])
    }

    @Test func stepsSlowDownUnderLoad() throws {
        let bench = try Bench(maxRunning: 3, loadFactor: 3)
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 3))
        bench.submit(Bench.request("B", prompt: tokens(100..<105), tokens: 2))
        bench.run(until: at(100))
        // The first step begins with B's prefill running as well: factor 2, so it takes 20.
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "10 A 1", "20 B 1", "30 A 2", "50 A 3", "50 A ended", "50 B 2", "50 B ended",
            ])
    }

    @Test func aCachedPrefixIsNotComputedAgain() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<10), tokens: 1))
        bench.run(until: at(50))
        _ = bench.takeLog()
        let same = Bench.request("B", prompt: tokens(0..<10), tokens: 1)
        bench.submit(same)
        #expect(same.cachedTokenCount == 8)
        bench.run(until: at(100))
        #expect(bench.takeLog() == ["57 B 1", "57 B ended"])
        // Of a prompt that ends with a block, that block is computed for the first token's sake,
        // and the copy stays private.
        let whole = Bench.request("C", prompt: tokens(0..<8), tokens: 1)
        bench.submit(whole)
        #expect(whole.cachedTokenCount == 4)
        bench.run(until: at(200))
        #expect(bench.log.contains("109 C 1"))
        #expect(bench.scheduler.pool.cachedHashes.count == 2)
    }

    @Test func blocksFilledByTheReplyAreReused() throws {
        let bench = try Bench()
        let first = Bench.request("A", prompt: tokens(0..<6), tokens: 7)
        bench.submit(first)
        bench.run(until: at(200))
        let reply = (0..<7).map(first.reply.token(at:))
        let next = Bench.request("B", prompt: tokens(0..<6) + reply, tokens: 1)
        bench.submit(next)
        #expect(next.cachedTokenCount == 12)
    }

    @Test func waitsForAPlaceInTheBatch() throws {
        let bench = try Bench(maxRunning: 1)
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 2))
        bench.submit(Bench.request("B", prompt: tokens(100..<105), tokens: 1))
        bench.run(until: at(100))
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "10 A 1", "20 A 2", "20 A ended", "30 B 1", "30 B ended",
            ])
    }

    @Test func anAdapterWaitsForItsPlaceAndLetsOthersPass() throws {
        let bench = try Bench(maxAdapters: 1)
        let (x, y) = (adapter(1, "x"), adapter(2, "y"))
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 3, adapter: x))
        bench.submit(Bench.request("B", prompt: tokens(0..<5), tokens: 1, adapter: y))
        bench.submit(Bench.request("C", prompt: tokens(0..<5), tokens: 1, adapter: x))
        bench.submit(Bench.request("D", prompt: tokens(0..<5), tokens: 1))
        #expect(bench.scheduler.runningAdapters == [x])
        #expect(bench.scheduler.waitingAdapters == [x, y])
        bench.run(until: at(200))
        // C finds the block that A computed; D, without the adapter, does not.
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "10 A 1", "16 C 1", "16 C ended", "20 A 2", "26 D 1", "26 D ended", "30 A 3",
                "30 A ended", "40 B 1", "40 B ended",
            ])
        #expect(bench.isIdle && bench.scheduler.runningAdapters.isEmpty)
    }

    @Test func anAdapterThatIsNotInMemoryIsReadFirst() throws {
        let bench = try Bench(
            maxAdapters: 1, maxResidentAdapters: 2, adapterLoad: .milliseconds(100))
        let (x, y, z) = (adapter(1, "x"), adapter(2, "y"), adapter(3, "z"))
        bench.scheduler.preload(x)
        for (id, adapter) in [("A", x), ("B", y), ("C", x), ("D", z), ("E", x), ("F", y)] {
            bench.submit(
                Bench.request(id, prompt: tokens(0..<5), tokens: 1, adapter: adapter))
        }
        bench.run(until: at(2000))
        // Each takes 10, or 6 with a block of its adapter cached. D takes the place of y.
        #expect(
            bench.takeLog().filter { $0.hasSuffix("1") } == [
                "10 A 1", "120 B 1", "126 C 1", "236 D 1", "242 E 1", "348 F 1",
            ])
        // Other weights under the same number have to be read.
        let other = LoRAAdapter(id: 1, module: LoRAModule(name: "x", path: "/other"))
        bench.submit(Bench.request("G", prompt: tokens(0..<5), tokens: 1, adapter: other))
        bench.run(until: at(4000))
        #expect(bench.log.contains("2110 G 1"))
    }

    private func adapter(_ id: Int, _ name: String) -> LoRAAdapter {
        LoRAAdapter(id: id, module: LoRAModule(name: name, path: "/\(name)"))
    }

    @Test func waitsForItsBlocks() throws {
        let bench = try Bench(blocks: 5)
        bench.submit(Bench.request("A", prompt: tokens(0..<16), tokens: 2))
        bench.submit(Bench.request("B", prompt: tokens(100..<108), tokens: 1))
        bench.run(until: at(30))
        #expect(bench.scheduler.capacityWaitingCount == 1)
        #expect(bench.scheduler.pool.freeCount == 0)
        bench.run(until: at(200))
        #expect(bench.takeLog().suffix(4) == ["44 fill 4", "44 fill 3", "44 B 1", "44 B ended"])
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 5)
    }

    @Test func whoBeganLastGivesItsBlocksToTheOthers() throws {
        let bench = try Bench(blocks: 5)
        let first = Bench.request("A", prompt: tokens(0..<8), tokens: 9)
        let second = Bench.request("B", prompt: tokens(100..<108), tokens: 5)
        bench.submit(first)
        bench.submit(second)
        bench.run(until: at(34))
        // At 33 a step begins in which B needs a third block, and A has the fifth.
        #expect(second.state == .waiting && second.blocks.isEmpty && second.preemptionCount == 1)
        #expect(bench.scheduler.capacityWaitingCount == 1 && bench.scheduler.runningCount == 1)
        bench.run(until: at(94))
        // A took the second of its two blocks, which was freed first. The rest of its 9 tokens is
        // computed as a prompt, without a second first token.
        #expect(second.state == .prefilling)
        bench.run(until: at(300))
        #expect(
            bench.takeLog().filter { !$0.contains("fill") } == [
                "13 A 1", "23 A 2", "26 B 1", "33 A 3", "33 B preempted", "43 A 4", "53 A 5",
                "63 A 6", "73 A 7", "83 A 8", "93 A 9", "93 A ended", "103 B 2", "113 B 3",
                "123 B 4", "133 B 5", "133 B ended",
            ])
        #expect(second.timeline.scheduled == at(13) && second.timeline.firstToken == at(26))
        #expect(first.preemptionCount == 0 && second.cachedTokenCount == 0)
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 5)
    }

    @Test func aPromptThatIsComputedIsTheFirstToGiveWay() throws {
        let bench = try Bench(blocks: 7)
        bench.submit(Bench.request("A", prompt: tokens(0..<8), tokens: 9))
        bench.submit(Bench.request("B", prompt: tokens(100..<112), tokens: 1))
        let last = Bench.request("C", prompt: tokens(200..<212), tokens: 2)
        bench.submit(last)
        // C is computed from 30 to 57, in 3 of the 7 blocks; at 53 A needs its fourth, and B's
        // last one, which is free, went to its third.
        bench.run(until: at(300))
        let order = bench.takeLog().filter { $0.contains("preempted") || $0.hasPrefix("99") }
        #expect(order == ["53 C preempted", "99 C 2", "99 C ended"])
        #expect(last.timeline.scheduled == at(30))
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 7)
    }

    /// Many requests in few blocks: all end, with each token once, and the blocks balance.
    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
    func allRequestsEndHoweverOftenTheyArePreempted(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bench = try Bench(blocks: 24, maxRunning: 6, loadFactor: 2)
        var replica = EventReplica()
        var requests: [EngineRequest] = []
        for number in 0..<60 {
            let family = UInt32.random(in: 0..<3, using: &random) * 1000
            let count = UInt32.random(in: 1...40, using: &random)
            let request = Bench.request(
                "\(number)", prompt: tokens(family..<family + count),
                tokens: Int.random(in: 1...40, using: &random),
                keepsBlocks: Int.random(in: 0..<8, using: &random) == 0)
            requests.append(request)
            bench.submit(request)
            bench.run(until: bench.now + .milliseconds(Int.random(in: 0...80, using: &random)))
            let fits = replica.apply(bench.scheduler.takeCacheEvents(), blockSize: 4)
            try #require(fits, "seed \(seed), request \(number)")
            let held = Set(requests.flatMap(\.blocks)).count
            try #require(bench.scheduler.pool.freeCount == 24 - held, "seed \(seed), \(number)")
        }
        bench.run(until: bench.now + .seconds(600))
        let fits = replica.apply(bench.scheduler.takeCacheEvents(), blockSize: 4)
        #expect(fits && replica.cached == Set(bench.scheduler.pool.cachedHashes), "seed \(seed)")
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 24, "seed \(seed)")
        var generated: [String: Int] = [:]
        for event in bench.events {
            if case .token(let request, _) = event { generated[request.id, default: 0] += 1 }
        }
        for request in requests {
            #expect(request.state == .ended, "seed \(seed)")
            #expect(generated[request.id] == request.reply.tokenCount, "seed \(seed)")
        }
        #expect(requests.reduce(0) { $0 + $1.preemptionCount } > 5, "seed \(seed)")
        // The chain of what was computed in two parts is that of one prompt.
        let hasher = try BlockHasher(blockSize: 4)
        for request in requests where request.preemptionCount > 0 {
            let all =
                request.prompt + (0..<request.reply.tokenCount).map(request.reply.token(at:))
            let chain = hasher.hashes(of: all.span)
            #expect(Array(chain.prefix(request.chain.count)) == request.chain, "seed \(seed)")
        }
    }

    @Test func theQueueIsBounded() throws {
        let bench = try Bench(maxRunning: 1, maxWaiting: 2)
        #expect(bench.scheduler.hasRoom(for: 2) && !bench.scheduler.hasRoom(for: 3))
        for id in ["A", "B", "C"] {
            bench.submit(Bench.request(id, prompt: tokens(0..<5), tokens: 2))
        }
        #expect(!bench.scheduler.hasRoom(for: 1))
    }

    @Test func keepsBlocksForAnotherEngineUntilItSaysSo() throws {
        let bench = try Bench()
        let request = Bench.request("A", prompt: tokens(0..<9), tokens: 1, keepsBlocks: true)
        bench.submit(request)
        bench.run(until: at(20))
        #expect(request.state == .pinned && request.blocks.count == 3)
        #expect(bench.scheduler.pool.freeCount == 61)
        let wasReset = bench.scheduler.resetPrefixCache()
        #expect(!wasReset)
        bench.unpin("A")
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
        bench.unpin("A")
        #expect(bench.scheduler.pool.freeCount == 64)
    }

    @Test func keepsBlocksNoLongerThanTheLease() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 1, keepsBlocks: true))
        bench.submit(Bench.request("B", prompt: tokens(20..<25), tokens: 1, keepsBlocks: true))
        bench.run(until: at(100))
        _ = bench.takeLog()
        bench.unpin("A")
        #expect(bench.scheduler.nextDeadline == at(30_020))
        bench.run(until: at(60_000))
        #expect(bench.takeLog() == ["30020 B expired", "30020 fence [3, 2]"])
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
    }

    @Test func fencesASharedBlockWhenItsLastHolderLetsGo() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<5), tokens: 1, keepsBlocks: true))
        bench.run(until: at(100))
        // Block 0 is that of A.
        let other = Bench.request(
            "B", prompt: tokens(0..<4) + tokens(50..<55), tokens: 1, keepsBlocks: true)
        bench.submit(other)
        bench.run(until: at(200))
        #expect(other.blocks == [0, 2, 3])
        _ = bench.takeLog()
        bench.run(until: at(30_050))
        #expect(bench.takeLog() == ["30010 A expired", "30010 fence [1]"])
        // The peer of B came for its blocks, that of A may do so yet.
        bench.unpin("B")
        #expect(bench.takeLog() == ["30050 fence [0]"])
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
    }

    private let remote = RemoteKV(
        engineID: "e", requestID: "r", address: SocketAddress(host: "127.0.0.1", port: 1),
        blocks: [7, 8, 9])

    @Test func pullsWhatItDoesNotHaveAndComputesTheRest() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<6), tokens: 1))
        bench.run(until: at(50))
        _ = bench.takeLog()
        let request = Bench.request("B", prompt: tokens(0..<10), tokens: 2, remote: remote)
        bench.submit(request)
        #expect(bench.takeLog() == ["50 B pull"])
        // Block 0 is here; block 1 is pulled; the tail of 2 tokens is computed.
        #expect(request.pulled == 1..<2)
        #expect(bench.scheduler.transferWaitingCount == 1 && bench.scheduler.runningCount == 0)
        #expect(bench.scheduler.nextDeadline == nil)
        // 4 tokens of 1000 bytes at 500 kB/s take 8 ms, of which 2 have passed.
        bench.run(until: at(52))
        bench.scheduler.transferArrived(request, bandwidth: 5e5, at: bench.now)
        bench.run(until: at(100))
        #expect(bench.takeLog() == ["65 B 1", "75 B 2", "75 B ended"])
        #expect(bench.scheduler.pool.cachedHashes.count == 2)
    }

    @Test func pullsShareOneLink() throws {
        let bench = try Bench()
        let one = Bench.request("A", prompt: tokens(0..<9), tokens: 1, remote: remote)
        let two = Bench.request("B", prompt: tokens(50..<59), tokens: 1, remote: remote)
        bench.submit(one)
        bench.submit(two)
        bench.scheduler.transferArrived(one, bandwidth: 8e5, at: bench.now)
        bench.scheduler.transferArrived(two, bandwidth: 8e5, at: bench.now)
        bench.run(until: at(100))
        // 8 tokens each: 10 ms on the link, then a prefill of 6.
        #expect(bench.takeLog().filter { $0.hasSuffix("1") } == ["16 A 1", "26 B 1"])
    }

    @Test func aSlowTransferIsNotHidden() throws {
        let bench = try Bench()
        let request = Bench.request("A", prompt: tokens(0..<9), tokens: 1, remote: remote)
        bench.submit(request)
        bench.run(until: at(40))
        bench.scheduler.transferArrived(request, bandwidth: 1e9, at: bench.now)
        bench.run(until: at(100))
        #expect(bench.takeLog().contains("46 A 1"))
    }

    @Test func nothingToPullReleasesTheRemoteAtOnce() throws {
        let bench = try Bench()
        bench.submit(Bench.request("A", prompt: tokens(0..<10), tokens: 1))
        bench.run(until: at(50))
        _ = bench.takeLog()
        bench.submit(Bench.request("B", prompt: tokens(0..<10), tokens: 1, remote: remote))
        bench.run(until: at(100))
        #expect(bench.takeLog() == ["50 B release remote", "57 B 1", "57 B ended"])
    }

    @Test func aFailedTransferFreesEverything() throws {
        let bench = try Bench()
        let request = Bench.request("A", prompt: tokens(0..<10), tokens: 5, remote: remote)
        bench.submit(request)
        bench.failTransfer(request)
        #expect(request.state == .ended)
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
        #expect(bench.scheduler.pool.cachedHashes.isEmpty)
    }

    @Test func abortedInATransferKeepsItsBlocksUntilThatIsFinal() throws {
        let bench = try Bench()
        let request = Bench.request("A", prompt: tokens(0..<10), tokens: 5, remote: remote)
        bench.submit(request)
        bench.abort(request)
        #expect(request.state == .cancelling && bench.scheduler.pool.freeCount == 61)
        bench.failTransfer(request)
        #expect(bench.isIdle && bench.scheduler.pool.freeCount == 64)
    }

    /// Requests come, go and fail at random; whatever happens, the books balance.
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func theBooksBalance(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let bench = try Bench(blocks: 40, maxRunning: 4, maxWaiting: 20, loadFactor: 2)
        var replica = EventReplica()
        var live: [EngineRequest] = []
        var tokenCounts: [String: Int] = [:]
        var seen = 0
        for operation in 0..<1500 {
            let note: Comment = "seed \(seed), operation \(operation)"
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4 where bench.scheduler.hasRoom(for: 1):
                let family = UInt32.random(in: 0..<4, using: &random) * 1000
                let count = UInt32.random(in: 1...40, using: &random)
                let isRemote = Int.random(in: 0..<4, using: &random) == 0
                let request = Bench.request(
                    "\(operation)", prompt: tokens(family..<family + count),
                    tokens: Int.random(in: 1...20, using: &random),
                    remote: isRemote ? remote : nil,
                    keepsBlocks: Int.random(in: 0..<5, using: &random) == 0)
                bench.submit(request)
                live.append(request)
            case 4:
                guard let request = live.randomElement(using: &random) else { break }
                bench.abort(request)
            case 5, 6:
                for request in live where request.state == .pulling || request.state == .cancelling
                {
                    if request.state == .pulling, Bool.random(using: &random) {
                        bench.scheduler.transferArrived(request, bandwidth: 1e6, at: bench.now)
                    } else {
                        bench.failTransfer(request)
                    }
                }
            case 7:
                if let request = live.first(where: { $0.state == .pinned }) {
                    bench.unpin(request.id)
                }
            default:
                bench.run(
                    until: bench.now + .microseconds(Int.random(in: 0...60_000, using: &random)))
            }
            for event in bench.events[seen...] {
                if case .token(let request, _) = event {
                    tokenCounts[request.id, default: 0] += 1
                }
            }
            seen = bench.events.count
            let fits = replica.apply(bench.scheduler.takeCacheEvents(), blockSize: 4)
            try #require(fits, note)
            try #require(replica.cached == Set(bench.scheduler.pool.cachedHashes), note)
            let held = Set(live.flatMap(\.blocks)).count
            try #require(bench.scheduler.pool.freeCount == 40 - held, note)
            try #require(bench.scheduler.runningCount <= 4, note)
            live.removeAll { $0.state == .ended }
        }
        for request in live where request.state == .pulling || request.state == .cancelling {
            bench.failTransfer(request)
        }
        // Whoever is placed while the rest ends may still begin a pull.
        while !bench.isIdle {
            for request in live where request.state == .pulling { bench.failTransfer(request) }
            bench.run(until: bench.now + .seconds(31))
        }
        try #require(bench.scheduler.pool.freeCount == 40)
        try #require(tokenCounts.values.reduce(0, +) > 500)
    }
}
