import Core
import Foundation
import Replay
import Scheduling
import Synchronization
import Telemetry
import Testing

@Suite struct RecordFileTests {
    private static let plugins = """
        - {type: prefill-filter}
        - {type: decode-filter}
        - {type: queue-scorer}
        - {type: prefix-cache-scorer}
        - {type: lora-affinity-scorer}
        - {type: always-disagg-pd-decider}
        - {type: always-disagg-multimodal-decider}
        - type: disagg-profile-handler
          parameters: {deciders: {prefill: always-disagg-pd-decider, encode: always-disagg-multimodal-decider}}
        - {type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}
        """
    private static let profiles = """
        - name: decode
          plugins:
          - pluginRef: decode-filter
          - {pluginRef: queue-scorer, weight: 2}
          - {pluginRef: prefix-cache-scorer, weight: 3}
          - pluginRef: max-score-picker
        - name: prefill
          plugins: [{pluginRef: prefill-filter}, {pluginRef: lora-affinity-scorer}, {pluginRef: max-score-picker}]
        - name: encode
          plugins: [{pluginRef: prefill-filter}]
        """

    /// What is read is what was written, in every field.
    @Test func recordsComeBack() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("RecordFileTests seed \(seed)")
        var random = RandomSource(seed: seed)
        let configuration = try configuration(plugins: Self.plugins, profiles: Self.profiles)
        let folder = try Folder()
        let recorder = try folder.recorder(described(configuration))
        var records: [DecisionRecord] = []
        for generation in 0..<200 {
            var cycle = randomCycle(&random, generation: generation)
            cycle.context.outputTokensInFlight =
                generation % 3 == 0 ? [] : cycle.context.inFlight.map { 3 * $0 }
            var record = record(configuration.scheduler, cycle)
            // No plugin here finds these out.
            let count = cycle.context.endpoints.count
            if generation % 2 == 0 {
                var match = MediaCacheMatch(producer: "media")
                match.reset(endpointCount: count)
                match.totalSize = 9
                match.matchedSizes[0] = 4
                record.mediaMatches = [match]
                record.predictions = [
                    LatencyPrediction(ttftMilliseconds: 1.5, tpotMilliseconds: 0.1)
                ]
                record.predictions += Array(repeating: nil, count: count - 1)
            }
            records.append(record)
            recorder.record(record)
        }
        let entries = try folder.entries()
        try #require(entries.count == records.count)
        for (entry, record) in zip(entries, records) {
            check(entry.decision, record, "seed \(seed), \(record.id)")
            #expect(entry.plugins == Set(described(configuration)))
            #expect(entry.decision.time > 1_600_000_000_000)
        }
    }

    private func check(_ read: DecisionRecord, _ written: DecisionRecord, _ hint: Comment) {
        #expect(read.id == written.id, hint)
        #expect(read.model == written.model && read.targetModel == written.targetModel, hint)
        #expect(read.priority == written.priority, hint)
        #expect(read.promptTokenCount == written.promptTokenCount, hint)
        #expect(read.ttftObjective == written.ttftObjective, hint)
        #expect(read.tpotObjective == written.tpotObjective, hint)
        #expect(read.wantsCachedPrompt == written.wantsCachedPrompt, hint)
        #expect(read.media == written.media, hint)
        #expect(read.pool.generation == written.pool.generation, hint)
        #expect(
            read.pool.endpoints.map(\.server) == written.pool.endpoints.map(\.server), hint)
        #expect(read.seed == written.seed && read.eligible == written.eligible, hint)
        #expect(read.inFlight == written.inFlight, hint)
        #expect(read.prefillTokensInFlight == written.prefillTokensInFlight, hint)
        #expect(read.outputTokensInFlight == written.outputTokensInFlight, hint)
        for (left, right) in zip(read.loads, written.loads) {
            var left = left
            #expect(
                left.scrapedAt.map { read.now - $0 } == right.scrapedAt.map { written.now - $0 },
                hint)
            left.scrapedAt = right.scrapedAt
            #expect(left == right, hint)
        }
        #expect(read.prefixMatches.map(\.producer) == written.prefixMatches.map(\.producer), hint)
        for (left, right) in zip(read.prefixMatches, written.prefixMatches) {
            #expect(left.blockSize == right.blockSize && left.totalBlocks == right.totalBlocks)
            #expect(left.matchedBlocks == right.matchedBlocks, hint)
            #expect(left.weightedBlocks == right.weightedBlocks, hint)
        }
        #expect(read.mediaMatches.map(\.producer) == written.mediaMatches.map(\.producer), hint)
        for (left, right) in zip(read.mediaMatches, written.mediaMatches) {
            #expect(left.totalSize == right.totalSize && left.matchedSizes == right.matchedSizes)
        }
        #expect(read.predictions == written.predictions, hint)
        #expect(read.filters.map(\.profile) == written.filters.map(\.profile), hint)
        #expect(read.filters.map(\.filter.name) == written.filters.map(\.filter.name), hint)
        #expect(read.filters.map(\.candidates) == written.filters.map(\.candidates), hint)
        #expect(read.scores.map(\.profile) == written.scores.map(\.profile), hint)
        #expect(read.scores.map(\.scorer.name) == written.scores.map(\.scorer.name), hint)
        #expect(read.scores.map(\.candidate) == written.scores.map(\.candidate), hint)
        #expect(read.scores.map(\.score) == written.scores.map(\.score), hint)
        #expect(read.outcome == written.outcome, hint)
    }

    private func records(_ count: Int) throws -> [DecisionRecord] {
        let configuration = try configuration(plugins: "- {type: queue-scorer}")
        var random = RandomSource(seed: 5)
        return (0..<count).map { number in
            var cycle = randomCycle(&random, generation: number)
            cycle.context.request.id = "r\(number)"
            return record(configuration.scheduler, cycle)
        }
    }

    @Test func filesStayWithinTheirBytes() throws {
        let folder = try Folder()
        let recorder = try folder.recorder(adjust: { $0.maximumBytes = 65_536 })
        let records = try records(300)
        for record in records { recorder.record(record) }
        var ids: [String] = []
        for name in [folder.file + ".1", folder.file] {
            let size = try #require(
                try FileManager.default.attributesOfItem(atPath: name)[.size] as? Int)
            #expect(size <= 32_768)
            if name != folder.file { #expect(size > 16_384) }
            #expect(try folder.lines(name)[0].contains(#""record":"llmd decisions","version":1"#))
            ids += try folder.entries(name).map(\.decision.id)
        }
        // The latest, without a gap.
        #expect(ids.count > 10)
        #expect(ids == records.suffix(ids.count).map(\.id))
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).count == 2)
        let mode = try FileManager.default.attributesOfItem(atPath: folder.file)[.posixPermissions]
        #expect(mode as? Int == 0o600)
    }

    @Test func whatIsTooLongForAFileIsDropped() throws {
        let folder = try Folder()
        let registry = MetricsRegistry()
        let recorder = try folder.recorder(
            registry: registry, adjust: { $0.maximumBytes = 8192 })
        var long = try records(1)[0]
        long.model = String(repeating: "m", count: 5000)
        recorder.record(long)
        recorder.record(try records(1)[0])
        #expect(try folder.entries().count == 1)
        #expect(metric(registry, "dropped") == 1 && metric(registry, "written") == 1)
    }

    @Test func aPoolIsToldOnceInAFile() throws {
        let folder = try Folder()
        let record = try records(1)[0]
        let recorder = try folder.recorder()
        for _ in 0..<3 { recorder.record(record) }
        #expect(
            try folder.lines().map { $0.prefix(6) } == [
                #"{"reco"#, #"{"pool"#, #"{"time"#, #"{"time"#, #"{"time"#,
            ])
        try folder.recorder().record(record)
        #expect(try folder.lines().count == 8 && folder.entries().count == 4)
    }

    @Test func aPoolIsToldAgainInTheNextFile() throws {
        let folder = try Folder()
        let record = try records(1)[0]
        let recorder = try folder.recorder(adjust: { $0.maximumBytes = 32_768 })
        for _ in 0..<100 { recorder.record(record) }
        for name in [folder.file + ".1", folder.file] {
            #expect(try folder.entries(name).count == folder.lines(name).count - 2)
        }
        // The pool of a process is not that of the next one.
        let lines = try folder.lines()
        try (lines + [lines[0], lines[2]]).joined(separator: "\n").write(
            toFile: folder.file, atomically: true, encoding: .utf8)
        #expect(try folder.entries().count == lines.count - 2)
    }

    @Test func longFilesAreReadInPieces() throws {
        let folder = try Folder()
        let recorder = try folder.recorder()
        recorder.record(try records(1)[0])
        let lines = try folder.lines()
        let count = (5 << 20) / lines[2].utf8.count
        try (lines[..<2] + Array(repeating: lines[2], count: count)).joined(separator: "\n").write(
            toFile: folder.file, atomically: true, encoding: .utf8)
        let reader = try RecordReader(file: folder.file)
        var read = 0
        while try reader.next() != nil { read += 1 }
        #expect(read == count && reader.skippedLineCount == 0)
    }

    private func metric(_ registry: MetricsRegistry, _ which: String) -> Int? {
        String(decoding: registry.exposition(), as: UTF8.self).split(separator: "\n")
            .first { $0.hasPrefix("llmd_router_decision_records_\(which)_total ") }
            .flatMap { Int($0.split(separator: " ")[1]) }
    }

    /// The writer is behind: what does not fit into the queue is dropped, and counted.
    @Test func theQueueIsBounded() throws {
        let folder = try Folder()
        let registry = MetricsRegistry()
        let tasks = Tasks()
        let recorder = try folder.recorder(
            registry: registry, on: { tasks.add($0) },
            adjust: { $0.maximumWaitingBytes = 100_000 })
        let records = try records(100)
        for record in records { recorder.record(record) }
        let dropped = try #require(metric(registry, "dropped"))
        #expect(dropped > 0 && metric(registry, "written") == 0)
        // One task writes them all.
        #expect(tasks.run() == 1)
        let entries = try folder.entries()
        #expect(entries.count == 100 - dropped)
        // In their order; a short record may still fit where a longer one did not.
        let kept = Set(entries.map(\.decision.id))
        #expect(entries.map(\.decision.id) == records.map(\.id).filter(kept.contains))
        #expect(metric(registry, "written") == entries.count)
        // There is room again.
        recorder.record(records[99])
        #expect(tasks.run() == 1)
        #expect(try folder.entries().count == entries.count + 1)
        #expect(metric(registry, "dropped") == dropped)
        // What waits at the end is written by `flush`.
        recorder.record(records[98])
        recorder.flush()
        #expect(try folder.entries().count == entries.count + 2)
    }

    @Test(arguments: [(0.25, 24_000...26_000), (0.001, 50...160), (1, 100_000...100_000)])
    func aShareIsRecorded(fraction: Double, counts: ClosedRange<Int>) throws {
        let recorder = try Folder().recorder(adjust: { $0.fraction = fraction })
        #expect(counts.contains((0..<100_000).count { _ in recorder.takesNext() }))
    }

    /// A process died within a line, the next one goes on; pools are told again.
    @Test func halfALineIsSkippedAndTold() throws {
        let folder = try Folder()
        let records = try records(3)
        try folder.recorder().record(records[0])
        let text = try String(contentsOfFile: folder.file, encoding: .utf8)
        try String(text.dropLast(20)).write(
            toFile: folder.file, atomically: true, encoding: .utf8)
        let plugins = described(try configuration(plugins: "- {type: queue-scorer}"))
        try folder.recorder(plugins).record(records[1])
        let reader = try RecordReader(file: folder.file)
        let next = try #require(try reader.next())
        #expect(next.decision.id == "r1" && next.plugins == Set(plugins))
        #expect(try reader.next() == nil)
        #expect(reader.skippedLineCount == 1)
        #expect(reader.firstProblem?.line == 3)
    }

    @Test(arguments: [
        ("x", "f:1: the line is no JSON"),
        (#"{"id":"r"}"#, "f:1: the line has no 'pool'"),
        (#"{"record":"llmd decisions","version":2,"plugins":[]}"#, "f:1: the line has version 2"),
        (#"{"record":"llmd decisions","version":1}"#, "f:1: the line has no 'plugins'"),
    ])
    func otherFilesAreErrors(_ text: String, _ expected: String) throws {
        let folder = try Folder()
        try text.write(toFile: folder.file, atomically: true, encoding: .utf8)
        #expect { try folder.entries() } throws: {
            "\($0)".replacing(folder.file, with: "f").hasPrefix(expected)
        }
        #expect { try folder.entries("/nonexistent") } throws: {
            "\($0)" == "/nonexistent: cannot be read"
        }
        #expect(throws: RecordError.self) {
            var configuration = RecorderConfiguration(path: "/nonexistent/x")
            configuration.fraction = 1
            _ = try DecisionRecorder(
                configuration, plugins: [], registry: MetricsRegistry(), on: { $0() })
        }
    }

    /// Members that lack or lie, one at a time.
    @Test(arguments: [
        (#""eligible":["#, #""eligible":[99,"#, "endpoints in 'eligible' that its pool has not"),
        (#""inFlight":["#, #""inFlight":[1,"#, "elements in 'inFlight'"),
        (#""pool":1"#, #""pool":8"#, "names pool 8, of which no line tells"),
        (#""picked":[["#, #""picked":[[77,1],["#, "a 'picked' that is no endpoint of its pool"),
        (#""promptTokens":"#, #""tokens":"#, "has no 'promptTokens'"),
        (#""seed":""#, #""seed":"x"#, "no hexadecimal number"),
    ])
    func wrongMembersAreTold(_ part: String, _ instead: String, _ expected: String) throws {
        let folder = try Folder()
        var record = try #require(
            try records(20).first {
                if case .picked = $0.outcome { $0.eligible.count > 1 } else { false }
            })
        record.pool.generation = 1
        try folder.recorder().record(record)
        var lines = try folder.lines()
        #expect(lines[2].contains(part))
        lines[2] = lines[2].replacingOccurrences(of: part, with: instead)
        try lines.joined(separator: "\n").write(
            toFile: folder.file, atomically: true, encoding: .utf8)
        let reader = try RecordReader(file: folder.file)
        #expect(try reader.next() == nil)
        let problem = try #require(reader.firstProblem)
        #expect(problem.line == 3 && problem.problem.contains(expected), "\(problem)")
    }
}

/// Runs tasks when it is told to.
private final class Tasks: Sendable {
    private let waiting = Mutex<[@Sendable () -> Void]>([])

    func add(_ task: @escaping @Sendable () -> Void) {
        waiting.withLock { $0.append(task) }
    }

    func run() -> Int {
        let tasks = waiting.withLock { waiting in
            let tasks = waiting
            waiting = []
            return tasks
        }
        for task in tasks { task() }
        return tasks.count
    }
}
