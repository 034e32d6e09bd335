import Configuration
import Core
import Foundation
import Replay
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry

struct NoHeaders: HeaderLookup {
    var values: [String: String] = [:]
    func value(ofHeader name: String) -> String? { values[name] }
}

/// Finds the match that the attribute `match` of the endpoints tells, whoever is asked.
final class AttributeProducer: DataProducer {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }

    func produce(into context: inout SchedulingContext) {
        let total = context.request.promptTokenCount / 16
        guard total > 0 else { return }
        let slot = context.resetPrefixMatch(by: name.name, blockSize: 16)
        context.prefixMatches[slot].totalBlocks = total
        for (index, load) in context.loads.enumerated() {
            let matched = min(total, Int(load.attributes["match"] ?? 0))
            context.prefixMatches[slot].matchedBlocks[index] = matched
            context.prefixMatches[slot].weightedBlocks[index] = 0.7 * Double(matched)
        }
    }
}

func configuration(
    plugins: String, profiles: String = ""
) throws -> EndpointPickerConfig {
    var registry = PluginRegistry.standard
    registry.register("approx-prefix-cache-producer") { (source) in
        _ = source.parameters.optional("blockSizeTokens")
        _ = source.parameters.optional("kvBlockIndexConfig")
        return AttributeProducer(name: source.name)
    }
    return try EndpointPickerConfig(
        parsing: """
            apiVersion: llm-d.ai/v1alpha1
            kind: EndpointPickerConfig
            plugins:
            \(plugins)
            \(profiles.isEmpty ? "" : "schedulingProfiles:")
            \(profiles)
            """,
        file: "t.yaml", registry: registry)
}

func described(_ configuration: EndpointPickerConfig) -> [RecordedPlugin] {
    configuration.plugins(as: (any Plugin).self).map { RecordedPlugin($0, of: configuration) }
}

/// A folder that is gone when the test ends.
final class Folder {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "llmd-records-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    var file: String { path + "/records.jsonl" }
}

/// Recorders in a folder, and what their files hold.
extension Folder {
    /// Writes on the calling thread unless another `writer` is given.
    func recorder(
        _ plugins: [RecordedPlugin] = [], registry: MetricsRegistry = MetricsRegistry(),
        on writer: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void = { $0() },
        adjust: (inout RecorderConfiguration) -> Void = { _ in }
    ) throws -> DecisionRecorder {
        var configuration = RecorderConfiguration(path: file)
        adjust(&configuration)
        return try DecisionRecorder(
            configuration, plugins: plugins, registry: registry, on: writer)
    }

    func entries(_ name: String? = nil) throws -> [RecordReader.Entry] {
        let reader = try RecordReader(file: name ?? file)
        var entries: [RecordReader.Entry] = []
        while let entry = try reader.next() { entries.append(entry) }
        return entries
    }

    func lines(_ name: String? = nil) throws -> [String] {
        try String(contentsOfFile: name ?? file, encoding: .utf8).split(separator: "\n")
            .map(String.init)
    }
}

/// A request to a pool, with whatever figures.
func randomCycle(_ random: inout RandomSource, generation: Int) -> SchedulingCycle {
    let count = Int.random(in: 1...8, using: &random)
    var request = SchedulingRequest(
        id: "r\(generation)", model: "m",
        targetModel: "lora-\(Int.random(in: 0...2, using: &random))",
        headers: NoHeaders(values: Bool.random(using: &random) ? [:] : ["prefer": "if-available"]),
        promptTokenCount: Int.random(in: 0...3000, using: &random))
    request.priority = Int.random(in: -1...1, using: &random)
    if Bool.random(using: &random) { request.ttftObjective = .milliseconds(250) }
    if Bool.random(using: &random) { request.tpotObjective = .microseconds(12_345) }
    if Bool.random(using: &random) {
        request.media = [
            MediaItem(kind: .image, identifier: 7), MediaItem(kind: .audio, identifier: 8),
        ]
    }
    let now = MonotonicTime(nanoseconds: 1 << 50)
    var cycle = SchedulingCycle(request: request, seed: random.next())
    cycle.context.now = now
    cycle.context.poolGeneration = generation
    for index in 0..<count {
        cycle.context.endpoints.append(
            Endpoint(
                ModelServer(
                    name: "e\(index)", address: SocketAddress(host: "10.0.0.\(index)", port: 8000),
                    labels: [
                        "llm-d.ai/role": ["decode", "prefill", "both"]
                            .randomElement(using: &random) ?? "",
                        "kubernetes.io/hostname": "h\(index / 3)", "q\"": "\u{1f600}\n",
                    ]), id: UInt32(index)))
        var load = ServerLoad()
        load.waitingCount = Int.random(in: 0...9, using: &random)
        load.runningCount = Int.random(in: 0...9, using: &random)
        load.kvUsage = Double.random(in: 0...1, using: &random)
        load.attributes["match"] = Double(Int.random(in: 0...180, using: &random))
        if Bool.random(using: &random) { load.attributes["x"] = .infinity }
        if Bool.random(using: &random) {
            load.lora = LoRALoad(maximumCount: 2, running: ["lora-1"], waiting: ["lora-2", "a"])
            load.blockSize = 16
            load.blockCount = 1000
        }
        if Int.random(in: 0..<9, using: &random) > 0 {
            let age = Int64.random(in: -1000...6_000_000_000, using: &random)
            load.scrapedAt = now + .nanoseconds(-age)
        }
        cycle.context.loads.append(load)
        cycle.context.inFlight.append(Int.random(in: 0...120, using: &random))
        cycle.context.prefillTokensInFlight.append(Int.random(in: 0...9000, using: &random))
        if Int.random(in: 0..<8, using: &random) > 0 { cycle.eligible.append(index) }
    }
    return cycle
}

/// Decides in a copy of a cycle.
func outcome(_ scheduler: Scheduler, _ cycle: SchedulingCycle) -> DecisionRecord.Outcome {
    var cycle = cycle
    return outcome(scheduler, &cycle)
}

func outcome(_ scheduler: Scheduler, _ cycle: inout SchedulingCycle) -> DecisionRecord.Outcome {
    do throws(SchedulingFailure) {
        return .picked(try scheduler.schedule(&cycle))
    } catch {
        return .failed(error.summary)
    }
}

func record(_ scheduler: Scheduler, _ cycle: SchedulingCycle) -> DecisionRecord {
    var cycle = cycle
    let draft = DecisionDraft(&cycle)
    let outcome = outcome(scheduler, &cycle)
    return draft.record(outcome, cycle)
}
