import Core
import Hashing
import KVIndex
import Testing

/// The index against a model that keeps whole token sequences and searches them all.
@Suite struct IndexPropertyTests {
    private struct World {
        let index: KVIndex
        let blockSize: Int
        var random: SeededGenerator
        var endpoints: [ModelEndpoint] = []
        var now = MonotonicTime(nanoseconds: 0)
        var nextHash: UInt64 = 1
        /// So that the same blocks get the same hash again, or now and then another one.
        var hashes: [Int: [ModelPrefix: UInt64]] = [:]

        init(seed: UInt64, algorithm: RequestKeyAlgorithm) throws {
            random = SeededGenerator(seed: seed)
            blockSize = [1, 3, 4].randomElement(using: &random) ?? 4
            var configuration = KVIndex.Configuration()
            configuration.blockSize = blockSize
            configuration.algorithm = algorithm
            index = try KVIndex(configuration: configuration)
            for number in 0..<5 {
                endpoints.append(
                    ModelEndpoint(
                        handle: try index.register("\(number)"),
                        blockSize: [2, 3, 4, 4, 8].randomElement(using: &random) ?? 4))
            }
        }

        mutating func chance(_ percent: Int) -> Bool {
            Int.random(in: 0..<100, using: &random) < percent
        }

        mutating func root() -> ModelPrefix {
            ModelPrefix(
                model: chance(70) ? "m" : "lora", salt: chance(80) ? nil : "salt", tokens: [])
        }

        mutating func hash(_ number: Int, _ prefix: ModelPrefix) -> UInt64 {
            if let known = hashes[number]?[prefix], !chance(10) { return known }
            nextHash += 1
            hashes[number, default: [:]][prefix] = nextHash
            return nextHash
        }

        /// Few different tokens, so that sequences share their beginnings.
        mutating func token() -> UInt32 {
            chance(85) ? 7 : UInt32.random(in: 0..<3, using: &random)
        }

        mutating func step() {
            let number = Int.random(in: 0..<endpoints.count, using: &random)
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<50: storeSome(number)
            case 50..<80: changeSome(number)
            case 80..<82:
                index.apply(batch { $0.addClear() }, from: endpoints[number].handle, model: "m")
                endpoints[number].blocks = [:]
                endpoints[number].parked = []
            case 82..<92: expectSome(number)
            default: now = now + .milliseconds(Int.random(in: 0..<800, using: &random))
            }
        }

