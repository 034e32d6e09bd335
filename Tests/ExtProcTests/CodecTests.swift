import Core
import ExtProc
import Foundation
import Net
import Testing

/// The messages of Fixtures/messages.json, serialised by Google's protobuf runtime.
private struct Messages: Decodable {
    struct Request: Decodable {
        var name: String
        var hex: String
        var kind: String
        var headers: [[String]]?
        var body: String?
        var end: Bool?
        var subset: [String]?
        var served: String?
    }
    struct Response: Decodable {
        var name: String
        var hex: String
    }
    var requests: [Request]
    var responses: [Response]

    static func load() throws -> Messages {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "Fixtures/messages.json")
        return try JSONDecoder().decode(Messages.self, from: Data(contentsOf: file))
    }
}

@Suite struct CodecTests {
    @Test func decodesWhatProtobufEncoded() throws {
        for message in try Messages.load().requests {
            try bytes(fromHex: message.hex).withUnsafeBytes { bytes in
                let request = try ProcessingRequest(decoding: bytes)
                let summary = try Summary(request.event)
                #expect(summary.kind == message.kind, "\(message.name)")
                #expect(summary.headers == message.headers, "\(message.name)")
                #expect(summary.body == message.body, "\(message.name)")
                #expect(summary.end == message.end, "\(message.name)")
                #expect(try request.subsetHint() == message.subset, "\(message.name)")
                #expect(try request.servedEndpoint() == message.served, "\(message.name)")
            }
        }
    }

    @Test func encodesAsProtobufDoes() throws {
        let expected = Dictionary(
            uniqueKeysWithValues: try Messages.load().responses.map { ($0.name, $0.hex) })
        let cases: [(String, (inout ProcessingResponseWriter) -> Void)] = [
            (
                "route",
                {
                    $0.headers(
                        .request,
                        [
                            .set(name: "x-gateway-destination-endpoint", value: "10.0.0.7:8000"),
                            .set(name: "content-length", value: "512"),
                            .set(name: "x-long", value: String(repeating: "v", count: 300)),
                            .remove(name: "x-llm-d-inference-objective"),
                        ], destination: "10.0.0.7:8000")
                }
            ),
            ("request body, 17000 bytes", { $0.body(.request, "a", count: 17_000, end: false) }),
            ("request body, last", { $0.body(.request, "b", count: 100, end: true) }),
            ("request body, empty and last", { $0.body(.request, "b", count: 0, end: true) }),
            (
                "response headers",
                { $0.headers(.response, [.set(name: "x-went-into-resp-headers", value: "true")]) }
            ),
            ("response body, 200 bytes", { $0.body(.response, "c", count: 200, end: false) }),
            ("request trailers", { $0.trailers(.request) }),
            ("response trailers", { $0.trailers(.response) }),
            (
                "immediate response",
                {
                    $0.immediate(
                        status: 503,
                        headers: [
                            .set(name: "content-type", value: "application/json"),
                            .set(
                                name: "x-llm-d-request-dropped-reason",
                                value: "rejected-no-endpoints"),
                        ], body: "{\"error\":{}}")
                }
            ),
        ]
        #expect(cases.count == expected.count)
        var writer = ProcessingResponseWriter()
        for (name, write) in cases {
            writer.removeAll()
            write(&writer)
            let message = try #require(expected[name])
            let length = message.utf8.count / 2
            let prefix = [0, length >> 24, length >> 16 & 0xFF, length >> 8 & 0xFF, length & 0xFF]
            #expect(hex(writer.frames.prefix(5)) == hex(prefix.map { UInt8($0) }), "\(name)")
            #expect(hex(writer.frames.dropFirst(5)) == message, "\(name)")
        }
    }

