internal import Core
internal import Scheduling

/// What another configuration would change about recorded decisions.
public struct ReplayReport: Sendable {
    /// Decisions in the records.
    public private(set) var decisionCount = 0
    /// Those that go elsewhere, by the reason.
    public private(set) var changes: [String: Int] = [:]
    /// Those that could not be decided again, by what is not known.
    public private(set) var unknown: [String: Int] = [:]

    /// What goes to an endpoint.
    struct Load: Equatable {
        var requests = 0
        var prefills = 0
        /// Prompt tokens that are computed there.
        var tokens = 0
    }

    private(set) var before: [String: Load] = [:]
    private(set) var after: [String: Load] = [:]

    /// An empty report.
    public init() {}

    /// Those that go elsewhere.
    public var changedCount: Int { changes.values.reduce(0, +) }
    /// Those that were decided again.
    public var replayedCount: Int { decisionCount - unknown.values.reduce(0, +) }

    /// Decides again and counts what became of it.
    public mutating func add(_ entry: RecordReader.Entry, with replayer: Replayer) {
        decisionCount += 1
        let decision = replayer.decide(entry)
        guard case .decided(let outcome) = decision.outcome else {
            if case .unknown(let what) = decision.outcome { unknown[what, default: 0] += 1 }
            return
        }
        Self.count(entry.decision.outcome, of: entry.decision, in: &before)
        Self.count(outcome, of: entry.decision, in: &after)
        if let reason = Change(from: entry.decision, to: outcome, decision, replayer).reason {
            changes[reason, default: 0] += 1
        }
    }

    private static func count(
        _ outcome: DecisionRecord.Outcome, of record: DecisionRecord, in loads: inout [String: Load]
    ) {
        guard case .picked(let result) = outcome, let primary = result.primary.first else {
            return
        }
        func name(_ pick: ScoredCandidate) -> String {
            record.pool.endpoints[pick.index].server.name
        }
        loads[name(primary), default: Load()].requests += 1
        let computing = result.prefill.first ?? primary
        if let prefill = result.prefill.first {
            loads[name(prefill), default: Load()].prefills += 1
        }
        let match = record.prefixMatches.first
        let cached = match.map { $0.matchedBlocks[computing.index] * $0.blockSize } ?? 0
        loads[name(computing), default: Load()].tokens += max(0, record.promptTokenCount - cached)
    }

    /// The report for people.
    public var text: String {
        var lines = ["\(decisionCount) decisions, \(replayedCount) decided again"]
        for (what, count) in ranked(unknown) { lines.append("  \(count) not: unknown is \(what)") }
        lines.append("\(changedCount) of \(replayedCount) go elsewhere\(share(changedCount))")
        for (reason, count) in ranked(changes) {
            lines.append("  \(count)\(share(count)): \(reason)")
        }
        lines.append("")
        let names = Set(before.keys).union(after.keys).sorted()
        let rows = names.map { name in
            let (old, new) = (before[name] ?? Load(), after[name] ?? Load())
            return [
                name, "\(old.requests)", "\(new.requests)", "\(old.prefills)", "\(new.prefills)",
                "\(old.tokens)", "\(new.tokens)",
            ]
        }
        let head = ["endpoint", "requests", "then", "prefills", "then", "tokens computed", "then"]
        lines += table([head] + rows)
        return lines.joined(separator: "\n") + "\n"
    }

    private func ranked(_ counts: [String: Int]) -> [(String, Int)] {
        counts.map { ($0.key, $0.value) }.sorted { ($1.1, $0.0) < ($0.1, $1.0) }
    }

    private func share(_ count: Int) -> String {
        guard replayedCount > 0 else { return "" }
        let tenths = (count * 1000 + replayedCount / 2) / replayedCount
        return " (\(tenths / 10).\(tenths % 10) %)"
    }

    /// The first column to the left, the others to the right.
    private func table(_ rows: [[String]]) -> [String] {
        let widths = (0..<(rows.first?.count ?? 0)).map { column in
            rows.map { $0[column].count }.max() ?? 0
        }
        return rows.map { row in
            row.enumerated().map { column, text in
                let space = String(repeating: " ", count: widths[column] - text.count)
                return column == 0 ? text + space : space + text
            }.joined(separator: "  ")
        }
    }
}

/// Why a decision came out otherwise.
private struct Change {
    /// Nil if it did not.
    var reason: String?

    init(
        from record: DecisionRecord, to outcome: DecisionRecord.Outcome,
        _ decision: Replayer.Decision, _ replayer: Replayer
    ) {
        switch (record.outcome, outcome) {
        case (.failed(let old), .failed(let new)):
            reason = old == new ? nil : "refused otherwise: \(new), not \(old)"
        case (.picked, .failed(let why)): reason = "refused: \(why)"
        case (.failed(let why), .picked): reason = "no longer refused: \(why)"
        case (.picked(let old), .picked(let new)):
            if old.primary.first?.index != new.primary.first?.index {
                let helpers = [new.prefillProfile, new.encodeProfile]
                reason = Self.why(
                    old.primary, new.primary, record, decision, replayer,
                    profile: decision.profiles.first { !helpers.contains($0) })
            } else if old.prefill.first?.index != new.prefill.first?.index {
                switch (old.prefill.isEmpty, new.prefill.isEmpty) {
                case (true, _): reason = "prefill elsewhere that was at home"
                case (_, true): reason = "prefill at home that was elsewhere"
                default:
                    reason = Self.why(
                        old.prefill, new.prefill, record, decision, replayer,
                        profile: new.prefillProfile
                    ).map { "prefill: \($0)" }
                }
            } else if old.encode.first?.index != new.encode.first?.index {
                reason = "encoding"
            }
        }
    }

    private static func why(
        _ old: [ScoredCandidate], _ new: [ScoredCandidate], _ record: DecisionRecord,
        _ decision: Replayer.Decision, _ replayer: Replayer, profile: String?
    ) -> String? {
        guard let old = old.first?.index, let new = new.first?.index, let profile else {
            return "another profile"
        }
        if let filter = decision.filters.first(where: {
            $0.profile == profile && !$0.candidates.contains(old)
        }) {
            return "'\(filter.filter.name)' rules the old endpoint out"
        }
        if let filter = record.filters.first(where: {
            $0.profile == profile && !$0.candidates.contains(new)
        }) {
            return "'\(filter.filter.name)' ruled the new endpoint out"
        }
        let weights = replayer.weights[profile] ?? [:]
        var gains: [String: Double] = [:]
        for score in decision.scores where score.profile == profile {
            guard score.candidate == old || score.candidate == new else { continue }
            let value = score.score * (weights[score.scorer.name] ?? 0)
            gains[score.scorer.name, default: 0] += score.candidate == new ? value : -value
        }
        let sum = gains.values.reduce(0, +)
        guard sum > 0, let best = gains.max(by: { ($0.value, $1.key) < ($1.value, $0.key) }) else {
            return sum == 0 ? "equal scores, by chance" : "the picker, against the scores"
        }
        return "scores, most by '\(best.key)'"
    }
}

extension Replayer.Decision {
    /// The profiles that ran, in their order.
    fileprivate var profiles: [String] {
        var profiles: [String] = []
        for profile in filters.map(\.profile) + scores.map(\.profile)
        where !profiles.contains(profile) { profiles.append(profile) }
        return profiles
    }
}