        private mutating func storeSome(_ number: Int) {
            let size = endpoints[number].blockSize
            var parent: UInt64?
            var prefix = root()
            // Go on after a known block, or after one that will come later.
            if chance(60),
                let known = endpoints[number].blocks.keys.sorted().randomElement(using: &random)
            {
                parent = known
                prefix = endpoints[number].blocks[known]?.prefix ?? prefix
            } else if chance(25) {
                prefix.tokens = (0..<size).map { _ in token() }
                parent = hash(number, prefix)
            }
            let isStart = parent == nil
            let tier = chance(70) ? 0 : Int.random(in: 1..<4, using: &random)
            var store = ModelStore(parent: parent, hashes: [], blocks: [], tier: tier)
            let first = prefix.tokens.count
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                for _ in 0..<size { prefix.tokens.append(token()) }
                let hash = hash(number, prefix)
                // One sequence does not hold a block twice.
                if store.hashes.contains(hash) || hash == parent { break }
                store.hashes.append(hash)
                store.blocks.append(ModelBlock(prefix: prefix, size: size))
            }
            guard let last = store.blocks.last else { return }
            let tokens = Array(last.prefix.tokens[first...])
            let isLoRA = prefix.model == "lora"
            var extras: [KVEventBatch.ExtraKey] = []
            for block in store.hashes.indices {
                if isLoRA { extras.append(.init(block: block, value: "lora", offset: nil)) }
                if isStart, block == 0, let salt = prefix.salt {
                    extras.append(.init(block: 0, value: salt, offset: nil))
                }
            }
            index.apply(
                batch {
                    $0.addStore(
                        store.hashes, parent: parent, tokens: tokens, blockSize: size,
                        tier: Tier.allCases[tier], loraName: isLoRA ? "lora" : nil,
                        extraKeys: extras)
                }, from: endpoints[number].handle, model: "m")
            endpoints[number].apply(store)
        }

        private mutating func changeSome(_ number: Int) {
            let parked = endpoints[number].parked.flatMap(\.hashes)
            let known = endpoints[number].blocks.keys.sorted()
            let candidates = chance(25) ? parked : known
            let hash = candidates.randomElement(using: &random) ?? 0
            let tier = chance(70) ? 0 : Int.random(in: 1..<4, using: &random)
            let isStore = chance(25)
            index.apply(
                batch {
                    if isStore {
                        $0.addStore(
                            [hash], parent: nil, tokens: [], blockSize: 0,
                            tier: Tier.allCases[tier])
                    } else {
                        $0.addRemoval([hash], tier: Tier.allCases[tier])
                    }
                }, from: endpoints[number].handle, model: "m")
            endpoints[number].change((hash, tier, isStore))
        }

        private mutating func expectSome(_ number: Int) {
            let prompt = prompt()
            let until = now + .milliseconds(Int.random(in: 1..<2000, using: &random))
            index.expect(keys(prompt).span, at: endpoints[number].handle, until: until)
            for prefix in prefixes(prompt)
            where !endpoints[number].blocks.values.contains(where: { holdsOnGPU($0, prefix) }) {
                endpoints[number].expected.append((prefix, until))
            }
        }

        private func holdsOnGPU(_ block: ModelBlock, _ prefix: ModelPrefix) -> Bool {
            let (length, end) = (prefix.tokens.count, block.prefix.tokens.count)
            return block.references[0] > 0 && end - block.size < length && length <= end
                && block.prefix.model == prefix.model && block.prefix.salt == prefix.salt
                && block.prefix.tokens.starts(with: prefix.tokens)
        }

        mutating func prompt() -> ModelPrefix {
            var prompt = root()
            let number = Int.random(in: 0..<endpoints.count, using: &random)
            if chance(80),
                let known = endpoints[number].blocks.keys.sorted().randomElement(using: &random)
            {
                prompt = endpoints[number].blocks[known]?.prefix ?? prompt
            }
            for _ in 0..<Int.random(in: 0..<12, using: &random) { prompt.tokens.append(token()) }
            return prompt
        }

        func prefixes(_ prompt: ModelPrefix) -> [ModelPrefix] {
            (0..<prompt.tokens.count / blockSize).map { block in
                var prefix = prompt
                prefix.tokens = Array(prompt.tokens[..<((block + 1) * blockSize)])
                return prefix
            }
        }

        func keys(_ prompt: ModelPrefix) -> [UInt64] {
            let hasher = index.hasher(model: prompt.model)
            return hasher.keys(of: prompt.tokens.span) { block in
                block == 0 ? hasher.extraKeys(prompt.salt.map { [$0] } ?? []) : .none
            }
        }
    }

    @Test(arguments: 0..<24 as Range<UInt64>)
    func indexEqualsTheModel(seed: UInt64) throws {
        var world = try World(seed: seed, algorithm: seed % 2 == 0 ? .xxh64 : .cborFNV)
        var matches = PrefixMatches()
        for step in 0..<600 {
            world.step()
            let prompt = world.prompt()
            world.index.match(world.keys(prompt).span, at: world.now, into: &matches)
            for endpoint in world.endpoints {
                var expected = [0, 0, 0, 0]
                for prefix in world.prefixes(prompt) {
                    guard let tier = endpoint.fastestTier(prefix, at: world.now) else { break }
                    expected[tier] += 1
                }
                let match = matches[endpoint.handle]
                let actual = Tier.allCases.map { match.blockCount(in: $0) }
                try #require(actual == expected, "seed \(seed), step \(step), prompt \(prompt)")
            }
        }
        for endpoint in world.endpoints {
            let held = endpoint.blocks.values.filter { $0.references.contains { $0 > 0 } }.count
            let counters = try #require(world.index.counters(of: endpoint.handle))
            #expect(counters.blockCount == held, "seed \(seed)")
            #expect(counters.parkedCount == endpoint.parked.count, "seed \(seed)")
            world.index.remove(endpoint.handle)
        }
        // Everything is found again when everybody has gone.
        #expect(world.index.statistics.blockCount == 0, "seed \(seed)")
        #expect(world.index.statistics.engineBlockCount == 0, "seed \(seed)")
    }
}
