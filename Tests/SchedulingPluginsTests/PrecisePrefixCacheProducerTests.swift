import Core
import KVIndex
import Scheduling
import SchedulingPlugins
import Synchronization
import Testing

@Suite struct PrecisePrefixCacheProducerTests {
    private func make(_ parameters: String) throws -> (Scheduler, KVIndex) {
        final class Box: Sendable { let index = Mutex<KVIndex?>(nil) }
        let box = Box()
        var registry = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(in: &registry) {
            (configuration) throws(KVIndexError) in
            let index = try KVIndex(configuration: configuration)
            box.index.withLock { $0 = index }
            return index
        }
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

    private func cycle(tokens: [UInt32], salt: String? = nil) -> SchedulingCycle {
        let pool = context(count: 3)
        var cycle = SchedulingCycle(
            request: SchedulingRequest(
                id: "r", model: "m", headers: NoHeaders(), tokens: tokens, cacheSalt: salt),
            seed: 1)
        cycle.context.endpoints = pool.endpoints
        cycle.context.loads = pool.loads
        cycle.context.inFlight = pool.inFlight
        cycle.eligible = [0, 1, 2]
        return cycle
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
        ("{replicaConfig: {}, redisConfig: {}}", "cannot stand beside redisConfig"),
        ("{replicaConfig: {}, valkeyConfig: {}}", "cannot stand beside redisConfig"),
        ("{replicaConfig: {}}", "is not possible here"),
    ])
    func anIndexIsSharedInOneWayAndWhereItCanBe(_ section: String, _ part: String) {
        #expect {
            try make("{indexerConfig: {kvBlockIndexConfig: \(section)}}")
        } throws: { error in
            "\(error)".contains(part)
        }
    }
}