    @Test(arguments: [0, 1, 61_999, 62_000, 62_001, 124_000, 200_000])
    func splitsBodiesForEnvoy(count: Int) throws {
        var writer = ProcessingResponseWriter()
        writer.body(.request, "x", count: count, end: true)
        let chunks = try Response.all(in: writer.frames).map { response throws -> (Int, Bool) in
            guard case .body(.request, let body, let end) = response else {
                throw NotAResponse()
            }
            return (body.count, end)
        }
        #expect(chunks.map(\.0).reduce(0, +) == count)
        #expect(chunks.allSatisfy { $0.0 <= 62_000 })
        #expect(chunks.count == max(1, (count + 61_999) / 62_000))
        #expect(chunks.map(\.1) == Array(repeating: false, count: chunks.count - 1) + [true])
    }

    @Test(arguments: [
        ("", "carries no part of a request or response"),
        ("08", "has a bad varint at offset 1"),
        ("12ffffffffffffffffff7f", "has a bad varint at offset 11"),
        ("1205", "ends inside field 2"),
        ("12ffffffffffffffffff01", "ends inside field 2"),
        ("13", "has wire type 3 in field 2"),
        ("0200", "has a field number out of range"),
        ("f8ffffff7f00", "has a field number out of range"),
        ("0900000000000000", "ends early"),
        ("12020a05", "ends inside field 1"),
    ])
    func refusesWhatIsNoMessage(message: String, problem: String) {
        bytes(fromHex: message).withUnsafeBytes { bytes in
            let thrown = #expect(throws: ProtobufError.self) {
                _ = try Summary(ProcessingRequest(decoding: bytes).event)
            }
            #expect(thrown?.problem == problem)
        }
    }

    /// Mutated messages decode or throw; they never read outside the buffer, which lies at the
    /// very end of an allocation of its own size.
    @Test func survivesMutation() throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed \(seed)")
        var random = SplitMix64(state: seed)
        let seeds = try Messages.load().requests.map { bytes(fromHex: $0.hex) }
        var decoded = 0
        for _ in 0..<20_000 {
            var message = seeds[Int(random.next() % UInt64(seeds.count))]
            for _ in 0..<(random.next() % 4 + 1) where !message.isEmpty {
                let index = Int(random.next() % UInt64(message.count))
                switch random.next() % 4 {
                case 0: message[index] = UInt8(truncatingIfNeeded: random.next())
                case 1: message.removeSubrange(index...)
                case 2: message.insert(UInt8(truncatingIfNeeded: random.next()), at: index)
                default: message[index] ^= 1 << UInt8(random.next() % 8)
                }
            }
            let exact = UnsafeMutableRawBufferPointer.allocate(
                byteCount: message.count, alignment: 1)
            defer { exact.deallocate() }
            exact.copyBytes(from: message)
            if let request = try? ProcessingRequest(decoding: UnsafeRawBufferPointer(exact)) {
                _ = try? Summary(request.event)
                _ = try? request.subsetHint()
                _ = try? request.servedEndpoint()
                decoded += 1
            }
        }
        #expect(decoded > 1_000)
    }
}

/// What a request says, in values that compare.
private struct Summary {
    var kind: String
    var headers: [[String]]?
    var body: String?
    var end: Bool?

    init(_ event: ProcessingRequest.Event) throws {
        switch event {
        case .requestHeaders(let list, let end):
            kind = "requestHeaders"
            (headers, self.end) = (try Self.headers(list), end)
        case .responseHeaders(let list, let end):
            kind = "responseHeaders"
            (headers, self.end) = (try Self.headers(list), end)
        case .requestBody(let bytes, let end):
            kind = "requestBody"
            (body, self.end) = (hex(bytes), end)
        case .responseBody(let bytes, let end):
            kind = "responseBody"
            (body, self.end) = (hex(bytes), end)
        case .requestTrailers: kind = "requestTrailers"
        case .responseTrailers: kind = "responseTrailers"
        }
    }

    private static func headers(_ list: HeaderList) throws -> [[String]] {
        var headers: [[String]] = []
        try list.forEach { name, value in
            headers.append([
                String(decoding: name, as: UTF8.self), String(decoding: value, as: UTF8.self),
            ])
        }
        return headers
    }
}
