import Core
import Foundation
import Hashing
import KVIndex
import Testing

/// A hundred engines over a network that loses, doubles and reorders, with restarts, evictions and
/// duplicate stores. When it has calmed down, the index equals a slow model of what was applied,
/// and where nothing could be lost for good, what the engines really hold.
@Suite struct SimulationTests {
    /// 20 seeds, or as many as `KVINDEX_SEEDS` asks for.
    static let seeds: Range<UInt64> = {
        let count = ProcessInfo.processInfo.environment["KVINDEX_SEEDS"].flatMap(UInt64.init)
        print("simulation seeds 0..<\(count ?? 20)")
        return 0..<(count ?? 20)
    }()

    /// One engine, its connection, and what follows it: the part of `EngineStream` without I/O.
    private struct Link {
        var engine: SimulatedEngine
        var model: ModelEndpoint
        var tracker: SequenceTracker
        let canReplay: Bool
        let isComplete: Bool
        var isConnected = false
        var inFlight: [SimulatedEngine.Batch] = []
        var held: [SimulatedEngine.Batch] = []
        /// The replay under way: what is still to come.
        var replay: [SimulatedEngine.Batch]?
        var batch = KVEventBatch()

        init(number: Int, handle: EndpointHandle, using random: inout SeededGenerator) {
            // Some engines have no replay, some forget batches that are still needed.
            canReplay = number % 5 != 4
            isComplete = number % 5 < 3
            engine = SimulatedEngine(
                number: number, writesMaps: number % 2 == 0,
                bufferLimit: isComplete ? 10_000 : 12)
            model = ModelEndpoint(handle: handle, blockSize: SimulatedEngine.blockSize)
            var policy = SequenceTracker.Policy()
            policy.canReplay = canReplay
            tracker = SequenceTracker(policy: policy)
        }

        /// Whether nothing was lost for good.
        var hasEverything: Bool {
            isComplete && tracker.counters.lostCount == 0
                && tracker.counters.failedReplayCount == 0
        }

        mutating func perform(
            _ commands: [SequenceTracker.Command], _ index: KVIndex, at now: MonotonicTime
        ) throws {
            for command in commands {
                switch command {
                case .clear:
                    index.clear(model.handle)
                    model.blocks = [:]
                    model.parked = []
                case .dropHeld: held = []
                case .releaseHeld:
                    let batches = held
                    held = []
                    for batch in batches {
                        let decision = tracker.released(
                            batch.sequence, fingerprint: Self.fingerprint(batch), at: now)
                        try act(decision, batch, index, at: now)
                    }
                case .startReplay(let start): replay = engine.replay(from: start)
                case .stopReplay: replay = nil
                }
            }
        }

        private static func fingerprint(_ batch: SimulatedEngine.Batch) -> UInt64 {
            batch.payload.prefix(64).reduce(UInt64(batch.payload.count)) {
                ($0 ^ UInt64($1)) &* 0x100_0000_01b3
            }
        }

        private mutating func act(
            _ decision: SequenceTracker.Decision, _ batch: SimulatedEngine.Batch,
            _ index: KVIndex, at now: MonotonicTime
        ) throws {
            try perform(decision.commands, index, at: now)
            switch decision.disposition {
            case .apply: try apply(batch, index)
            case .hold: held.append(batch)
            case .discard: break
            }
        }

        mutating func receive(
            _ batch: SimulatedEngine.Batch, _ index: KVIndex, at now: MonotonicTime
        ) throws {
            let decision = tracker.live(
                batch.sequence, fingerprint: Self.fingerprint(batch), at: now)
            try act(decision, batch, index, at: now)
        }

