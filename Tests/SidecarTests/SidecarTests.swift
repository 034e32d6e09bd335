import Core
import Foundation
import LoopbackSupport
import Net
import Sidecar
import Telemetry
import Testing

private let completion = #"{"model":"m","prompt":"p","max_tokens":9,"stream":true}"#
private let prefillAnswer =
    #"{"kv_transfer_params":{"remote_host":"10.0.0.1"},"#
    + #""usage":{"prompt_tokens_details":{"cached_tokens":32}}}"#

@Suite(.timeLimit(.minutes(1))) struct SidecarTests {
    @Test func prefillsThenDecodes() async throws {
        let stage = try await Stage()
        let call = stage.complete()
        let prefill = try await stage.prefillers[0].next()
        #expect(prefill.head.target == "/v1/completions")
        #expect(prefill.body.contains(#""max_tokens":1"#))
        #expect(prefill.head.headers[first: "x-prefiller-host-port"] == nil)
        #expect(prefill.head.headers[first: "authorization"] == "Bearer key")
        #expect(!stage.engine.hasRequests)
        prefill.respond(200, [:], prefillAnswer)
        let decode = try await stage.engine.next()
        #expect(decode.body.contains(#""max_tokens":9,"stream":true"#))
        #expect(decode.body.contains(#""kv_transfer_params":{"remote_host":"10.0.0.1"}"#))
        #expect(decode.head.headers[first: "x-prefiller-host-port"] == nil)
        let id = decode.head.headers[first: "x-request-id"]
        #expect(id?.isEmpty == false)
        #expect(prefill.head.headers[first: "x-request-id"] == id)
        decode.begin(200, ["content-type": "text/event-stream"])
        #expect(try await call.head().headers[first: "x-llmd-prefill"] == nil)
        decode.write("data: {\"n\":1}\n\n")
        #expect(try await call.body(until: "\n\n") == "data: {\"n\":1}\n\n")
        decode.write(#"data: {"usage":{"prompt_tokens_details":{"cached_to"#)
        decode.write(#"kens":0}}}"# + "\n\n")
        decode.finish()
        let (rest, failure) = try await call.rest()
        #expect(rest == #"data: {"usage":{"prompt_tokens_details":{"cached_tokens":32}}}"# + "\n\n")
        #expect(failure == nil)
        #expect(stage.requests("disaggregated") == 1)
        await stage.stop()
    }

    @Test func aWholeResponseMayChangeItsLength() async throws {
        let stage = try await Stage()
        let call = stage.complete()
        try await stage.prefillers[0].next().respond(200, [:], prefillAnswer)
        try await stage.engine.next().respond(
            200, ["content-type": "application/json"], #"{"cached_tokens":0}"#)
        let response = try await call.response()
        #expect(response.body == #"{"cached_tokens":32}"#)
        await stage.stop()
    }

    @Test func theNextPrefillerIsAskedThenTheEngineAlone() async throws {
        let stage = try await Stage()
        let call = stage.complete()
        try await stage.prefillers[0].next().respond(503, [:], "busy")
        try await stage.prefillers[1].next().abort()
        let decode = try await stage.engine.next()
        #expect(decode.body == completion)
        decode.respond(200, [:], "done")
        #expect(try await call.response().body == "done")
        #expect(stage.requests("local_fallback") == 1)
        #expect(stage.failures("status") == 1)
        #expect(stage.failures("connection") == 1)
        await stage.stop()
    }

    /// The response names who computed the prompt, not who was asked first.
    @Test func namesThePrefillerThatDidIt() async throws {
        let stage = try await Stage { $0.revealsPrefiller = true }
        for failures in 0...2 {
            let call = stage.complete()
            for prefiller in stage.prefillers.prefix(failures) {
                try await prefiller.next().respond(503)
            }
            let computing = stage.prefillers.dropFirst(failures).first
            try await computing?.next().respond(200, [:], prefillAnswer)
            try await stage.engine.next().respond(200)
            let named = try await call.response().headers[first: "x-llmd-prefill"]
            #expect(named == computing?.address.description)
        }
        await stage.stop()
    }

    @Test func prefillersThatAreGoneAreSkipped() async throws {
        let stage = try await Stage()
        await stage.prefillers[0].stop()
        let call = stage.complete()
        try await stage.prefillers[1].next().respond(200, [:], prefillAnswer)
        try await stage.engine.next().respond(200, [:], "done")
        #expect(try await call.response().body == "done")
        #expect(stage.requests("disaggregated") == 1)
        await stage.stop()
    }

    @Test func afterTheDeadlineTheEngineWorksAlone() async throws {
        // Long enough for the prefiller to get the request on a busy machine.
        let stage = try await Stage { $0.prefillTimeout = .seconds(1) }
        let call = stage.complete()
        let prefill = try await stage.prefillers[0].next()
        let decode = try await stage.engine.next()
        #expect(decode.body == completion)
        // The prefiller is told to stop.
        #expect(try await prefill.end() != .complete)
        decode.respond(200, [:], "done")
        #expect(try await call.response().body == "done")
        #expect(stage.failures("deadline") == 1)
        await stage.stop()
    }

    @Test func faultsThatThePrefillerFindsAreTheClients() async throws {
        let stage = try await Stage()
        let call = stage.complete()
        try await stage.prefillers[0].next().respond(
            404, ["content-type": "application/json", "x-from": "prefiller"], #"{"error":{}}"#)
        let response = try await call.response()
        #expect(response.status == 404)
        #expect(response.headers[first: "x-from"] == "prefiller")
        #expect(response.body == #"{"error":{}}"#)
        #expect(!stage.engine.hasRequests)
        #expect(stage.requests("refused") == 1)
        await stage.stop()
    }

    @Test func onlyAllowedPrefillersAreAsked() async throws {
        let stage = try await Stage { $0.allowedPrefillers = ["10.0.0.1"] }
        let response = try await stage.complete().response()
        #expect(response.status == 403)
        #expect(!stage.engine.hasRequests)
        await stage.stop()
    }

    @Test(arguments: [
        ("127.0.0.1:1", "{", 400), ("127.0.0.1:1", "[]", 400), ("127.0.0.1", "{}", 400),
        ("127.0.0.1:1", "{" + String(repeating: " ", count: 3000), 413),
    ])
    func faultsOfTheRequestAreAnsweredHere(
        prefiller: String, body: String, status: Int
    ) async throws {
        let stage = try await Stage { $0.maximumBodyBytes = 2000 }
        let response = try await stage.client.fetch(
            "POST", "/v1/completions", ["x-prefiller-host-port": prefiller], body: body)
        #expect(response.status == status)
        #expect(response.body.contains(#"{"error":{"message":"#))
        await stage.stop()
    }

    @Test func aClientThatLeavesEndsTheLegThatRuns() async throws {
        let stage = try await Stage()
        let early = stage.complete()
        let prefill = try await stage.prefillers[0].next()
        early.cancel()
        #expect(try await prefill.end() != .complete)
        let late = stage.complete()
        try await stage.prefillers[0].next().respond(200, [:], prefillAnswer)
        let decode = try await stage.engine.next()
        late.cancel()
        #expect(try await decode.end() != .complete)
        #expect(!stage.engine.hasRequests)
        await stage.stop()
    }

    @Test func whatNamesNoPrefillerPassesThrough() async throws {
        let stage = try await Stage()
        let plain = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engine.next()
        #expect(request.body == completion)
        #expect(request.head.headers.values(of: "content-length") == ["\(completion.utf8.count)"])
        request.respond(200, [:], #"{"cached_tokens":0}"#)
        #expect(try await plain.response().body == #"{"cached_tokens":0}"#)
        let page = stage.client.send("GET", "/metrics", ["x-prefiller-host-port": "10.0.0.1:1"])
        let metrics = try await stage.engine.next()
        #expect(metrics.head.method == "GET")
        #expect(metrics.head.headers[first: "x-prefiller-host-port"] == nil)
        metrics.respond(200, [:], "vllm:num_requests_running 1")
        #expect(try await page.response().body == "vllm:num_requests_running 1")
        #expect(stage.requests("decode_only") == 2)
        await stage.stop()
    }

    @Test func bodiesPassThroughAsTheyCome() async throws {
        let stage = try await Stage(streams: true)
        let call = stage.client.stream("POST", "/tokenize")
        call.write("one ")
        // The engine has the head while the client still writes.
        let request = try await stage.engine.next()
        #expect(request.head.headers[first: "content-length"] == nil)
        request.readBody()
        call.write("two")
        call.finish()
        request.respond(200, [:], "done")
        #expect(try await call.response().body == "done")
        await stage.stop()
    }

    @Test func anEngineThatReadsSlowlyHoldsUpTheClient() async throws {
        let stage = try await Stage(streams: true)
        let total = 96 << 20
        let call = stage.client.stream("POST", "/tokenize", length: total)
        call.flood(total)
        let request = try await stage.engine.next()
        // Every ping is a turn of all loops: once none of them moves anything, all is still.
        var stillTurns = 0
        var before = -1
        while stillTurns < 30 {
            #expect(try await stage.client.fetch("GET", "/health").status == 200)
            stillTurns = call.sentCount == before ? stillTurns + 1 : 0
            before = call.sentCount
        }
        #expect(call.sentCount < total / 2)
        request.readBody()
        try await request.complete()
        #expect(request.bodyCount == total)
        request.respond(200)
        #expect(try await call.response().status == 200)
        await stage.stop()
    }

    @Test func aTornStreamSaysWhy() async throws {
        let stage = try await Stage()
        let call = stage.complete()
        try await stage.prefillers[0].next().respond(200, [:], prefillAnswer)
        let decode = try await stage.engine.next()
        decode.begin(200, ["content-type": "text/event-stream"])
        decode.write("data: 1\n\n")
        _ = try await call.head()
        _ = try await call.body(until: "\n\n")
        decode.abort()
        let (rest, failure) = try await call.rest()
        #expect(rest.contains(#"data: {"error":{"message":"The model server failed"#))
        #expect(failure != nil)
        await stage.stop()
    }

    @Test func anEngineThatIsGoneIs503() async throws {
        let stage = try await Stage()
        await stage.engine.stop()
        let passing = try await stage.client.fetch("GET", "/v1/models")
        #expect(passing.status == 503)
        let call = stage.complete()
        try await stage.prefillers[0].next().respond(200, [:], prefillAnswer)
        let response = try await call.response()
        #expect(response.status == 503)
        #expect(response.body.contains("The decode engine cannot be reached"))
        await stage.stop()
    }
}

/// A sidecar beside an engine, and two prefillers.
private struct Stage {
    let engine: LoopbackServer
    let prefillers: [LoopbackServer]
    let client: LoopbackClient
    private let metrics = MetricsRegistry()
    private let sidecar: SidecarServer
    private let group: EventLoopGroup
    private let engineGroup: EventLoopGroup

    init(
        streams: Bool = false, _ adjust: (inout SidecarConfiguration) -> Void = { _ in }
    ) async throws {
        group = try EventLoopGroup(count: 1, name: "sidecar")
        let engineGroup = try EventLoopGroup(count: 1, name: "engines")
        self.engineGroup = engineGroup
        engine = try LoopbackServer(on: engineGroup, streams: streams)
        prefillers = try (0..<2).map { _ in try LoopbackServer(on: engineGroup) }
        var configuration = SidecarConfiguration(
            address: .ownLoopback(), engine: engine.address)
        adjust(&configuration)
        sidecar = try SidecarServer.start(
            on: group, configuration: configuration, metrics: metrics)
        client = LoopbackClient(on: engineGroup, to: sidecar.address)
    }

    /// A request as the router sends it.
    func complete() -> LoopbackCall {
        let prefillers = prefillers.map(\.address.description).joined(separator: ", ")
        return client.send(
            "POST", "/v1/completions",
            ["x-prefiller-host-port": prefillers, "authorization": "Bearer key"],
            body: completion)
    }

    func requests(_ outcome: String) -> Int {
        sample("llmd_sidecar_requests_total{outcome=\"\(outcome)\"} ")
    }

    func failures(_ reason: String) -> Int {
        sample("llmd_sidecar_prefill_failures_total{reason=\"\(reason)\"} ")
    }

    private func sample(_ prefix: String) -> Int {
        let page = String(decoding: metrics.exposition(), as: UTF8.self)
        let line = page.split(separator: "\n").first { $0.hasPrefix(prefix) }
        return line.flatMap { Double($0.dropFirst(prefix.count)) }.map { Int($0) } ?? -1
    }

    func stop() async {
        await sidecar.drain(within: .zero)
        await engine.stop()
        for prefiller in prefillers { await prefiller.stop() }
        group.shutdown()
        engineGroup.shutdown()
    }
}
