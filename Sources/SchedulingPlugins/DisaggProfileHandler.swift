public import Configuration
public import Core
public import Scheduling

/// `disagg-profile-handler`: picks a decode endpoint, asks deciders whether the prompt is worth
/// computing and its media encoding elsewhere, and if so picks endpoints for that, which it names
/// to the decode side in the headers `x-prefiller-host-port` and `x-encoder-hosts-ports`.
///
/// A stage for which no endpoint is left is done where the request is decoded.
public final class DisaggProfileHandler: ProfileHandler, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "disagg-profile-handler"
    /// Names the prefill endpoints: `host:port` separated by commas, the best first.
    public static let prefillHeader = "x-prefiller-host-port"
    /// Names the encode endpoints in the same way.
    public static let encodeHeader = "x-encoder-hosts-ports"
    /// Its type and name.
    public let name: PluginName

    private enum StageOrder: String, CaseIterable {
        case decodeFirst = "decode-first"
        case prefillFirst = "prefill-first"
        case joint
    }

    private let decodeProfile: String
    private let prefillProfile: String
    private let encodeProfile: String
    private let prefillDecider: (any PDDecider)?
    private let encodeDecider: (any EncodeDecider)?
    private let stageOrder: StageOrder
    /// What moving the prompt costs; only if both stages are picked together.
    private let transfer: TransferCost?

    /// Parameters: `profiles.decode` (decode), `profiles.prefill` (prefill), `profiles.encode`
    /// (encode), `deciders.prefill` and `deciders.encode` (none: never), `stageOrder`
    /// (decode-first; prefill-first: prefill always, and decode near to it; or joint: the best
    /// pair), and with joint `transfer`, what moving a prompt costs, and
    /// `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        (decodeProfile, prefillProfile, encodeProfile) =
            try source.parameters.orEmpty("profiles").section { (section) throws(ConfigError) in
                (
                    try section.optional("decode")?.string() ?? "decode",
                    try section.optional("prefill")?.string() ?? "prefill",
                    try section.optional("encode")?.string() ?? "encode"
                )
            }
        let deciders = try source.parameters.orEmpty("deciders").section {
            (section) throws(ConfigError) in
            (prefill: section.optional("prefill"), encode: section.optional("encode"))
        }
        prefillDecider = try deciders.prefill.map { (decider) throws(ConfigError) in
            try source.plugin(decider, as: (any PDDecider).self, called: "P/D decider")
        }
        encodeDecider = try deciders.encode.map { (decider) throws(ConfigError) in
            try source.plugin(decider, as: (any EncodeDecider).self, called: "encode decider")
        }
        stageOrder =
            try source.parameters.optional("stageOrder")?.choice(of: StageOrder.self)
            ?? .decodeFirst
        if stageOrder == .joint {
            guard prefillDecider != nil else {
                throw source.parameters.error("needs deciders.prefill where stageOrder is joint")
            }
            transfer = try TransferCost(source.parameters.orEmpty("transfer"), &source)
        } else if let transfer = source.parameters.optional("transfer") {
            throw transfer.error("counts only where stageOrder is joint")
        } else {
            transfer = nil
        }
    }

    /// The handler of the deprecated `pd-profile-handler`.
    init(
        name: PluginName, decodeProfile: String, prefillProfile: String, decider: any PDDecider
    ) {
        self.name = name
        self.decodeProfile = decodeProfile
        self.prefillProfile = prefillProfile
        encodeProfile = "encode"
        prefillDecider = decider
        encodeDecider = nil
        stageOrder = .decodeFirst
        transfer = nil
    }

    /// There must be a profile for each stage in use.
    public func problem(withProfiles names: [String]) -> String? {
        var stages = [decodeProfile]
        if prefillDecider != nil || stageOrder == .prefillFirst { stages.append(prefillProfile) }
        if encodeDecider != nil { stages.append(encodeProfile) }
        return stages.first { !names.contains($0) }.map { "needs a profile '\($0)'" }
    }

    /// Runs the stages, each with the pick before as its peer.
    ///
    /// `joint` picks the pair of decode endpoint d and prefill endpoint p with the highest
    /// score(d) + score(p) - cost(d, p), where the prefill decider, asked about the decode endpoint
    /// that is best by itself, wants one; the cost is ``TransferCost``'s. The pickers choose among
    /// the decode endpoints by their best pairs, and then among the prefill endpoints by what they
    /// add to the first of those, so that fallbacks are ranked in the same way.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard let decode = cycle.profile(named: decodeProfile) else { throw .noEndpoints }
        var result = SchedulingResult(
            primary: [], prefillProfile: prefillProfile, encodeProfile: encodeProfile)
        if stageOrder == .prefillFirst {
            result.prefill = run(prefillProfile, &cycle)
            cycle.context.peer = result.prefill.first?.index
        }
        if let transfer {
            try pickPair(decode, transfer, &cycle, &result)
        } else {
            result.primary = try cycle.run(decode)
        }
        let primary = result.primary[0].index
        cycle.context.peer = primary
        if let encodeDecider, encodeDecider.encodesElsewhere(decode: primary, in: cycle.context) {
            result.encode = run(encodeProfile, &cycle)
        }
        if stageOrder == .decodeFirst, let prefillDecider,
            prefillDecider.disaggregates(decode: primary, in: cycle.context)
        {
            result.prefill = run(prefillProfile, &cycle)
        }
        result.prefill.removeAll { $0.index == primary }
        result.encode.removeAll { $0.index == primary }
        return result
    }

    private func pickPair(
        _ decode: Int, _ transfer: TransferCost, _ cycle: inout SchedulingCycle,
        _ result: inout SchedulingResult
    ) throws(SchedulingFailure) {
        let candidates = try cycle.candidates(of: decode)
        result.primary = cycle.pick(from: candidates, by: decode)
        guard let prefillDecider,
            prefillDecider.disaggregates(decode: result.primary[0].index, in: cycle.context),
            let prefill = cycle.profile(named: prefillProfile),
            let prefillers = try? cycle.candidates(of: prefill)
        else { return }
        let decoders = candidates.filter {
            prefillDecider.disaggregates(decode: $0.index, in: cycle.context)
        }
        result.primary = cycle.pick(
            from: transfer.values(ofDecode: decoders, with: prefillers, in: cycle.context),
            by: decode)
        result.prefill = cycle.pick(
            from: transfer.values(
                ofPrefill: prefillers, for: result.primary[0].index, in: cycle.context),
            by: prefill)
    }

    private func run(_ profile: String, _ cycle: inout SchedulingCycle) -> [ScoredCandidate] {
        guard let profile = cycle.profile(named: profile) else { return [] }
        return (try? cycle.run(profile)) ?? []
    }

    /// Sets the headers, or removes those that the client made up.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        headers.append(Self.header(Self.prefillHeader, result.prefill, in: context))
        headers.append(Self.header(Self.encodeHeader, result.encode, in: context))
    }

    private static func header(
        _ name: String, _ picks: [ScoredCandidate], in context: SchedulingContext
    ) -> HeaderMutation {
        guard !picks.isEmpty else { return .remove(name: name) }
        let addresses = picks.map { context.endpoints[$0.index].address }
        return .set(name: name, value: addresses.joined(separator: ","))
    }
}