        /// Gives the tracker the replay as far as it gets.
        mutating func receiveReplay(
            _ index: KVIndex, cutAfter limit: Int?, at now: MonotonicTime
        ) throws {
            var count = 0
            while let batch = replay?.first {
                if let limit, count >= limit {
                    replay = nil
                    try perform(tracker.replayFailed(at: now), index, at: now)
                    return
                }
                replay?.removeFirst()
                count += 1
                let decision = tracker.replayed(
                    batch.sequence, fingerprint: Self.fingerprint(batch), at: now)
                try act(decision, batch, index, at: now)
            }
            guard replay != nil else { return }
            replay = nil
            try perform(tracker.replayEnded(at: now), index, at: now)
        }

        private mutating func apply(_ sent: SimulatedEngine.Batch, _ index: KVIndex) throws {
            batch = try decode(sent.payload)
            index.apply(batch, from: model.handle, model: "m")
            for event in batch.events {
                switch event {
                case .stored(let stored): apply(stored)
                case .removed(let removed):
                    for hash in batch.hashes[removed.hashes] {
                        model.change((hash, Int(removed.tier.rawValue), false))
                    }
                case .allCleared:
                    model.blocks = [:]
                    model.parked = []
                }
            }
        }

        private mutating func apply(_ stored: BlocksStored) {
            let hashes = Array(batch.hashes[stored.hashes])
            let tier = Int(stored.tier.rawValue)
            guard !stored.tokens.isEmpty else {
                for hash in hashes { model.change((hash, tier, true)) }
                return
            }
            let blocks = hashes.map {
                ModelBlock(prefix: engine.prefix(of: $0), size: SimulatedEngine.blockSize)
            }
            model.apply(
                ModelStore(parent: stored.parent, hashes: hashes, blocks: blocks, tier: tier))
        }
    }

    private struct World {
        let index: KVIndex
        var random: SeededGenerator
        var links: [Link] = []
        var now = MonotonicTime(nanoseconds: 1)
        let prompts: [[UInt32]]

        init(seed: UInt64) throws {
            var random = SeededGenerator(seed: seed)
            var configuration = KVIndex.Configuration()
            configuration.blockSize = SimulatedEngine.blockSize
            index = try KVIndex(configuration: configuration)
            // Few beginnings, many ends.
            prompts = (0..<30).map { number in
                (0..<Int.random(in: 4...40, using: &random)).map {
                    $0 < 12 ? UInt32(number % 3 + 1) : UInt32.random(in: 1...3, using: &random)
                }
            }
            for number in 0..<100 {
                let handle = try index.register("engine-\(number)")
                links.append(Link(number: number, handle: handle, using: &random))
            }
            self.random = random
        }

        private mutating func chance(_ perMille: Int) -> Bool {
            Int.random(in: 0..<1000, using: &random) < perMille
        }

        mutating func step() throws {
            now = now + .milliseconds(Int.random(in: 0..<40, using: &random))
            let number = Int.random(in: 0..<links.count, using: &random)
            try connect(number)
            try send(number)
            try deliver(number, isCalm: false)
        }

        private mutating func connect(_ number: Int) throws {
            if links[number].isConnected, chance(10) {
                try disconnect(number)
            } else if !links[number].isConnected, chance(500) {
                links[number].isConnected = true
                let commands = links[number].tracker.connected(at: now)
                try links[number].perform(commands, index, at: now)
            }
        }

        private mutating func disconnect(_ number: Int) throws {
            guard links[number].isConnected else { return }
            links[number].isConnected = false
            links[number].inFlight = []
            let commands = links[number].tracker.disconnected()
            try links[number].perform(commands, index, at: now)
        }

        private mutating func send(_ number: Int) throws {
            if chance(8) {
                links[number].engine.restart()
                try disconnect(number)
            }
            let prompt = prompts.randomElement(using: &random) ?? []
            let batch: SimulatedEngine.Batch
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<60:
                batch = links[number].engine.compute(
                    prompt, againAll: chance(50), using: &random)
            case 60..<85:
                batch = links[number].engine.evict(
                    Int.random(in: 1...4, using: &random), using: &random)
            case 85..<99: batch = links[number].engine.offload(using: &random)
            default: batch = links[number].engine.clear()
            }
            guard links[number].isConnected else { return }
            if !chance(30) { links[number].inFlight.append(batch) }
            if chance(5) { links[number].inFlight.append(batch) }
            let count = links[number].inFlight.count
            if count > 1, chance(10) { links[number].inFlight.swapAt(count - 1, count - 2) }
        }

