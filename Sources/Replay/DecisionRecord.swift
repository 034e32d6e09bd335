public import Core
public import Scheduling

/// A plugin as a record names it: two with equal names, types and fingerprints do the same.
public struct RecordedPlugin: Hashable, Sendable {
    /// The name in the configuration.
    public var name: String
    /// The registered type.
    public var type: String
    /// Of its parameters (FNV-1a, 64 bits).
    public var fingerprint: UInt64

    /// Describes a plugin of a configuration. How an index is shared does not count, and may hold
    /// a password.
    public init(_ plugin: any Plugin, of configuration: EndpointPickerConfig) {
        name = plugin.name.name
        type = plugin.name.type
        let text = configuration.parameters(ofPlugin: name, omitting: "kvBlockIndexConfig")
        fingerprint = (text ?? "").utf8.reduce(0xcbf2_9ce4_8422_2325) {
            ($0 ^ UInt64($1)) &* 0x100_0000_01b3
        }
    }

    init(name: String, type: String, fingerprint: UInt64) {
        self.name = name
        self.type = type
        self.fingerprint = fingerprint
    }
}

/// What a decision was made from, and what it came to. Endpoints are numbered as in the pool.
public struct DecisionRecord: Sendable {
    /// The endpoints that there were; equal generations mean equal pools.
    public struct Pool: Sendable {
        /// The pool's generation.
        public var generation: Int
        /// The endpoints.
        public var endpoints: [Endpoint]
    }

    /// What a decision came to.
    public enum Outcome: Equatable, Sendable {
        /// Endpoints were picked.
        case picked(SchedulingResult)
        /// None was, for this reason (``SchedulingFailure/summary``).
        case failed(String)
    }

    /// When it was recorded, in milliseconds since 1970.
    public var time = 0
    /// The request id.
    public var id: String
    /// The model that the client asked for.
    public var model: String
    /// The model that the endpoint is asked for.
    public var targetModel: String
    /// The request's priority.
    public var priority: Int
    /// The tokens of the prompt, as the producers left them.
    public var promptTokenCount: Int
    /// When the first token is wanted; nil: whenever.
    public var ttftObjective: Duration?
    /// How far apart tokens may be; nil: as they come.
    public var tpotObjective: Duration?
    /// Whether the request came with `Prefer: if-available`.
    public var wantsCachedPrompt: Bool
    /// The kinds of the media in the prompt.
    public var media: [MediaItem.Kind]

    /// The endpoints.
    public var pool: Pool
    /// Determines the random choices.
    public var seed: UInt64
    /// The endpoints that could be picked at all.
    public var eligible: [Int]
    /// The load of each endpoint as the plugins saw it; `scrapedAt` counts from `now`.
    public var loads: [ServerLoad]
    /// When the decision was made, on the clock of `loads`.
    public var now: MonotonicTime
    /// The requests that this router had in flight at each endpoint.
    public var inFlight: [Int]
    /// The prompt tokens that each endpoint had yet to compute for this router.
    public var prefillTokensInFlight: [Int]
    /// The tokens that each endpoint was expected to generate; empty unless a producer estimates
    /// them.
    public var outputTokensInFlight: [Int]
    /// What producers of prefix matches found out; without request keys.
    public var prefixMatches: [PrefixCacheMatch]
    /// What producers of media matches found out.
    public var mediaMatches: [MediaCacheMatch]
    /// How fast each endpoint was expected to answer; empty unless a producer predicts it.
    public var predictions: [LatencyPrediction?]

    /// What each filter left, in the order in which they ran.
    public var filters: [FilterRecord]
    /// Every score.
    public var scores: [ScoreRecord]
    /// What it came to.
    public var outcome: Outcome
}

/// The beginning of a decision that is recorded: what is not known any more at its end.
public struct DecisionDraft {
    let seed: UInt64
    let eligible: [Int]

    /// Has the cycle keep what the record needs. Before the decision.
    public init(_ cycle: inout SchedulingCycle) {
        seed = cycle.seed
        eligible = cycle.eligible
        cycle.scoreRecords = []
        cycle.filterRecords = []
    }

    /// The record, after the decision.
    public func record(
        _ outcome: DecisionRecord.Outcome, _ cycle: SchedulingCycle
    ) -> DecisionRecord {
        let context = cycle.context
        let request = context.request
        return DecisionRecord(
            id: request.id, model: request.model, targetModel: request.targetModel,
            priority: request.priority, promptTokenCount: request.promptTokenCount,
            ttftObjective: request.ttftObjective, tpotObjective: request.tpotObjective,
            wantsCachedPrompt: request.wantsCachedPrompt, media: request.media.map(\.kind),
            pool: DecisionRecord.Pool(
                generation: context.poolGeneration ?? 0, endpoints: context.endpoints),
            seed: seed, eligible: eligible, loads: context.loads, now: context.now,
            inFlight: context.inFlight, prefillTokensInFlight: context.prefillTokensInFlight,
            outputTokensInFlight: context.outputTokensInFlight,
            prefixMatches: context.prefixMatches.filter { $0.totalBlocks > 0 }.map {
                var match = $0
                match.requestKeys = []
                return match
            },
            mediaMatches: context.mediaMatches.filter { $0.totalSize > 0 },
            predictions: context.predictions, filters: cycle.filterRecords ?? [],
            scores: cycle.scoreRecords ?? [], outcome: outcome)
    }
}

extension DecisionRecord {
    /// About how many bytes the record holds, for bounds.
    var weight: Int {
        var sum = 512 + id.utf8.count + model.utf8.count + targetModel.utf8.count
        sum += loads.count * MemoryLayout<ServerLoad>.size
        sum += (eligible.count + 3 * inFlight.count) * 8
        for match in prefixMatches { sum += 64 + 16 * match.matchedBlocks.count }
        for match in mediaMatches { sum += 64 + 8 * match.matchedSizes.count }
        for filter in filters { sum += 64 + 8 * filter.candidates.count }
        for load in loads { sum += 64 * load.attributes.count }
        return sum + scores.count * MemoryLayout<ScoreRecord>.size + predictions.count * 24
    }

    /// The context in which it is decided again.
    var context: SchedulingContext {
        var request = SchedulingRequest(
            id: id, model: model, targetModel: targetModel,
            headers: RecordedHeaders(wantsCachedPrompt: wantsCachedPrompt),
            promptTokenCount: promptTokenCount)
        request.priority = priority
        request.ttftObjective = ttftObjective
        request.tpotObjective = tpotObjective
        request.media = media.enumerated().map {
            MediaItem(kind: $1, identifier: UInt64($0))
        }
        var context = SchedulingContext(request: request, now: now)
        context.endpoints = pool.endpoints
        context.loads = loads
        context.inFlight = inFlight
        context.prefillTokensInFlight = prefillTokensInFlight
        context.outputTokensInFlight = outputTokensInFlight
        context.prefixMatches = prefixMatches
        context.mediaMatches = mediaMatches
        context.predictions = predictions
        return context
    }

    /// A cycle that makes the same random choices as the one recorded.
    var cycle: SchedulingCycle {
        let context = context
        var cycle = SchedulingCycle(request: context.request, seed: seed)
        cycle.context = context
        cycle.eligible = eligible
        cycle.scoreRecords = []
        cycle.filterRecords = []
        return cycle
    }
}

/// The one header that decisions go by and that is recorded.
private struct RecordedHeaders: HeaderLookup {
    var wantsCachedPrompt: Bool

    func value(ofHeader name: String) -> String? {
        name == "prefer" && wantsCachedPrompt ? "if-available" : nil
    }
}
