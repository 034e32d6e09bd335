import Core
import Foundation
import Scan
import Sidecar
import Testing

/// What vLLM's NIXL connector says, from Fixtures/pd_nixl.json.
private struct Capture {
    let prefillRequest: Object
    let prefillResponse: Object

    init() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "Fixtures/pd_nixl.json")
        let root = try Object(Array(Data(contentsOf: file)))
        prefillRequest = try #require(root["prefill"]?["request"])
        prefillResponse = try #require(root["prefill"]?["response"])
    }
}

/// A JSON object, to be compared as text with its keys in order.
private struct Object {
    private var members: [String: Any]

    init(_ bytes: [UInt8]) throws {
        let value = try JSONSerialization.jsonObject(with: Data(bytes))
        members = try #require(value as? [String: Any])
    }

    private init(members: [String: Any]) {
        self.members = members
    }

    subscript(key: String) -> Object? { (members[key] as? [String: Any]).map(Object.init) }

    func without(_ keys: String...) -> Object {
        Object(members: members.filter { !keys.contains($0.key) })
    }

    var bytes: [UInt8] {
        get throws {
            Array(try JSONSerialization.data(withJSONObject: members, options: .sortedKeys))
        }
    }

    var text: String {
        get throws { String(decoding: try bytes, as: UTF8.self) }
    }
}

private let first = SocketAddress(host: "10.0.0.1", port: 8000)
private let second = SocketAddress(host: "10.0.0.2", port: 8000)

private func session(
    _ body: String, api: GenerationAPI = .completions,
    prefillers: [SocketAddress] = [first, second]
) throws -> DisaggregationSession {
    try DisaggregationSession(
        JSONDocument.parse(Array(body.utf8)), api: api, prefillers: prefillers)
}

extension DisaggregationSession.Step {
    fileprivate var prefill: (address: SocketAddress, body: [UInt8])? {
        if case .prefill(let address, let body) = self { (address, body) } else { nil }
    }
    fileprivate var decode: (body: [UInt8], cachedTokens: Int?)? {
        if case .decode(let body, let cachedTokens) = self { (body, cachedTokens) } else { nil }
    }
}

@Suite struct DisaggregationSessionTests {
    private let body =
        #"{"model":"m","prompt":"p","max_tokens":64,"min_tokens":3,"stream":true,"#
        + #""stream_options":{"include_usage":true}}"#

    @Test func thePrefillerComputesOneTokenWithoutStream() throws {
        var session = try session(body)
        let prefill = try #require(session.start().prefill)
        #expect(prefill.address == first)
        let sent = try Object(prefill.body)
        let expected = try Capture().prefillRequest["kv_transfer_params"]
        #expect(try sent["kv_transfer_params"]?.text == expected?.text)
        let rest = #"{"max_tokens":1,"min_tokens":1,"model":"m","prompt":"p","stream":false}"#
        #expect(try sent.without("kv_transfer_params").text == rest)
    }

    @Test(arguments: [
        (
            GenerationAPI.chatCompletions, #"{"max_completion_tokens":9}"#,
            #"{"max_completion_tokens":1,"max_tokens":1}"#
        ),
        (.chatCompletions, "{}", #"{"max_tokens":1}"#),
        (.messages, #"{"max_tokens":9}"#, #"{"max_tokens":1}"#),
        (.responses, #"{"max_output_tokens":9}"#, #"{"max_output_tokens":1}"#),
        (
            .generate, #"{"sampling_params":{"max_tokens":9,"min_tokens":2,"seed":1}}"#,
            #"{"sampling_params":{"max_tokens":1,"min_tokens":1,"seed":1}}"#
        ),
    ])
    func eachAPIHasItsOwnLimits(api: GenerationAPI, body: String, limits: String) throws {
        var session = try session(body, api: api)
        let sent = try Object(try #require(session.start().prefill).body)
        #expect(try sent.without("kv_transfer_params", "stream").text == limits)
    }

    @Test func theDecoderGetsTheRequestAndTheParametersAsReturned() throws {
        let answer = try Capture().prefillResponse
        var session = try session(body)
        _ = session.start()
        let step = session.prefillAnswered(status: 200, body: try answer.bytes)
        let decode = try #require(step?.decode)
        let sent = try Object(decode.body)
        #expect(
            try sent["kv_transfer_params"]?.text == answer["kv_transfer_params"]?.text)
        #expect(
            try sent.without("kv_transfer_params").text == Object(Array(body.utf8)).text)
        #expect(decode.cachedTokens == 0)
        #expect(session.outcome == .disaggregated)
        #expect(session.failures.isEmpty)
    }

    @Test func parametersOfTheClientAreReplaced() throws {
        var session = try session(#"{"kv_transfer_params":{"remote_host":"evil"},"stream":false}"#)
        let prefill = try #require(session.start().prefill).body
        #expect(!String(decoding: prefill, as: UTF8.self).contains("evil"))
        let answer = #"{"kv_transfer_params":{"a":1},"usage":null}"#
        let step = session.prefillAnswered(status: 200, body: Array(answer.utf8))
        let decode = try #require(step?.decode)
        #expect(
            try Object(decode.body).text == #"{"kv_transfer_params":{"a":1},"stream":false}"#)
        #expect(decode.cachedTokens == nil)
    }

    @Test(arguments: [
        (500, "{}", PrefillFailure.status), (503, "", .status), (302, "", .status),
        (200, "no json", .body), (200, "[]", .body), (200, "{}", .transferParameters),
        (200, #"{"kv_transfer_params":null}"#, .transferParameters),
    ])
    func afterAUselessAnswerTheNextPrefillerIsAskedThenTheDecoder(
        status: Int, answer: String, failure: PrefillFailure
    ) throws {
        var session = try session(body)
        let start = try #require(session.start().prefill)
        let answered = session.prefillAnswered(status: status, body: Array(answer.utf8))
        let next = try #require(answered?.prefill)
        #expect(next.address == second)
        #expect(next.body == start.body)
        #expect(session.outcome == nil)
        let decode = try #require(session.prefillFailed(.connection).decode)
        #expect(decode.body == Array(body.utf8))
        #expect(decode.cachedTokens == nil)
        #expect(session.outcome == .localFallback)
        #expect(session.failures == [failure, .connection])
    }

    @Test func afterTheDeadlineNoOtherPrefillerIsAsked() throws {
        var session = try session(body)
        _ = session.start()
        #expect(session.prefillFailed(.deadline).decode?.body == Array(body.utf8))
        #expect(session.outcome == .localFallback)
    }

    @Test(arguments: [400, 404, 413, 429])
    func faultsOfTheRequestEndIt(status: Int) throws {
        var session = try session(body)
        _ = session.start()
        #expect(session.prefillAnswered(status: status, body: []) == nil)
        #expect(session.outcome == .refused)
    }

    @Test(arguments: ["[]", "1", "null"])
    func onlyObjectsAreRequests(body: String) {
        #expect(throws: APIError.self) { try session(body) }
    }
}
