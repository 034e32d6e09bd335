public import Core
public import Net
internal import Telemetry

extension HTTPHeaders: HeaderLookup {
    /// The first value of a header.
    public func value(ofHeader name: String) -> String? { self[first: name] }

    /// Applies changes in order.
    public mutating func apply(_ mutations: [HeaderMutation]) {
        for mutation in mutations {
            switch mutation {
            case .set(let name, let value): set(name, value)
            case .remove(let name): remove(name)
            }
        }
    }

    /// Removes what speaks of one connection only (RFC 9110 section 7.6.1). Net itself removes
    /// the fields of framing.
    public mutating func removeHopByHop() {
        for name in ["te", "trailer", "proxy-authenticate", "proxy-authorization"] { remove(name) }
    }
}

extension ServerExchange {
    /// The head of the request as a proxy sends it on: without what speaks of the connection to
    /// the client, with the client's address added to `x-forwarded-for`, with the request's id,
    /// and with a place in a trace.
    public func forwardedHead(requestID: String) -> HTTPRequestHead {
        var head = head
        head.headers.removeHopByHop()
        // Net answers the one, and writes the other by what is sent.
        head.headers.remove("expect")
        head.headers.remove("content-length")
        if let peer {
            let before = head.headers.values(of: "x-forwarded-for")
            head.headers.set("x-forwarded-for", (before + [peer.host]).joined(separator: ", "))
        }
        head.headers.set("x-request-id", requestID)
        if let mutations = traceMutations(of: head.headers) { head.headers.apply(mutations) }
        return head
    }
}

/// What puts a request into a trace of its own; nil if it is part of one already.
public func traceMutations(of headers: some HeaderLookup) -> [HeaderMutation]? {
    let given = headers.value(ofHeader: "traceparent")
    if let given, TraceContext(traceparent: given) != nil { return nil }
    let trace = TraceContext(isSampled: false)
    return [.set(name: "traceparent", value: trace.traceparent), .remove(name: "tracestate")]
}

/// Headers by which the parts of the router speak with each other. What a client sends under these
/// names must reach no engine: it could make a sidecar connect to any host.
public enum RouterHeaders {
    /// Response header: who computed the prompt. A sidecar gives an address, the gateway a name.
    public static let prefill = "x-llmd-prefill"

    /// The names that are the router's own, in lower case.
    public static let owned: Set<String> = [
        "x-data-parallel-host-port", "x-encoder-hosts-ports", "x-gateway-destination-endpoint",
        "x-gateway-destination-endpoint-served", "x-gateway-destination-endpoint-subset",
        "x-gateway-inference-fairness-id", "x-gateway-inference-objective",
        "x-gateway-model-name-rewrite", "x-kv-cache-source-host-port",
        "x-llm-d-inference-fairness-id", "x-llm-d-inference-objective",
        "x-llm-d-model-name-rewrite", "x-llm-d-request-dropped-reason", "x-llm-d-slo-tpot-ms",
        "x-llm-d-slo-ttft-ms", "x-llm-d-video-duration-seconds", "x-llm-d-video-fps",
        "x-llm-d-video-resolution", "x-prefiller-host-port", "x-slo-tpot-ms", "x-slo-ttft-ms",
    ]

    /// The names of the router's own headers among those of a message, in lower case; nearly
    /// always none.
    public static func owned(in headers: HTTPHeaders) -> [String] {
        var found: [String] = []
        headers.forEachBytes { name, _ in
            guard name.count > 2, name[0] | 0x20 == UInt8(ascii: "x"), name[1] == UInt8(ascii: "-")
            else { return }
            let text = String(decoding: name, as: UTF8.self).lowercased()
            if owned.contains(text) { found.append(text) }
        }
        return found
    }
}
