import Core
import Foundation
import Testing

@Suite struct SocketAddressTests {
    @Test(
        arguments: [
            ("10.0.0.7:8000", "10.0.0.7", 8000), ("[fd00::7]:8000", "fd00::7", 8000),
            ("[::]:0", "::", 0), ("engine.local:65535", "engine.local", 65535),
            (":9090", "0.0.0.0", 9090),
        ] as [(String, String, UInt16)])
    func parses(_ text: String, _ host: String, _ port: UInt16) throws {
        let address = try SocketAddress(parsing: text)
        #expect(address == SocketAddress(host: host, port: port))
        #expect(try SocketAddress(parsing: address.description) == address)
    }

    @Test(arguments: [
        ("10.0.0.7", "has no port"), ("", "has no port"), ("a:", "has no port between 0 and 65535"),
        ("a:65536", "has no port between 0 and 65535"), ("a:-1", "has no port between 0 and 65535"),
        ("a:+1", "has no port between 0 and 65535"), ("a:http", "has no port between 0 and 65535"),
        ("fd00::7:8000", "has an IPv6 host without brackets"),
        ("[10.0.0.7]:80", "has brackets but is not IPv6"),
        ("/run/s:80", "has a slash in its host"), ("[/run/s::]:80", "has a slash in its host"),
        ("unix:/run/s", "has no port between 0 and 65535"),
    ])
    func refuses(_ text: String, _ problem: String) {
        let error = #expect(throws: AddressError.self) { try SocketAddress(parsing: text) }
        #expect(error?.description == "address '\(text)' \(problem)")
    }

    @Test func printsBracketsRoundIPv6() {
        #expect(SocketAddress(host: "::1", port: 1).description == "[::1]:1")
        #expect(SocketAddress(host: "h", port: 1).description == "h:1")
    }

    @Test func aUnixSocketIsNoHost() {
        let address = SocketAddress(unixSocket: "/run/s")
        #expect(address.isUnixSocket && address.description == "unix:/run/s")
        #expect(!SocketAddress(host: "run", port: 0).isUnixSocket)
    }
}

@Suite struct DataParallelRankTests {
    private func server(events: String?, replay: String? = nil) -> ModelServer {
        ModelServer(
            name: "ns/a", address: SocketAddress(host: "h", port: 1), eventsEndpoint: events,
            replayEndpoint: replay, dataParallelSize: 4)
    }

    @Test func ranksTakeTheNextPorts() {
        let server = server(events: "tcp://[fd00::7]:5557", replay: "ipc:///run/replay")
        #expect((0..<2).map(server.name(ofRank:)) == ["ns/a", "ns/a@dp1"])
        let first = server.rank(0)
        #expect(first?.name == "ns/a" && first?.eventsEndpoint == "tcp://[fd00::7]:5557")
        #expect(first?.replayEndpoint == "ipc:///run/replay" && first?.dataParallelSize == 1)
        let third = server.rank(2)
        #expect(third?.name == "ns/a@dp2" && third?.eventsEndpoint == "tcp://[fd00::7]:5559")
        #expect(third?.replayEndpoint == "ipc:///run/replay_dp2")
        #expect(third?.address == server.address && third?.dataParallelSize == 1)
        #expect(self.server(events: nil).rank(3)?.eventsEndpoint == nil)
    }

    @Test(arguments: ["tcp://h:*", "tcp://h", "tcp://h:65534", "tcp://h:0"])
    func endpointsWithoutPortsToCountFromHaveNoRanks(_ endpoint: String) {
        #expect(server(events: endpoint).rank(2) == nil)
        #expect(server(events: nil, replay: endpoint).rank(2) == nil)
        #expect(server(events: endpoint).rank(0) != nil)
    }
}

@Suite struct APIErrorTests {
    @Test func bodyIsVLLMs() throws {
        let error = APIError.badRequest("no \"model\"\n", param: "body.model")
        #expect(
            error.body
                == #"{"error":{"message":"no \"model\"\n","type":"BadRequestError","#
                + #""param":"body.model","code":400}}"#)
        let object = try JSONSerialization.jsonObject(with: Data(error.body.utf8))
        let fields = try #require((object as? [String: [String: Any]])?["error"])
        #expect(fields["message"] as? String == "no \"model\"\n")
        #expect(fields["code"] as? Int == 400)
    }

