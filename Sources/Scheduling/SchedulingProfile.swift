/// Filters, scorers and a picker under a name: one question put to the pool.
public struct SchedulingProfile: Sendable {
    /// A scorer and what its opinion weighs.
    public struct WeightedScorer: Sendable {
        /// The scorer.
        public var scorer: any Scorer
        /// Its weight; 1 unless configured.
        public var weight: Double

        /// Makes a weighted scorer.
        public init(_ scorer: any Scorer, weight: Double = 1) {
            self.scorer = scorer
            self.weight = weight
        }
    }

    /// The configured name.
    public let name: String
    /// In the order in which they run.
    public let filters: [any Filter]
    /// Their order does not matter.
    public let scorers: [WeightedScorer]
    /// Makes the choice.
    public let picker: any Picker

    /// Makes a profile.
    public init(
        name: String, filters: [any Filter], scorers: [WeightedScorer], picker: any Picker
    ) {
        self.name = name
        self.filters = filters
        self.scorers = scorers
        self.picker = picker
    }
}

/// A score that one scorer gave to one candidate, for debugging.
public struct ScoreRecord: Equatable, Sendable {
    /// The profile that ran.
    public var profile: String
    /// The scorer.
    public var scorer: PluginName
    /// An index into `SchedulingContext.endpoints`.
    public var candidate: Int
    /// Clamped, not weighted.
    public var score: Double

    /// Makes a record.
    public init(profile: String, scorer: PluginName, candidate: Int, score: Double) {
        self.profile = profile
        self.scorer = scorer
        self.candidate = candidate
        self.score = score
    }
}

/// What a filter left of the candidates, for debugging.
public struct FilterRecord: Equatable, Sendable {
    /// The profile that ran.
    public var profile: String
    /// The filter.
    public var filter: PluginName
    /// Indices into `SchedulingContext.endpoints`.
    public var candidates: [Int]

    /// Makes a record.
    public init(profile: String, filter: PluginName, candidates: [Int]) {
        self.profile = profile
        self.filter = filter
        self.candidates = candidates
    }
}

/// One decision in the making, and the buffers for the next ones. Belongs to one thread.
public struct SchedulingCycle {
    /// What the decision is made from.
    public var context: SchedulingContext
    /// The endpoints that may be picked at all: indices into `context.endpoints`.
    public var eligible: [Int] = []
    /// Every score given in this cycle; nil, the default, keeps none.
    public var scoreRecords: [ScoreRecord]?
    /// What every filter left in this cycle; nil, the default, keeps none.
    public var filterRecords: [FilterRecord]?
    /// The profiles that a handler may run.
    public package(set) var profiles: [SchedulingProfile] = []

    var random: RandomSource
    private var candidates: [Int] = []
    private var scores: [Double] = []
    private var ranking: [ScoredCandidate] = []

    /// Makes a cycle; the seed determines every random choice made in it.
    public init(request: SchedulingRequest, seed: UInt64) {
        context = SchedulingContext(request: request)
        random = RandomSource(seed: seed)
    }

    /// A new cycle with this seed makes the random choices that this one will make from here on.
    public var seed: UInt64 { random.state }

    /// The index of the profile of a name.
    public func profile(named name: String) -> Int? {
        profiles.firstIndex { $0.name == name }
    }

    /// Runs one profile over the eligible endpoints and returns its picks, the best first.
    ///
    /// The score of a candidate is the sum over the scorers of clamp(score, 0, 1) * weight.
    public mutating func run(_ profile: Int) throws(SchedulingFailure) -> [ScoredCandidate] {
        try rate(profile)
        profiles[profile].picker.pick(&ranking, random: &random)
        return Array(ranking)
    }

    /// Runs the filters and scorers of a profile; returns the candidates that are left, in no
    /// order. ``pick(from:by:)`` may follow with other scores.
    public mutating func candidates(
        of profile: Int
    ) throws(SchedulingFailure) -> [ScoredCandidate] {
        try rate(profile)
        return Array(ranking)
    }

    /// Has the picker of a profile choose among candidates, of which there are some; returns its
    /// picks, the best first.
    public mutating func pick(
        from candidates: [ScoredCandidate], by profile: Int
    ) -> [ScoredCandidate] {
        var picks = candidates
        profiles[profile].picker.pick(&picks, random: &random)
        return picks
    }

    private mutating func rate(_ profile: Int) throws(SchedulingFailure) {
        guard !eligible.isEmpty else { throw .noEndpoints }
        let profile = profiles[profile]
        candidates.removeAll(keepingCapacity: true)
        candidates.append(contentsOf: eligible)
        for filter in profile.filters {
            filter.filter(&candidates, in: context)
            filterRecords?.append(
                FilterRecord(
                    profile: profile.name, filter: filter.name, candidates: candidates))
            if candidates.isEmpty {
                throw .filtered(profile: profile.name, filter: filter.name.name)
            }
        }

        ranking.removeAll(keepingCapacity: true)
        for candidate in candidates {
            ranking.append(ScoredCandidate(index: candidate, score: 0))
        }
        for weighted in profile.scorers {
            Self.score(candidates, by: weighted.scorer, in: context, into: &scores)
            for i in candidates.indices {
                let score = clamp(scores[i])
                ranking[i].score += score * weighted.weight
                scoreRecords?.append(
                    ScoreRecord(
                        profile: profile.name, scorer: weighted.scorer.name,
                        candidate: candidates[i], score: score))
            }
        }
    }

    private static func score(
        _ candidates: [Int], by scorer: any Scorer, in context: SchedulingContext,
        into scores: inout [Double]
    ) {
        scores.removeAll(keepingCapacity: true)
        scores.append(contentsOf: repeatElement(0, count: candidates.count))
        var span = scores.mutableSpan
        scorer.score(candidates, in: context, into: &span)
    }

    /// A score that is not a number counts as the worst.
    private func clamp(_ score: Double) -> Double {
        score > 0 ? min(score, 1) : 0
    }
}
