import Configuration
import Core
import Hashing
import KVIndex
import Scheduling
import SchedulingPlugins
import Synchronization
import Testing

@Suite struct PrecisePrefixCacheProducerTests {
    /// Of a shared index the keys are made by `sharedAlgorithm`.
    private func make(
        _ parameters: String, sharedAlgorithm: RequestKeyAlgorithm = .xxh64
    ) throws -> (Scheduler, KVIndex) {
        let box = IndexBox()
        var registry = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(
            in: &registry,
            makeIndex: { (configuration) throws(KVIndexError) in
                let index = try KVIndex(configuration: configuration)
                box.index.withLock { $0 = index }
                return index
            },
            shareIndex: { (section) throws(ConfigError) in
                _ = try section.section { (section) throws(ConfigError) in
                    try section.required("address").string()
                }
                return sharedAlgorithm
            },
            shareReplicas: { (section) throws(ConfigError) in _ = try section.string() })
        let scheduler = try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - {type: precise-prefix-cache-producer, parameters: \(parameters)}
                - type: prefix-cache-scorer
                  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
                """,
            file: "t.yaml", registry: registry)
        return (scheduler, try #require(box.index.withLock { $0 }))
    }

    private func cycle(
        tokens: [UInt32], salt: String? = nil, ranks: Int = 1, generation: Int? = nil
    ) -> SchedulingCycle {
        var pool = context(count: 3)
        if ranks > 1 {
            var server = pool.endpoints[1].server
            server.dataParallelSize = ranks
            pool.endpoints[1] = Endpoint(server, id: 1)
        }
        var cycle = SchedulingCycle(
            request: SchedulingRequest(
                id: "r", model: "m", headers: NoHeaders(), tokens: tokens, cacheSalt: salt),
            seed: 1)
        cycle.context.endpoints = pool.endpoints
        cycle.context.poolGeneration = generation
        cycle.context.loads = pool.loads
        cycle.context.inFlight = pool.inFlight
        cycle.eligible = [0, 1, 2]
        return cycle
    }

    /// Endpoints that hold two blocks of four each, in these tiers, or one.
    private func weighted(_ indexer: String, blockSize: Int = 4) throws -> PrefixCacheMatch {
        let (scheduler, index) = try make(
            "{tokenProcessorConfig: {blockSize: \(blockSize)}, indexerConfig: \(indexer)}")
        let tokens = Array(0..<UInt32(4 * blockSize))
        let keys = index.hasher(model: "m").keys(of: tokens.span)
        for (number, tiers) in [[Tier.gpu, .cpu], [.cpu, .disk], [.remote]].enumerated() {
            let endpoint = try index.register("e\(number)")
            for (block, tier) in tiers.enumerated() {
                index.add(
                    [keys[block]].span, keys: [keys[block]].span, in: tier, of: endpoint)
            }
        }
        var cycle = cycle(tokens: tokens)
        _ = try scheduler.schedule(&cycle)
        return try #require(cycle.context.prefixMatch(by: "precise-prefix-cache-producer"))
    }

    @Test func tiersWeighAsConfigured() throws {
        let match = try weighted(
            "{kvCacheBackendConfigs: "
                + "[{name: cpu, weight: 0.5}, {name: storage, weight: 0.25}]}")
        #expect(match.matchedBlocks == [2, 2, 1])
        #expect(match.weightedBlocks == [1.5, 0.75, 0.4])
    }

    /// Bytes per token, prefill tokens per second, bytes per second by tier, weights expected of
    /// (gpu + cpu, cpu + disk, remote).
    private static let loadTimes: [(Int, Int, String, [Double])] = [
        // 100 bytes at 1e6 bytes/s load in 0.1 ms, a token is computed in 1 ms: 0.9; disk 0.5;
        // remote 1 - 0.8.
        (100, 1000, "{cpu: 1e6, disk: 2e5, remote: 1.25e5}", [1.9, 1.4, 0.2]),
        // A slower engine gains more by loading.
        (100, 100, "{cpu: 1e6, storage: 2e5, remote: 1.25e5}", [1.99, 1.94, 0.92]),
        // More bytes to load gain less.
        (200, 1000, "{cpu: 1e6, disk: 4e5, remote: 1.25e6}", [1.8, 1.3, 0.84]),
        // As slow as computing, and slower: nothing. Not told: nothing.
        (100, 1000, "{cpu: 1e5, disk: 5e4}", [1, 0, 0]),
        // An H100's prefill of an 8B model; 50 GB/s and a fast SSD.
        (131_072, 34_590, "{cpu: 5e10, disk: 6e9}", [1.9093243904, 1.1536943104, 0]),
    ]

    /// max(0, 1 - (bytes per token / bytes per second) * tokens per second), and 1 for the GPU.
    @Test(arguments: loadTimes)
    func tiersWeighByTheirLoadTimes(
        bytes: Int, tokens: Int, speeds: String, expected: [Double]
    ) throws {
        let parameters =
            "kvBytesPerToken: \(bytes), prefillTokensPerSecond: \(tokens), "
            + "bytesPerSecond: \(speeds)"
        for blockSize in [4, 16] {
            let match = try weighted("{loadTimeWeights: {\(parameters)}}", blockSize: blockSize)
            expect(match.weightedBlocks, expected)
            // An endpoint whose whole match is worth nothing has none.
            #expect(match.matchedBlocks == zip([2, 2, 1], expected).map { $1 > 0 ? $0 : 0 })
        }
    }

    @Test(arguments: [
        ("{}", "loadTimeWeights needs a 'kvBytesPerToken'"),
        ("{kvBytesPerToken: 1}", "needs a 'prefillTokensPerSecond'"),
        ("{kvBytesPerToken: 1, prefillTokensPerSecond: 1}", "needs a 'bytesPerSecond'"),
        (
            "{kvBytesPerToken: 0, prefillTokensPerSecond: 1, bytesPerSecond: {}}",
            "kvBytesPerToken must be from"
        ),
        (
            "{kvBytesPerToken: 1, prefillTokensPerSecond: 1, bytesPerSecond: {cpu: 0}}",
            "loadTimeWeights.bytesPerSecond.cpu must be from"
        ),
        (
            "{kvBytesPerToken: 1, prefillTokensPerSecond: 1, bytesPerSecond: {gpu: 1}}",
            "loadTimeWeights.bytesPerSecond.gpu is not known"
        ),
        (
            "{kvBytesPerToken: 1, prefillTokensPerSecond: 1, bytesPerSecond: {disk: 1, storage: 1}}",
            "names a tier a second time"
        ),
        (
            "{kvBytesPerToken: 1, prefillTokensPerSecond: 1, bytesPerSecond: {}}, "
                + "kvCacheBackendConfigs: [{name: cpu, weight: 1}]",
            "cannot stand beside kvCacheBackendConfigs"
        ),
    ])
    func wrongLoadTimesAreErrors(_ value: String, _ part: String) {
        #expect { try make("{indexerConfig: {loadTimeWeights: \(value)}}") } throws: { error in
            guard let error = error as? ConfigError else { return false }
            return error.line == 4 && "\(error)".contains(part)
        }
    }

    /// The deprecated scorer has a producer of its own, and weighs tiers, too.
    @Test func theScorerWeighsTiers() throws {
        let box = IndexBox()
        var registry = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(in: &registry) { (configuration) throws(KVIndexError) in
            let index = try KVIndex(configuration: configuration)
            box.index.withLock { $0 = index }
            return index
        }
        let scheduler = try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - type: precise-prefix-cache-scorer
                  parameters: {tokenProcessorConfig: {blockSize: 4}}
                """, file: "t.yaml", registry: registry)
        let index = try #require(box.index.withLock { $0 })
        let tokens = Array<UInt32>(0..<16)
        let keys = index.hasher(model: "m").keys(of: tokens.span)
        let endpoint = try index.register("e1")
        for (block, tier) in [Tier.gpu, .cpu].enumerated() {
            index.add([keys[block]].span, keys: [keys[block]].span, in: tier, of: endpoint)
        }
        var cycle = cycle(tokens: tokens)
        let result = try scheduler.schedule(&cycle)
        #expect(result.primary == [ScoredCandidate(index: 1, score: 1.8 / 4)])
    }

    @Test(arguments: [
        ("[{name: tape, weight: 1}]", "tape"), ("[{name: gpu}]", "weight"),
        ("[{name: gpu, weight: 2}]", "1"),
        ("[{name: disk, weight: 1}, {name: storage, weight: 1}]", "a second time"),
        ("[{name: gpu, weight: 1, size: 1}]", "size"),
    ])
    func wrongTierWeightsAreErrors(_ list: String, _ part: String) {
        #expect { try make("{indexerConfig: {kvCacheBackendConfigs: \(list)}}") } throws: { error in
            guard let error = error as? ConfigError else { return false }
            return error.line == 4 && "\(error)".contains(part)
        }
    }

    @Test func speculationBringsAnEqualPromptToTheSameEndpoint() throws {
        let (scheduler, index) = try make(
            "{tokenProcessorConfig: {blockSize: 4}, speculativeIndexing: true, speculativeTTL: 1h}")
        for number in 0..<3 { _ = try index.register("e\(number)") }
        let tokens = Array<UInt32>(0..<18)

        var first = cycle(tokens: tokens)
        let chosen = try scheduler.schedule(&first)
        let cold = try #require(first.context.prefixMatch(by: "precise-prefix-cache-producer"))
        #expect(cold.totalBlocks == 4 && cold.matchedBlocks == [0, 0, 0])
        _ = scheduler.prepare(chosen, in: first.context)

        for _ in 0..<20 {
            var next = cycle(tokens: tokens + [99, 99])
            let result = try scheduler.schedule(&next)
            #expect(result.primary[0].index == chosen.primary[0].index)
            #expect(result.primary[0].score == 4.0 / 5)
        }
        // Another salt is another prompt.
        var salted = cycle(tokens: tokens, salt: "s")
        _ = try scheduler.schedule(&salted)
        #expect(
            salted.context.prefixMatch(by: "precise-prefix-cache-producer")?.matchedBlocks
                == [0, 0, 0])
    }

    /// Blocks that the index expects at an endpoint for an hour.
    private func hold(_ tokens: [UInt32], at endpoint: EndpointHandle, in index: KVIndex) {
        let keys = index.hasher(model: "m").keys(of: tokens.span)
        index.expect(keys.span, at: endpoint, until: .now + .seconds(3600))
    }

    private func matched(_ cycle: SchedulingCycle) -> [Int]? {
        cycle.context.prefixMatch(by: "precise-prefix-cache-producer")?.matchedBlocks
    }

    @Test func serversCountWithTheBestOfTheirRanks() throws {
        let (scheduler, index) = try make("{tokenProcessorConfig: {blockSize: 4}}")
        for number in 0..<3 { _ = try index.register("e\(number)") }
        let tokens = Array<UInt32>(0..<16)
        for (rank, count) in [(1, 8), (2, 12), (5, 4)] {
            hold(
                Array(tokens[..<count]),
                at: try index.register("e1@dp\(rank)", rank: rank, of: "e1"), in: index)
        }
        hold(Array(tokens[..<4]), at: try #require(index.endpoint(named: "e2")), in: index)
        var cycle = cycle(tokens: tokens, ranks: 3)
        let result = try scheduler.schedule(&cycle)
        #expect(matched(cycle) == [0, 3, 1])
        #expect(result.primary[0].index == 1)
    }

    @Test func whoWillServeIsNotGuessedAmongRanks() throws {
        let (scheduler, index) = try make(
            "{tokenProcessorConfig: {blockSize: 4}, speculativeIndexing: true, speculativeTTL: 1h}")
        for number in 0..<3 { _ = try index.register("e\(number)") }
        let tokens = Array<UInt32>(0..<16)
        hold(
            Array(tokens[..<4]), at: try #require(index.endpoint(named: "e1")), in: index)
        // Declared, but not met yet; declared and met; met without having been declared.
        for (ranks, isMet) in [(2, false), (2, true), (1, true)] {
            if isMet { _ = try index.register("e1@dp1", rank: 1, of: "e1") }
            var first = cycle(tokens: tokens, ranks: ranks)
            let result = try scheduler.schedule(&first)
            #expect(result.primary[0].index == 1)
            _ = scheduler.prepare(result, in: first.context)
            var second = cycle(tokens: tokens, ranks: ranks)
            _ = try scheduler.schedule(&second)
            #expect(matched(second) == [0, 1, 0])
        }
    }

    /// An engine moves its address: the event source takes it out of the index and in again, while
    /// the pool is the same.
    @Test func newHandlesAreFoundInTheSamePool() throws {
        let (scheduler, index) = try make("{tokenProcessorConfig: {blockSize: 4}}")
        for number in 0..<3 { _ = try index.register("e\(number)") }
        let tokens = Array<UInt32>(0..<8)
        func matches() throws -> [Int]? {
            var cycle = cycle(tokens: tokens, generation: 1)
            _ = try scheduler.schedule(&cycle)
            return matched(cycle)
        }
        #expect(try matches() == [0, 0, 0])
        index.remove(try #require(index.endpoint(named: "e1")))
        hold(tokens, at: try index.register("e1"), in: index)
        #expect(try matches() == [0, 2, 0])
        hold(
            Array(tokens[..<4]), at: try index.register("e2@dp1", rank: 1, of: "e2"), in: index)
        #expect(try matches() == [0, 2, 1])
    }

    @Test func withoutSpeculationTheIndexIsNotTold() throws {
        let (scheduler, index) = try make("{tokenProcessorConfig: {blockSize: 4}}")
        for number in 0..<3 { _ = try index.register("e\(number)") }
        var first = cycle(tokens: Array(0..<8))
        let chosen = try scheduler.schedule(&first)
        _ = scheduler.prepare(chosen, in: first.context)
        var second = cycle(tokens: Array(0..<8))
        _ = try scheduler.schedule(&second)
        #expect(
            second.context.prefixMatch(by: "precise-prefix-cache-producer")?.matchedBlocks
                == [0, 0, 0])
    }

    @Test func endpointsThatTheIndexHasNotMetMatchNothing() throws {
        let (scheduler, _) = try make("{tokenProcessorConfig: {blockSize: 4}}")
        var cycle = cycle(tokens: Array(0..<8))
        _ = try scheduler.schedule(&cycle)
        #expect(
            cycle.context.prefixMatch(by: "precise-prefix-cache-producer")?.matchedBlocks
                == [0, 0, 0])
        var short = self.cycle(tokens: [1, 2, 3])
        _ = try scheduler.schedule(&short)
        #expect(short.context.prefixMatch(by: "precise-prefix-cache-producer") == nil)
    }

    @Test(arguments: [
        ("{}", RequestKeyAlgorithm.xxh64),
        ("{tokenProcessorConfig: {hashAlgorithm: cbor-fnv}}", .cborFNV),
        ("{tokenProcessorConfig: {hashAlgorithm: xxh64}}", .xxh64),
        ("{indexerConfig: {kvBlockIndexConfig: {redisConfig: {address: x}}}}", .cborFNV),
        ("{indexerConfig: {kvBlockIndexConfig: {valkeyConfig: {address: x}}}}", .cborFNV),
        (
            "{tokenProcessorConfig: {hashAlgorithm: xxh64}, "
                + "indexerConfig: {kvBlockIndexConfig: {redisConfig: {address: x}}}}", .xxh64
        ),
    ])
    func keysAreMadeAsTold(parameters: String, algorithm: RequestKeyAlgorithm) throws {
        let (_, index) = try make(parameters, sharedAlgorithm: .cborFNV)
        #expect(index.configuration.algorithm == algorithm)
    }

    @Test func unknownAlgorithmsAreRefused() {
        #expect {
            _ = try make("{tokenProcessorConfig: {hashAlgorithm: sha256}}")
        } throws: { error in
            "\(error)".contains("hashAlgorithm cannot be 'sha256'")
        }
    }

    @Test func aSeedThatIsTooLongIsRefusedByItsLineAndName() throws {
        func parameters(_ count: Int) -> String {
            """
            {tokenProcessorConfig: {blockSize: 4,
                hashSeed: \(String(repeating: "s", count: count))}}
            """
        }
        _ = try make(parameters(1024))
        for count in [1025, 70_000] {
            #expect {
                _ = try make(parameters(count))
            } throws: { error in
                "\(error)".hasPrefix("t.yaml:5: ")
                    && "\(error)".contains("hashSeed has \(count) bytes; 1024 are possible")
            }
        }
    }

    @Test(arguments: ["redisConfig", "valkeyConfig"])
    func routersShareTheirLoadBesideAServer(_ other: String) throws {
        let sections = Mutex<[String]>([])
        var registry = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(
            in: &registry,
            makeIndex: { (configuration) throws(KVIndexError) in
                try KVIndex(configuration: configuration)
            },
            shareIndex: { (value) throws(ConfigError) in
                let text = try value.string()
                sections.withLock { $0.append(text) }
                return .xxh64
            },
            shareReplicas: { (value) throws(ConfigError) in
                let text = try value.string()
                sections.withLock { $0.append(text) }
            })
        _ = try EndpointPickerConfig(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - type: precise-prefix-cache-producer
                  parameters:
                    {indexerConfig: {kvBlockIndexConfig: {\(other): x, replicaConfig: y}}}
                - type: random-picker
                """, file: "t.yaml", registry: registry)
        #expect(sections.withLock(\.self).sorted() == ["x", "y"])
    }

    @Test func lookupsAreToldToWhoAsksOthers() throws {
        let (scheduler, index) = try make("{tokenProcessorConfig: {blockSize: 4}}")
        index.recentLookups.open {}
        var cycle = cycle(tokens: Array(0..<9))
        _ = try scheduler.schedule(&cycle)
        let tokens = Array<UInt32>(0..<9)
        #expect(
            index.recentLookups.take() == [index.hasher(model: "m").keys(of: tokens.span)])
    }
}

/// The index that a configuration made.
private final class IndexBox: Sendable {
    let index = Mutex<KVIndex?>(nil)
}
