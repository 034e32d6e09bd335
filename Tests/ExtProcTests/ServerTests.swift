import Core
import ExtProc
import LoopbackSupport
import ModelServers
import Net
import Synchronization
import Telemetry
import Testing

private let path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

@Suite(.timeLimit(.minutes(1))) struct ServerTests {
    @Test(arguments: [true, false])
    func servesWithAndWithoutTLS(isSecure: Bool) async throws {
        let stage = try Stage(engines: 1, isSecure: isSecure)
        var stream = try await stage.open()
        stream.send(Request.requestHeaders(completion))
        stream.send(Request.requestBody(#"{"model":"m","prompt":[1]}"#.utf8, end: true))
        #expect(try await stream.next().set["x-gateway-destination-endpoint"] == "10.0.0.1:8000")
        guard case .body(.request, _, true) = try await stream.next() else {
            Issue.record("the body was expected")
            return
        }
        stream.send(Request.responseHeaders([(":status", "200")]))
        _ = try await stream.next()
        stream.send(Request.responseBody("data: 1\n\n"))
        #expect(
            try await stream.next()
                == .body(.response, Array("data: 1\n\n".utf8), endOfStream: false))
        stream.send(Request.responseBody("", end: true))
        _ = try await stream.next()
        stream.finish()
        #expect(try await stream.status() == 0)
        #expect(stage.fixture.inFlightCount == 0)
        await stage.stop()
    }

    @Test func aLongBodyGoesThereAndBack() async throws {
        let stage = try Stage(engines: 1)
        var stream = try await stage.open()
        let body = Array(
            (#"{"model":"m","prompt":""# + String(repeating: "x", count: 8 << 20) + #""}"#).utf8)
        stream.send(Request.requestHeaders(completion))
        for start in Swift.stride(from: 0, to: body.count, by: 60_000) {
            let end = min(start + 60_000, body.count)
            stream.send(Request.requestBody(body[start..<end], end: end == body.count))
        }
        #expect(try await stream.next().set["content-length"] == "\(body.count)")
        var received: [UInt8] = []
        var isComplete = false
        while !isComplete {
            guard case .body(.request, let chunk, let end) = try await stream.next() else {
                Issue.record("the body was expected")
                return
            }
            received += chunk
            isComplete = end
        }
        #expect(received == body)
        await stage.stop()
    }

    @Test func aResponseOfItsOwnEndsTheStream() async throws {
        let stage = try Stage(engines: 0)
        var stream = try await stage.open()
        stream.send(
            Request.requestHeaders([(":method", "GET"), (":path", "/v1/models")], end: true))
        guard case .immediate(503, _, _) = try await stream.next() else {
            Issue.record("503 was expected")
            return
        }
        #expect(try await stream.status() == 0)
        await stage.stop()
    }

    @Test func aStreamThatIsResetReleasesItsEndpoint() async throws {
        let stage = try Stage(engines: 1)
        var stream = try await stage.open()
        stream.send(
            Request.requestHeaders([(":method", "GET"), (":path", "/v1/models")], end: true))
        _ = try await stream.next()
        #expect(stage.fixture.inFlightCount == 1)
        stream.cancel()
        // On the same connection, so the server has seen the reset before it answers.
        let other = try await stage.open()
        other.finish()
        #expect(try await other.status() == 0)
        #expect(stage.fixture.inFlightCount == 0)
        await stage.stop()
    }

    @Test func garbageIsAnInvalidArgument() async throws {
        let stage = try Stage(engines: 1)
        for frame in [[0, 0, 0, 0, 1, 0xFF], [1, 0, 0, 0, 0], [0, 0xFF, 0xFF, 0xFF, 0xFF]] {
            let stream = try await stage.open()
            stream.sendRaw(frame.map { UInt8($0) })
            #expect(try await stream.status() == 3)
        }
        await stage.stop()
    }

    @Test func tokensAreAskedOfAnEngine() async throws {
        let stage = try Stage(engines: 1, plugins: "{type: first-picker}, {type: token-reader}")
        let engine = try LoopbackServer(on: stage.group)
        stage.fixture.pool.update([ModelServer(name: "engine", address: engine.address)])
        var stream = try await stage.open()
        let body = #"{"model":"m","prompt":"text"}"#
        stream.send(Request.requestHeaders(completion))
        stream.send(Request.requestBody(body.utf8, end: true))
        let question = try await engine.next()
        #expect(question.head.target == "/v1/completions/render")
        #expect(question.body == body)
        question.respond(200, [:], #"[{"token_ids":[1,2]}]"#)
        let destination = try await stream.next().set["x-gateway-destination-endpoint"]
        #expect(destination == engine.address.description)
        await engine.stop()
        await stage.stop()
    }

    @Test func otherMethodsAreUnimplemented() async throws {
        let stage = try Stage(engines: 1)
        let stream = try await stage.open("/envoy.service.ext_proc.v3.ExternalProcessor/Other")
        stream.finish()
        #expect(try await stream.status() == 12)
        await stage.stop()
    }

    @Test func tellsItsHealth() async throws {
        let stage = try Stage(engines: 1)
        #expect(try await stage.health("liveness") == [8, 1])
        #expect(try await stage.health("readiness") == [8, 2])
        stage.isReady.set()
        for service in ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"] {
            #expect(try await stage.health(service) == [8, 1])
        }
        let thrown = await #expect(throws: GRPCStatus.self) { try await stage.health("other") }
        #expect(thrown?.code == 5)
        await stage.stop()
    }
}

/// An endpoint picker on loopback.
private struct Stage {
    let fixture: Fixture
    let group: EventLoopGroup
    let isReady = Flag()
    private let server: ExtProcServer
    private let client: LoopbackClient
    private let healthClient: HTTPClient

    init(engines: Int, plugins: String = "{type: first-picker}", isSecure: Bool = false) throws {
        fixture = try Fixture(engines: engines, plugins: plugins)
        group = try EventLoopGroup(count: 1, name: "extproc")
        var configuration = ExtProcConfiguration(
            address: .ownLoopback(), healthAddress: .ownLoopback())
        if isSecure { configuration.tls = try .selfSigned(names: ["localhost"]) }
        server = try ExtProcServer.start(
            on: group, router: fixture.router, configuration: configuration,
            metrics: MetricsRegistry(), isReady: { [isReady] in isReady.isSet })
        client = LoopbackClient(
            on: group, to: server.address, http2: true,
            tls: isSecure ? try TLSClientContext(verify: .none) : nil)
        var clientConfiguration = HTTPClientConfiguration()
        clientConfiguration.http2 = true
        healthClient = HTTPClient(on: group.loops[0], configuration: clientConfiguration)
    }

    /// Opens a stream as a data plane does.
    func open(_ path: String = path) async throws -> Stream {
        let call = client.stream(
            "POST", path, ["content-type": "application/grpc", "te": "trailers"])
        #expect(try await call.head().status == 200)
        return Stream(call: call)
    }

    /// The message that answers a question for health.
    func health(_ service: String) async throws -> [UInt8] {
        let address = try #require(server.healthAddress)
        let name = Array(service.utf8)
        return try await healthClient.unary(
            path: "/grpc.health.v1.Health/Check", to: address,
            message: name.isEmpty ? [] : [0x0A, UInt8(name.count)] + name, timeout: .seconds(10))
    }

    func stop() async {
        await server.drain(within: .zero)
        group.shutdown()
    }
}

/// The data plane's end of a stream.
private struct Stream {
    private let call: LoopbackCall
    private var reader = GRPCFrameReader(maximumMessageBytes: 1 << 20)
    private var responses: [Response] = []

    init(call: LoopbackCall) {
        self.call = call
    }

    func send(_ message: [UInt8]) {
        let prefix = [
            0, message.count >> 24, message.count >> 16, message.count >> 8, message.count,
        ]
        sendRaw(prefix.map { UInt8(truncatingIfNeeded: $0) } + message)
    }

    func sendRaw(_ bytes: [UInt8]) { call.write(bytes) }

    func finish() { call.finish() }

    func cancel() { call.cancel() }

    mutating func next() async throws -> Response {
        while responses.isEmpty {
            guard case .body(let bytes) = try await call.next() else { throw NotAResponse() }
            var messages: [[UInt8]] = []
            try bytes.withUnsafeBytes { try reader.feed($0) { messages.append(Array($0)) } }
            responses = try messages.map { try Response(message: $0) }
        }
        return responses.removeFirst()
    }

    /// The status that ends the stream.
    func status() async throws -> Int? {
        guard case .end(let trailers) = try await call.next() else { throw NotAResponse() }
        return trailers.flatMap(GRPCStatus.init(trailers:))?.code
    }
}

/// Something that is so, or not yet.
private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)

    var isSet: Bool { value.load(ordering: .relaxed) }

    func set() { value.store(true, ordering: .relaxed) }
}