        private mutating func deliver(_ number: Int, isCalm: Bool) throws {
            while !links[number].inFlight.isEmpty, isCalm || chance(800) {
                let batch = links[number].inFlight.removeFirst()
                try links[number].receive(batch, index, at: now)
            }
            if isCalm || chance(600) {
                let cut = !isCalm && chance(100) ? Int.random(in: 0..<6, using: &random) : nil
                try links[number].receiveReplay(index, cutAfter: cut, at: now)
            }
            if let deadline = links[number].tracker.deadline, deadline <= now {
                let commands = links[number].tracker.tick(now)
                try links[number].perform(commands, index, at: now)
            }
        }

        /// Everything arrives, and each engine says that it is there.
        mutating func calmDown() throws {
            for number in links.indices {
                if !links[number].isConnected {
                    links[number].isConnected = true
                    let commands = links[number].tracker.connected(at: now)
                    try links[number].perform(commands, index, at: now)
                }
                // Cooling down after vain replays comes to an end meanwhile.
                for _ in 0..<8 {
                    now = now + .seconds(40)
                    links[number].inFlight.append(links[number].engine.beat())
                    try deliver(number, isCalm: true)
                    try deliver(number, isCalm: true)
                }
            }
        }

        /// The fastest tier of each block that the model holds, by its prefix.
        private func tiers(_ blocks: [UInt64: ModelBlock]) -> [[UInt32]: Int] {
            var tiers: [[UInt32]: Int] = [:]
            for block in blocks.values {
                guard let tier = block.references.firstIndex(where: { $0 > 0 }) else { continue }
                tiers[block.prefix.tokens] = min(tiers[block.prefix.tokens] ?? 3, tier)
            }
            return tiers
        }

        func check(_ seed: UInt64) throws {
            let held = links.map { tiers($0.model.blocks) }
            var completeCount = 0
            for (number, link) in links.enumerated() where link.hasEverything {
                completeCount += 1
                try #require(
                    held[number] == tiers(link.engine.blocks),
                    "seed \(seed): engine \(number) holds something else: \(link.tracker.counters)")
            }
            #expect(completeCount > 30, "seed \(seed)")
            var matches = PrefixMatches()
            for prompt in prompts {
                let keys = index.hasher(model: "m").keys(of: prompt.span)
                index.match(keys.span, at: now, into: &matches)
                for (number, link) in links.enumerated() {
                    var expected = [0, 0, 0, 0]
                    for block in 1...keys.count {
                        let prefix = Array(prompt[..<(block * SimulatedEngine.blockSize)])
                        guard let tier = held[number][prefix] else { break }
                        expected[tier] += 1
                    }
                    let actual = Tier.allCases.map {
                        matches[link.model.handle].blockCount(in: $0)
                    }
                    try #require(actual == expected, "seed \(seed), engine \(number)")
                }
            }
            for link in links {
                let count = link.model.blocks.values.filter { $0.references.contains { $0 > 0 } }
                #expect(
                    index.counters(of: link.model.handle)?.blockCount == count.count,
                    "seed \(seed)")
            }
        }
    }

    @Test(arguments: SimulationTests.seeds)
    func indexEqualsTheEngines(seed: UInt64) throws {
        var world = try World(seed: seed)
        for _ in 0..<4000 { try world.step() }
        try world.calmDown()
        try world.check(seed)
        #expect(world.links.contains { $0.tracker.counters.restartCount > 0 })
        #expect(world.links.contains { $0.tracker.counters.gapCount > 0 })
        #expect(world.links.contains { !$0.model.blocks.isEmpty })
    }
}
