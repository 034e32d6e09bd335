public import Configuration
public import Core
public import Scheduling

/// `disagg-profile-handler`: picks a decode endpoint, asks a decider whether its prompt is worth
/// computing elsewhere, and if so picks prefill endpoints, which it names to the decode side in
/// the header `x-prefiller-host-port`.
///
/// A prompt for which no prefill endpoint is left is computed where it is decoded.
public final class DisaggProfileHandler: ProfileHandler, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "disagg-profile-handler"
    /// Names the prefill endpoints: `host:port` separated by commas, the best first.
    public static let prefillHeader = "x-prefiller-host-port"
    /// Its type and name.
    public let name: PluginName

    private let decodeProfile: String
    private let prefillProfile: String
    private let prefillDecider: (any PDDecider)?

    /// Parameters: `profiles.decode` (decode), `profiles.prefill` (prefill), `deciders.prefill`
    /// (none: never disaggregate), `stageOrder` (decode-first, the only one).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        (decodeProfile, prefillProfile) = try source.parameters.orEmpty("profiles").section {
            (section) throws(ConfigError) in
            (
                try section.optional("decode")?.string() ?? "decode",
                try section.optional("prefill")?.string() ?? "prefill"
            )
        }
        let decider = try source.parameters.orEmpty("deciders").section {
            (section) throws(ConfigError) in section.optional("prefill")
        }
        if let decider {
            prefillDecider = try source.plugin(
                decider, as: (any PDDecider).self, called: "P/D decider")
        } else {
            prefillDecider = nil
        }
        if let order = source.parameters.optional("stageOrder"),
            try order.string() != "decode-first"
        {
            throw order.error("must be decode-first")
        }
    }

    /// There must be a profile for each stage in use.
    public func problem(withProfiles names: [String]) -> String? {
        let stages = prefillDecider == nil ? [decodeProfile] : [decodeProfile, prefillProfile]
        return stages.first { !names.contains($0) }.map { "needs a profile '\($0)'" }
    }

    /// Decode first, then prefill if the decider wants it.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard let decode = cycle.profile(named: decodeProfile) else { throw .noEndpoints }
        let primary = try cycle.run(decode)
        guard let prefillDecider, let prefill = cycle.profile(named: prefillProfile),
            prefillDecider.disaggregates(decode: primary[0].index, in: cycle.context),
            let prefillers = try? cycle.run(prefill)
        else { return SchedulingResult(primary: primary) }
        return SchedulingResult(
            primary: primary, prefill: prefillers.filter { $0.index != primary[0].index })
    }

    /// Sets the header, or removes one that the client made up.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard !result.prefill.isEmpty else {
            headers.append(.remove(name: Self.prefillHeader))
            return
        }
        let addresses = result.prefill.map { context.endpoints[$0.index].address }
        headers.append(
            .set(name: Self.prefillHeader, value: addresses.joined(separator: ",")))
    }
}
