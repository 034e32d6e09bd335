import Core
import Scheduling

struct Headers: HeaderLookup {
    var values: [String: String] = [:]
    func value(ofHeader name: String) -> String? { values[name] }
}

final class KeepEven: Filter {
    let name = PluginName(type: "keep-even")
    func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { $0 % 2 == 1 }
    }
}

final class KeepNone: Filter {
    let name = PluginName(type: "keep-none")
    func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll()
    }
}

/// Gives each endpoint the score of its index in a table.
final class TableScorer: Scorer {
    let name: PluginName
    private let table: [Double]

    init(_ table: [Double], name: String = "table") {
        self.table = table
        self.name = PluginName(type: "table-scorer", name: name)
    }

    func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        for (i, candidate) in candidates.enumerated() { scores[i] = table[candidate] }
    }
}

/// Leaves all candidates, the best first.
final class Ranking: Picker {
    let name = PluginName(type: "max-score-picker")
    func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        candidates.sort { $0.score > $1.score }
    }
}

final class FirstProfile: ProfileHandler {
    let name = PluginName(type: "single-profile-handler")
    func problem(withProfiles names: [String]) -> String? {
        names.count == 1 ? nil : "runs one profile"
    }
    func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        SchedulingResult(primary: try cycle.run(0))
    }
}

/// Counts how often it was asked.
final class ConstantProducer: DataProducer {
    let name = PluginName(type: "constant-producer")
    let promptNeeds = PromptNeeds.tokens
    func produce(into context: inout SchedulingContext) {
        guard !context.request.tokens.isEmpty else { return }
        let slot = context.resetPrefixMatch(by: name.name, blockSize: 16)
        context.prefixMatches[slot].totalBlocks = 4
        context.prefixMatches[slot].matchedBlocks[0] = 3
    }
}

func endpoints(_ count: Int, labels: (Int) -> [String: String] = { _ in [:] }) -> [Endpoint] {
    (0..<count).map {
        Endpoint(
            ModelServer(
                name: "e\($0)", address: SocketAddress(host: "10.0.0.\($0)", port: 8000),
                labels: labels($0)),
            id: UInt32($0))
    }
}

func cycle(endpoints list: [Endpoint], tokens: [UInt32] = []) -> SchedulingCycle {
    var cycle = SchedulingCycle(
        request: SchedulingRequest(id: "r", model: "m", headers: Headers(), tokens: tokens),
        seed: 1)
    cycle.context.endpoints = list
    cycle.context.loads = list.map { _ in ServerLoad() }
    cycle.context.inFlight = list.map { _ in 0 }
    cycle.context.prefillTokensInFlight = list.map { _ in 0 }
    cycle.eligible = Array(list.indices)
    return cycle
}
