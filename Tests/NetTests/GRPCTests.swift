import Core
import Net
import Testing

/// Answers a call: doubles every byte; `/fail` fails.
private final class Doubler: ServerExchangeDelegate {
    private var reader = GRPCFrameReader()
    private var status = GRPCStatus.ok

    init(_ exchange: ServerExchange) {
        exchange.respondGRPC()
        if exchange.head.path == "/fail" { status = .notFound("100 % gone\nfor good") }
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        try? reader.feed(body) { message in
            guard status.code == 0 else { return }
            message.map { $0 &* 2 }.withUnsafeBytes { _ = exchange.writeGRPCMessage($0) }
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) { exchange.finishGRPC(status) }
}

@Suite(.serialized) struct GRPCTests {
    @Test func unaryCall() async throws {
        let server = try TestServer { Doubler($0) }
        let client = try HTTP2Tests.client()
        let address = server.address
        let doubled = try await client.client.unary(
            path: "/double", to: address, message: [1, 2, 3], timeout: .seconds(patience))
        #expect(doubled == [2, 4, 6])
        let empty = try await client.client.unary(
            path: "/double", to: address, message: [], timeout: .seconds(patience))
        #expect(empty == [])
    }

    @Test func statusComesInTrailers() async throws {
        let server = try TestServer { Doubler($0) }
        let client = try HTTP2Tests.client()
        await #expect(throws: GRPCStatus.notFound("100 % gone\nfor good")) {
            try await client.client.unary(
                path: "/fail", to: server.address, message: [1], timeout: .seconds(patience))
        }
    }

    @Test func unreachableServerIsUnavailable() async throws {
        let address = try RawServer().address
        let client = try HTTP2Tests.client()
        do {
            _ = try await client.client.unary(
                path: "/x", to: address, message: [], timeout: .seconds(patience))
            #expect(Bool(false))
        } catch {
            #expect(error.code == 14)
        }
    }

    @Test(arguments: [1, 2, 3, 5, 6, 7, 11, 100])
    func messagesAreCutOutOfAnyPieces(step: Int) throws {
        let messages: [[UInt8]] = [[1, 2, 3], [], Array(repeating: 7, count: 300), [9]]
        var stream: [UInt8] = []
        for message in messages {
            let count = UInt32(message.count)
            stream += [0] + withUnsafeBytes(of: count.bigEndian) { Array($0) } + message
        }
        var reader = GRPCFrameReader()
        var seen: [[UInt8]] = []
        for start in stride(from: 0, to: stream.count, by: step) {
            let piece = Array(stream[start..<min(start + step, stream.count)])
            let result = piece.withUnsafeBytes { bytes in
                Result { try reader.feed(bytes) { seen.append(Array($0)) } }
            }
            try result.get()
        }
        try reader.finish()
        #expect(seen == messages)
    }

    @Test func badFramesAreErrors() throws {
        func feed(_ bytes: [UInt8]) throws {
            var reader = GRPCFrameReader(maximumMessageBytes: 10)
            let result = bytes.withUnsafeBytes { bytes in
                Result { try reader.feed(bytes) { _ in } }
            }
            try result.get()
            try reader.finish()
        }
        #expect(throws: NetError.protocolViolation("compressed gRPC message")) {
            try feed([1, 0, 0, 0, 0])
        }
        #expect(throws: NetError.bodyTooLarge(limit: 10)) { try feed([0, 0, 0, 0, 11]) }
        #expect(throws: NetError.protocolViolation("gRPC body ends inside a message")) {
            try feed([0, 0, 0, 0, 2, 1])
        }
        try feed([])
    }
}