    @Test func withoutParamItIsNull() {
        #expect(APIError.notFound("x").body.contains(#""param":null,"code":404"#))
    }

    @Test(arguments: [
        (400, "invalid_request_error"), (404, "not_found_error"), (412, "invalid_request_error"),
        (413, "request_too_large"), (429, "rate_limit_error"), (502, "api_error"),
        (503, "overloaded_error"), (504, "timeout_error"),
    ])
    func anthropicHasAShapeOfItsOwn(status: Int, type: String) throws {
        let error = APIError(status: status, type: "X", message: "no \"model\"")
            .shaped(as: APIError.Shape(path: "/a/v1/messages"))
        let object = try JSONSerialization.jsonObject(with: Data(error.body.utf8))
        let fields = try #require(object as? [String: Any])
        #expect(fields["type"] as? String == "error")
        #expect(
            fields["error"] as? [String: String] == ["type": type, "message": "no \"model\""])
        #expect(error.event == "event: error\ndata: \(error.body)\n\n")
        #expect(APIError.Shape(path: "/v1/messages/batches") == .openAI)
        #expect(error.shaped(as: .openAI).event.hasPrefix(#"data: {"error":{"message":"#))
    }

    @Test func droppedNamesItsReason() {
        let error = APIError.dropped(status: 429, reason: .saturated, "full")
        #expect(
            error.headers == [
                APIError.Header("x-llm-d-request-dropped-reason", "rejected-saturated")
            ])
        #expect(error.type == "TooManyRequests")
        #expect(
            APIError.dropped(status: 503, reason: .noEndpoints, "none").type
                == "ServiceUnavailable")
    }
}

@Suite struct JSONEscapingTests {
    @Test func agreesWithFoundationForEveryControlAndAFewMore() throws {
        let text =
            (0..<0x30).compactMap(Unicode.Scalar.init).map(String.init).joined()
            + "\"\\/ é € 😀 \u{7f}\u{2028}"
        let read = try JSONSerialization.jsonObject(
            with: Data("\"\(text.jsonEscaped)\"".utf8), options: .fragmentsAllowed)
        #expect(read as? String == text)
    }

    @Test func escapes() {
        #expect("a\"\\\n\r\t\u{1}\u{1f}/".jsonEscaped == #"a\"\\\n\r\t\u0001\u001f/"#)
    }
}

@Suite struct ServerRoleTests {
    @Test(
        arguments: [
            (nil, false, true), ("prefill", true, false), ("decode", false, true),
            ("prefill-decode", true, true), ("encode", false, false),
            ("encode-prefill", true, false), ("encode-prefill-decode", true, true),
            ("both", true, true), ("nonsense", false, false),
        ] as [(String?, Bool, Bool)])
    func rolesByLabel(_ label: String?, _ prefill: Bool, _ decode: Bool) {
        let labels = label.map { [ServerRole.label: $0] } ?? [:]
        let server = ModelServer(
            name: "a", address: SocketAddress(host: "h", port: 1), labels: labels)
        let endpoint = Endpoint(server, id: 0)
        #expect(endpoint.takesPrefill == prefill)
        #expect(endpoint.takesDecode == decode)
        #expect(server.metricsAddress == server.address)
    }

    @Test func tiersFromFastToSlow() {
        #expect(Tier.allCases.sorted() == [.gpu, .cpu, .disk, .remote])
    }
}

@Suite struct MonotonicTimeTests {
    @Test func arithmetic() {
        let start = MonotonicTime(nanoseconds: 1_000)
        let later = start + .microseconds(2)
        #expect(later.nanoseconds == 3_000)
        #expect(later - start == .microseconds(2))
        #expect(start - later == .microseconds(-2))
        #expect(start < later)
        #expect((start + .nanoseconds(-5_000)).nanoseconds == 0)
    }

    @Test func doesNotRunBackwards() {
        let first = MonotonicTime.now
        #expect(MonotonicTime.now >= first)
    }

    @Test func durations() {
        #expect(Duration.seconds(2).nanoseconds == 2_000_000_000)
        #expect(Duration(seconds: 0.25) == .milliseconds(250))
        #expect(Duration.milliseconds(1500).seconds == 1.5)
    }
}
