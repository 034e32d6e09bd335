import Configuration
import Core
import Foundation
import Scheduling

/// How requests of a session find back to their endpoint; what filter and scorer have in common.
///
/// Either the client carries a token, base64 of the endpoint's name, which the response gave it,
/// or it names its session and the router remembers the endpoint.
struct SessionAffinity: Sendable {
    private enum Strategy: String, CaseIterable {
        case encodedEndpointHeader = "encoded_endpoint_header"
        case sessionID = "session_id"
    }

    private enum Source: Sendable {
        case header(String)
        case agentIdentity
        case sessionID
    }

    private enum Memory: Sendable {
        case token(header: String)
        case bindings(SessionBindings, [Source])
    }

    private let memory: Memory
    private let profile: String?

    /// Parameters: `strategy` (encoded_endpoint_header, or session_id), `profileName` (the one
    /// that says where the request goes), `encodedEndpointHeaderConfig.header` (x-session-token),
    /// also as `headerName`, and of `sessionIdConfig` `sources` (the header x-session-id),
    /// `evictionTtlSeconds` (300), `evictionSweepSeconds` (10).
    init(_ source: inout PluginSource) throws(ConfigError) {
        let strategy =
            try source.parameters.optional("strategy")?.choice(of: Strategy.self)
            ?? .encodedEndpointHeader
        let profile = try source.parameters.optional("profileName")?.string()
        self.profile = profile.flatMap { $0.isEmpty ? nil : $0 }
        let plain = try source.parameters.optional("headerName")?.string()
        let header = try source.parameters.orEmpty("encodedEndpointHeaderConfig").section {
            (section) throws(ConfigError) in try section.optional("header")?.string()
        }
        let ids = source.parameters.orEmpty("sessionIdConfig")
        let bindings = try ids.section { (section) throws(ConfigError) in
            try Self.bindings(&section, &source)
        }
        switch strategy {
        case .encodedEndpointHeader:
            memory = .token(header: (header ?? plain ?? "x-session-token").lowercased())
        case .sessionID: memory = bindings
        }
    }

    private static func bindings(
        _ section: inout ConfigSection, _ plugin: inout PluginSource
    ) throws(ConfigError) -> Memory {
        var sources: [Source] = []
        for entry in try section.optional("sources")?.list() ?? [] {
            sources.append(
                try entry.section { (section) throws(ConfigError) in
                    let header = section.optional("header")
                    let attribute = section.optional("attribute")
                    guard (header == nil) != (attribute == nil) else {
                        throw section.error("needs one of 'header' and 'attribute'")
                    }
                    if let header { return .header(try header.string().lowercased()) }
                    guard let attribute else { return .sessionID }
                    switch try attribute.string() {
                    case "agent-identity": return .agentIdentity
                    case "SessionID", "session-id": return .sessionID
                    case let text:
                        throw attribute.error(
                            "is no known attribute; "
                                + suggestion(for: text, among: ["agent-identity", "SessionID"]))
                    }
                })
        }
        let usesProducer = sources.contains { if case .sessionID = $0 { true } else { false } }
        if usesProducer {
            _ = try plugin.plugin(
                "sessionIdProducerName", default: SessionIDProducer.type,
                as: (any DataProducer).self, called: "data producer")
        }
        let bindings = SessionBindings(
            timeToLive: .seconds(
                try section.optional("evictionTtlSeconds")?.number(in: 0.001...1e7) ?? 300),
            sweepInterval: .seconds(
                try section.optional("evictionSweepSeconds")?.number(in: 0.001...1e7) ?? 10))
        return .bindings(bindings, sources.isEmpty ? [.header("x-session-id")] : sources)
    }

    /// The candidate that the session is bound to; nil if it is to none of them.
    func candidate(among candidates: [Int], in context: SchedulingContext) -> Int? {
        switch memory {
        case .token(let header):
            guard let token = context.request.headers.value(ofHeader: header),
                let data = Data(base64Encoded: token)
            else { return nil }
            let name = String(decoding: data, as: UTF8.self)
            return candidates.first { context.endpoints[$0].server.name == name }
        case .bindings(let bindings, let sources):
            guard let session = Self.session(of: context.request, sources),
                let id = bindings.endpoint(of: session, at: context.now)
            else { return nil }
            return candidates.first { context.endpoints[$0].id == id }
        }
    }

    /// Remembers a decision.
    func remember(_ result: SchedulingResult, in context: SchedulingContext) {
        guard case .bindings(let bindings, let sources) = memory,
            let session = Self.session(of: context.request, sources),
            let pick = result.pick(of: profile)
        else { return }
        bindings.bind(session, to: context.endpoints[pick.index].id, at: context.now)
    }

    /// Gives the client its token.
    func writeToken(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {
        guard case .token(let header) = memory else { return }
        let picked = request.endpoint(ofProfile: profile)
        // Where the request went the data plane may have gone on to a fallback.
        guard let endpoint = picked === request.endpoint ? head.server : picked else { return }
        let token = Data(endpoint.server.name.utf8).base64EncodedString()
        headers.append(.set(name: header, value: token))
    }

    private static func session(of request: SchedulingRequest, _ sources: [Source]) -> String? {
        for source in sources {
            let value =
                switch source {
                case .header(let name): request.headers.value(ofHeader: name)
                case .agentIdentity: request.agentIdentity
                case .sessionID: request.sessionID
                }
            if let value, !value.isEmpty { return value }
        }
        return nil
    }
}
