import Core
import Foundation
import Gateway
import LoopbackSupport
import Net
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1))) struct FrontDoorTests {
    /// The key is `secret`.
    private func keys(_ limits: RateLimits = RateLimits()) -> APIKeys {
        let digest: [UInt8] = [
            0x2b, 0xb8, 0x0d, 0x53, 0x7b, 0x1d, 0xa3, 0xe3, 0x8b, 0xd3, 0x03, 0x61, 0xaa, 0x85,
            0x56, 0x86, 0xbd, 0xe0, 0xea, 0xcd, 0x71, 0x62, 0xfe, 0xf6, 0xa2, 0x5f, 0xe9, 0x7b,
            0xf5, 0x27, 0xa2, 0x5b,
        ]
        return APIKeys(
            [APIKeyEntry(name: "team-a", digest: digest, limits: limits)], at: .distantPast)
    }

    private func log(_ name: String) throws -> (file: LogFile, path: String) {
        let path = FileManager.default.temporaryDirectory
            .appending(path: "\(name)-\(UUID().uuidString).log").path
        let dropped = MetricsRegistry().counter("dropped_total", "Lines that were lost.")
        return (try LogFile(path: path, dropped: dropped), path)
    }

    /// The objects in a log, and the text of it.
    private func lines(_ log: (file: LogFile, path: String)) throws -> ([[String: Any]], String) {
        log.file.flush(within: .seconds(30))
        let text = try String(contentsOfFile: log.path, encoding: .utf8)
        let objects = try text.split(separator: "\n").map {
            try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] ?? [:]
        }
        return (objects, text)
    }

    // MARK: - Keys

    @Test(
        arguments: [
            [:], ["authorization": "Bearer wrong"], ["x-api-key": ""],
            ["authorization": "Basic c2VjcmV0"],
        ] as [HTTPHeaders])
    func withoutAKeyNobodyComesIn(headers: HTTPHeaders) async throws {
        let stage = try await Stage(engines: 1) { $0.keys = keys() }
        let response = try await stage.client.fetch(
            "POST", "/v1/completions", headers, body: completion)
        #expect(response.status == 401)
        #expect(response.body.contains(#""type":"invalid_request_error""#))
        #expect(response.body.contains(#""code":"invalid_api_key""#))
        #expect(response.headers[first: "www-authenticate"] == "Bearer")
        #expect(response.headers[first: "x-request-id"]?.isEmpty == false)
        #expect(try await stage.client.fetch("GET", "/v1/models", headers).status == 401)
        #expect(!stage.engines[0].hasRequests)
        #expect(try await stage.client.fetch("GET", "/health", headers).status == 200)
        await stage.stop()
    }

    @Test(arguments: [false, true])
    func theKeyStaysHereUnlessToldOtherwise(forwards: Bool) async throws {
        let stage = try await Stage(engines: 1) {
            $0.keys = keys()
            $0.forwardsAuthorization = forwards
        }
        for (name, value) in [("authorization", "Bearer secret"), ("x-api-key", "secret")] {
            let call = stage.client.send(
                "POST", "/v1/completions", [name: value, "x-other": "1"], body: completion)
            let request = try await stage.engines[0].next()
            #expect(request.head.headers[first: name] == (forwards ? value : nil))
            #expect(request.head.headers[first: "x-other"] == "1")
            request.respond(200)
            #expect(try await call.response().status == 200)
        }
        await stage.stop()
    }

    @Test func withoutKeysTheHeaderPasses() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send("GET", "/v1/models", ["authorization": "Bearer engine"])
        let request = try await stage.engines[0].next()
        #expect(request.head.headers[first: "authorization"] == "Bearer engine")
        request.respond(200)
        _ = try await call.response()
        await stage.stop()
    }

    @Test func requestsBeyondTheLimitOfAKeyAre429() async throws {
        let stage = try await Stage(engines: 1) {
            $0.keys = keys(RateLimits(requestsPerMinute: 2))
            $0.clock = { .distantPast }
        }
        for left in ["1", "0"] {
            let call = stage.client.send("GET", "/v1/models", ["x-api-key": "secret"])
            try await stage.engines[0].next().respond(200, ["x-ratelimit-limit-requests": "7"])
            let headers = try await call.response().headers
            #expect(headers.values(of: "x-ratelimit-limit-requests") == ["2"])
            #expect(headers[first: "x-ratelimit-remaining-requests"] == left)
            #expect(headers[first: "x-ratelimit-reset-requests"]?.hasSuffix("s") == true)
        }
        let refused = try await stage.client.fetch("GET", "/v1/models", ["x-api-key": "secret"])
        #expect(refused.status == 429)
        #expect(refused.headers[first: "retry-after"] == "30")
        #expect(refused.headers[first: "x-ratelimit-remaining-requests"] == "0")
        #expect(refused.body.contains(#""code":"rate_limit_exceeded""#))
        #expect(!stage.engines[0].hasRequests)
        await stage.stop()
    }

    @Test func tokensAreCountedByWhatTheEngineSays() async throws {
        let stage = try await Stage(engines: 1) {
            $0.keys = keys(RateLimits(tokensPerMinute: 100))
            $0.clock = { .distantPast }
        }
        func remaining(_ answer: (LoopbackRequest) -> Void) async throws -> String? {
            let call = stage.client.send(
                "POST", "/v1/completions", ["x-api-key": "secret"], body: completion)
            answer(try await stage.engines[0].next())
            return try await call.response().headers[first: "x-ratelimit-remaining-tokens"]
        }
        // The prompt is reserved: 3 tokens. A failure costs nothing.
        #expect(try await remaining { $0.respond(500) } == "97")
        // A reply without usage costs its prompt.
        #expect(try await remaining { $0.respond(200) } == "97")
        // One that streams costs its events, too.
        #expect(
            try await remaining {
                $0.respond(
                    200, ["content-type": "text/event-stream"], "data: a\n\ndata: [DONE]\n\n")
            } == "94")
        // 97 - 3 - 2 = 92, of which 3 are reserved anew.
        #expect(
            try await remaining {
                $0.respond(
                    200, [:], #"{"usage":{"prompt_tokens":10,"completion_tokens":200}}"#)
            } == "89")
        // That was more than there was: nothing is left, and no token is there for a request.
        let refused = try await stage.client.fetch(
            "POST", "/v1/completions", ["x-api-key": "secret"], body: completion)
        #expect(refused.status == 429)
        #expect(refused.body.contains(#""type":"tokens""#))
        #expect(!stage.engines[0].hasRequests)
        await stage.stop()
    }

    @Test func aPromptBeyondTheLimitIsRefusedForGood() async throws {
        let stage = try await Stage(engines: 1) {
            $0.keys = keys(RateLimits(tokensPerMinute: 2))
        }
        let refused = try await stage.client.fetch(
            "POST", "/v1/completions", ["x-api-key": "secret"], body: completion)
        #expect(refused.status == 429)
        #expect(refused.headers[first: "x-should-retry"] == "false")
        #expect(!stage.engines[0].hasRequests && stage.inFlightCount == 0)
        await stage.stop()
    }

    // MARK: - CORS

    @Test func pagesMayCallIfTheyAreListed() async throws {
        let stage = try await Stage(engines: 1) {
            $0.keys = keys()
            $0.cors = CORSPolicy(origins: ["https://chat.example"])
        }
        let origin: HTTPHeaders = ["origin": "https://chat.example"]
        var question = origin
        question.append("access-control-request-method", "POST")
        question.append("access-control-request-headers", "authorization")
        let answer = try await stage.client.fetch("OPTIONS", "/v1/completions", question)
        #expect(answer.status == 204)
        #expect(answer.headers[first: "access-control-allow-origin"] == "https://chat.example")
        #expect(answer.headers[first: "access-control-allow-headers"] == "authorization")

        // A page must be able to read why it was refused.
        let refused = try await stage.client.fetch("GET", "/v1/models", origin)
        #expect(refused.status == 401)
        #expect(refused.headers[first: "access-control-allow-origin"] == "https://chat.example")

        var headers = origin
        headers.append("authorization", "Bearer secret")
        let call = stage.client.send("GET", "/v1/models", headers)
        try await stage.engines[0].next().respond(200, ["access-control-allow-origin": "*"])
        let response = try await call.response()
        #expect(
            response.headers.values(of: "access-control-allow-origin") == ["https://chat.example"])
        await stage.stop()
    }

    @Test func withoutAListNothingIsSaidOfPages() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send(
            "OPTIONS", "/v1/models",
            ["origin": "https://a.example", "access-control-request-method": "GET"])
        try await stage.engines[0].next().respond(405)
        let response = try await call.response()
        #expect(response.status == 405)
        #expect(response.headers[first: "access-control-allow-origin"] == nil)
        #expect(response.headers[first: "vary"] == nil)
        await stage.stop()
    }

    // MARK: - The access log

    @Test func tellsOfEveryRequestAndNoSecret() async throws {
        let log = try log("all")
        defer { try? FileManager.default.removeItem(atPath: log.path) }
        let stage = try await Stage(engines: 2) {
            $0.keys = keys()
            $0.accessLog = log.file
            $0.client.idleCloseWindow = .zero
        }
        let headers: HTTPHeaders = ["authorization": "Bearer secret", "x-request-id": "id-1"]
        let call = stage.client.send(
            "POST", "/v1/completions?token=hidden", headers, body: completion)
        try await stage.engines[0].next().respond(
            200, ["x-llmd-prefill": stage.engines[1].address.description],
            #"{"text":"x","usage":{"prompt_tokens":3,"completion_tokens":4}}"#)
        _ = try await call.response()
        _ = try await stage.client.fetch("POST", "/v1/completions", headers, body: "{")
        _ = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        let dead = stage.client.send("POST", "/v1/completions", headers, body: completion)
        try await stage.engines[0].next().abort()
        _ = try await dead.response()
        let (objects, text) = try lines(log)
        #expect(objects.map { $0["status"] as? Int } == [200, 400, 401, 502])
        #expect(
            objects.map { $0["reason"] as? String } == [
                nil, "Bad Request", "invalid_api_key", "BadGateway",
            ])
        let first = try #require(objects.first)
        #expect(first["request_id"] as? String == "id-1")
        #expect(first["path"] as? String == "/v1/completions")
        #expect(first["client"] as? String == "127.0.0.1")
        #expect(first["key"] as? String == "team-a")
        #expect(first["model"] as? String == "m")
        #expect(first["endpoint"] as? String == "engine-0")
        #expect(first["prefill"] as? String == "engine-1")
        #expect(first["bytes_in"] as? Int == completion.utf8.count)
        #expect(first["bytes_out"] as? Int == 62)
        #expect(first["prompt_tokens"] as? Int == 3)
        #expect(first["completion_tokens"] as? Int == 4)
        let firstByte = try #require(first["first_byte_ms"] as? Double)
        #expect(try #require(first["duration_ms"] as? Double) >= firstByte)
        #expect((objects[2]["request_id"] as? String)?.isEmpty == false)
        #expect(objects[3]["endpoint"] as? String == "engine-0")
        for hidden in ["secret", "hidden", "prompt\"", "text", "Bearer"] {
            #expect(!text.contains(hidden))
        }
        await stage.stop()
    }

    @Test func tellsWhatBrokeOff() async throws {
        let log = try log("broken")
        defer { try? FileManager.default.removeItem(atPath: log.path) }
        let stage = try await Stage(engines: 1) { $0.accessLog = log.file }
        let gone = stage.client.send("POST", "/v1/completions", body: completion)
        let waiting = try await stage.engines[0].next()
        gone.cancel()
        #expect(try await waiting.end() != .complete)
        let torn = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "application/json"])
        request.write("{")
        _ = try await torn.head()
        request.abort()
        _ = try await torn.rest()
        try await stage.ping()
        let (objects, _) = try lines(log)
        #expect(objects.map { $0["reason"] as? String } == ["client_gone", "BadGateway"])
        #expect(objects.map { $0["status"] as? Int } == [nil, 200])
        await stage.stop()
    }
}

extension MonotonicTime {
    /// A time that stands still.
    fileprivate static let distantPast = MonotonicTime(nanoseconds: 1_000_000_000)
}
