package import Core
package import Scan

/// The API of a request that a prefiller can take a part of, by its path.
package enum GenerationAPI: String {
    case completions = "/v1/completions"
    case chatCompletions = "/v1/chat/completions"
    case messages = "/v1/messages"
    case responses = "/v1/responses"
    case generate = "/inference/v1/generate"
}

/// Why a prefiller was of no use to a request.
package enum PrefillFailure: String, CaseIterable {
    /// It could not be reached, or the connection broke.
    case connection
    /// It answered with a status of 500 or above, or an unexpected one.
    case status
    /// Its answer was not a JSON object.
    case body
    /// Its answer named no KV blocks to fetch.
    case transferParameters = "kv_transfer_params"
    /// It was too slow.
    case deadline
}

/// One request on its way through a prefill and a decode engine by vLLM's NIXL protocol: events
/// in, the next step out.
///
/// The prefiller computes the prompt and one token and answers with `kv_transfer_params`, which
/// the decode engine needs to fetch the KV blocks. Should a prefiller fail, the next one is asked;
/// should all fail, the decode engine computes the prompt itself. Upstream's sidecar gives up
/// instead; here the client sees one clean response.
package struct DisaggregationSession {
    /// What to do next.
    package enum Step {
        /// Ask a prefiller. Its answer, or its failure, is the next event.
        case prefill(SocketAddress, body: [UInt8])
        /// Send this to the decode engine. `cachedTokens`, if there is one, replaces the number of
        /// cached tokens in its response. The last step.
        case decode(body: [UInt8], cachedTokens: Int?)
    }

    /// How the request was served in the end.
    package enum Outcome: String, CaseIterable {
        case disaggregated
        case localFallback = "local_fallback"
        /// The prefiller found the request at fault.
        case refused
    }

    private let request: JSONDocument
    private let prefillBody: [UInt8]
    private var prefillers: ArraySlice<SocketAddress>
    /// The last prefiller that was asked.
    private var asked: SocketAddress?

    /// How the request was served; nil before the last step.
    package private(set) var outcome: Outcome?
    /// Who computed the prompt; nil before the last step, and if the decode engine does it itself.
    package var prefilledBy: SocketAddress? { outcome == .disaggregated ? asked : nil }
    /// Why each prefiller that was asked in vain was of no use.
    package private(set) var failures: [PrefillFailure] = []

    /// Makes a session of a request; `prefillers` are asked in order.
    ///
    /// - Throws: 400 if the request is not a JSON object.
    package init(
        _ request: JSONDocument, api: GenerationAPI, prefillers: [SocketAddress]
    ) throws(APIError) {
        self.request = request
        self.prefillers = prefillers[...]
        prefillBody = try Self.edited(request) { edit in
            edit.set("stream", to: .bool(false))
            edit.remove("stream_options")
            edit.set("kv_transfer_params", to: .raw(Self.prefillParameters))
            switch api {
            case .completions, .chatCompletions:
                edit.set("max_tokens", to: .int(1))
                for key in ["max_completion_tokens", "min_tokens"] where request[key] != nil {
                    edit.set(key, to: .int(1))
                }
            case .messages: edit.set("max_tokens", to: .int(1))
            case .responses: edit.set("max_output_tokens", to: .int(1))
            case .generate:
                edit.set("sampling_params", "max_tokens", to: .int(1))
                if request["sampling_params"]?["min_tokens"] != nil {
                    edit.set("sampling_params", "min_tokens", to: .int(1))
                }
            }
        }
    }

    /// The first step.
    package mutating func start() -> Step { next() }

    /// The prefiller answered. Nil: it found the request at fault, and its answer is the client's.
    package mutating func prefillAnswered(status: Int, body: [UInt8]) -> Step? {
        switch status {
        case 200..<300: break
        case 400..<500:
            outcome = .refused
            return nil
        default: return prefillFailed(.status)
        }
        guard let answer = try? JSONDocument.parse(body), answer.root.kind == .object else {
            return prefillFailed(.body)
        }
        guard
            let parameters = answer["kv_transfer_params"], parameters.kind == .object,
            let body = try? Self.edited(
                request, { $0.set("kv_transfer_params", to: .value(parameters)) })
        else { return prefillFailed(.transferParameters) }
        let usage = answer["usage"]
        let details = usage?["prompt_tokens_details"] ?? usage?["input_tokens_details"]
        outcome = .disaggregated
        return .decode(body: body, cachedTokens: details?["cached_tokens"]?.int)
    }

    /// The prefiller gave no answer, or a useless one. After a deadline no other one is asked.
    package mutating func prefillFailed(_ failure: PrefillFailure) -> Step {
        failures.append(failure)
        if failure == .deadline { prefillers = [] }
        return next()
    }

    private mutating func next() -> Step {
        if let prefiller = prefillers.popFirst() {
            asked = prefiller
            return .prefill(prefiller, body: prefillBody)
        }
        outcome = .localFallback
        return .decode(body: request.bytes, cachedTokens: nil)
    }

    private static func edited(
        _ request: JSONDocument, _ change: (inout JSONEdit) -> Void
    ) throws(APIError) -> [UInt8] {
        do {
            var edit = try JSONEdit(request)
            change(&edit)
            return edit.apply()
        } catch {
            throw .badRequest("The body is not a JSON object.")
        }
    }

    /// As vLLM's NIXL connector wants them from a router.
    private static let prefillParameters =
        Array(
            #"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"#.utf8
        ) + Array(#""remote_block_ids":null,"remote_host":null,"remote_port":null}"#.utf8)
}
