public import Configuration
internal import Core
public import Scheduling
internal import Synchronization

/// Decides recorded decisions again with another configuration.
///
/// What producers found out is taken from the record, not asked for again; what is not in the
/// record is never guessed. Filters and scorers that go by something unrecorded count with what
/// they said then, if the configuration has them unchanged and they are asked about the same
/// candidates; else the decision is not decided again.
public struct Replayer {
    /// What becomes of a decision.
    public enum Outcome: Equatable, Sendable {
        /// It was decided again.
        case decided(DecisionRecord.Outcome)
        /// It cannot be, for want of this.
        case unknown(String)
    }

    /// A decision that was decided again, and the steps to it.
    struct Decision {
        var outcome: Outcome
        var filters: [FilterRecord] = []
        var scores: [ScoreRecord] = []
    }

    private let scheduler: Scheduler
    private let profiles: [SchedulingProfile]
    private let plugins: [any Plugin]
    private let described: [RecordedPlugin]
    private let memory = RecordedAnswers()

    /// The weights of the scorers, by profile and name.
    let weights: [String: [String: Double]]

    /// Replays with a configuration.
    ///
    /// - Throws: ``ConfigError`` naming `file` where a plugin decides by what no record holds.
    public init(_ configuration: EndpointPickerConfig, file: String) throws(ConfigError) {
        scheduler = configuration.scheduler
        let plugins = configuration.plugins(as: (any Plugin).self)
        self.plugins = plugins
        described = plugins.map { RecordedPlugin($0, of: configuration) }
        let memory = memory
        profiles = configuration.scheduler.profiles.map { $0.answering(from: memory) }
        weights = Dictionary(
            scheduler.profiles.map { profile in
                (
                    profile.name,
                    Dictionary(
                        profile.scorers.map { ($0.scorer.name.name, $0.weight) },
                        uniquingKeysWith: +)
                )
            }, uniquingKeysWith: { first, _ in first })
        let pickers = scheduler.profiles.map { $0.picker as any Plugin }
        for plugin in plugins + pickers {
            guard let input = plugin.unrecordedInput,
                plugin is any Picker || plugin is any ProfileHandler || plugin is any Admitter
                    || plugin is any Screener
            else { continue }
            throw ConfigError(
                file: file, line: nil,
                problem: "cannot be replayed: '\(plugin.name.name)' goes by \(input), "
                    + "which is in no record")
        }
    }

    /// Decides again.
    public func replay(_ entry: RecordReader.Entry) -> Outcome {
        decide(entry).outcome
    }

    func decide(_ entry: RecordReader.Entry) -> Decision {
        let record = entry.decision
        for (plugin, description) in zip(plugins, described) {
            // What it found out then is in the record; nobody can tell what it would find out now.
            // Those of the data layer find out nothing about requests.
            if plugin is any DataProducer || plugin is any RequestProcessor,
                !(plugin is any DataLayerPlugin), !entry.plugins.contains(description)
            {
                return Decision(
                    outcome: .unknown(
                        "what '\(description.name)' finds out: it was not there, "
                            + "or had other parameters"))
            }
            if let attribute = (plugin as? any AttributeReader)?.scrapedAttribute,
                !record.loads.contains(where: { $0.attributes[attribute] != nil })
            {
                return Decision(outcome: .unknown("the attribute '\(attribute)' of endpoints"))
            }
        }
        memory.begin(record, unchanged: Set(described).intersection(entry.plugins))
        var cycle = record.cycle
        let result = Result { () throws(SchedulingFailure) in
            try scheduler.scheduleAgain(&cycle, with: profiles)
        }
        var decision = Decision(
            outcome: .decided(.failed("")), filters: cycle.filterRecords ?? [],
            scores: cycle.scoreRecords ?? [])
        switch result {
        case _ where memory.missing != nil: decision.outcome = .unknown(memory.missing ?? "")
        case .success(let result): decision.outcome = .decided(.picked(result))
        case .failure(let failure): decision.outcome = .decided(.failed(failure.summary))
        }
        return decision
    }
}

/// What plugins said about the recorded decision in hand.
private final class RecordedAnswers: Sendable {
    private struct State {
        var record: DecisionRecord?
        var unchanged: Set<String> = []
        var missing: String?

        mutating func miss(_ plugin: PluginName) {
            missing =
                missing ?? "what '\(plugin.name)' says of endpoints that it was not asked about"
        }
    }

    private let state = Mutex(State())

    /// What was asked for in vain since ``begin(_:unchanged:)``.
    var missing: String? { state.withLock(\.missing) }

    func begin(_ record: DecisionRecord, unchanged: Set<RecordedPlugin>) {
        state.withLock { $0 = State(record: record, unchanged: Set(unchanged.map(\.name))) }
    }

    /// The scores that a scorer gave to just these candidates.
    func scores(_ scorer: PluginName, _ profile: String, _ candidates: [Int]) -> [Double]? {
        state.withLock { state in
            let scores = (state.record?.scores ?? []).filter {
                $0.profile == profile && $0.scorer.name == scorer.name
            }
            guard state.unchanged.contains(scorer.name), scores.map(\.candidate) == candidates
            else {
                state.miss(scorer)
                return nil
            }
            return scores.map(\.score)
        }
    }

    /// What a filter left of just these candidates.
    func left(_ filter: PluginName, _ profile: String, _ candidates: [Int]) -> [Int]? {
        state.withLock { state in
            let filters = (state.record?.filters ?? []).filter { $0.profile == profile }
            guard state.unchanged.contains(filter.name),
                let place = filters.firstIndex(where: { $0.filter.name == filter.name }),
                place == 0
                    ? state.record?.eligible == candidates
                    : filters[place - 1].candidates == candidates
            else {
                state.miss(filter)
                return nil
            }
            return filters[place].candidates
        }
    }
}

extension SchedulingProfile {
    /// The profile with those filters and scorers replaced that go by something unrecorded.
    fileprivate func answering(from memory: RecordedAnswers) -> SchedulingProfile {
        SchedulingProfile(
            name: name,
            filters: filters.map { filter in
                filter.unrecordedInput == nil
                    ? filter : RecordedFilter(filter.name, profile: name, memory)
            },
            scorers: scorers.map { weighted in
                guard weighted.scorer.unrecordedInput != nil else { return weighted }
                return WeightedScorer(
                    RecordedScorer(weighted.scorer.name, profile: name, memory),
                    weight: weighted.weight)
            }, picker: picker)
    }
}

private final class RecordedFilter: Filter {
    let name: PluginName
    private let profile: String
    private let memory: RecordedAnswers

    init(_ name: PluginName, profile: String, _ memory: RecordedAnswers) {
        self.name = name
        self.profile = profile
        self.memory = memory
    }

    func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        if let left = memory.left(name, profile, candidates) { candidates = left }
    }
}

private final class RecordedScorer: Scorer {
    let name: PluginName
    private let profile: String
    private let memory: RecordedAnswers

    init(_ name: PluginName, profile: String, _ memory: RecordedAnswers) {
        self.name = name
        self.profile = profile
        self.memory = memory
    }

    func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let known = memory.scores(name, profile, candidates) else { return }
        for (place, score) in known.enumerated() { scores[place] = score }
    }
}
