import Core
import Foundation
import LoopbackSupport
import Net
import RedisClient
import Testing

@Suite(.timeLimit(.minutes(2))) struct RedisClientTests {
    @Test func exchangesEveryKindOfReply() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        let replies = try await client.send([
            ["SET", "a", "ä\r\n\0"], ["GET", "a"], ["GET", "b"], ["INCRBY", "n", "-7"],
            ["RPUSH", "l", "1", ""], ["LRANGE", "l", "0", "-1"], ["HKEYS", "none"],
            ["HKEYS", "a"], ["NOSUCHCOMMAND"],
        ])
        #expect(
            replies == [
                .text("OK"), .text("ä\r\n\0"), .none, .integer(-7), .integer(2),
                .array([.text("1"), .text("")]), .array([]), .error(.wrongType), .error(.other),
            ])
        try await client.finish()
    }

    @Test func repliesComeInOrderAndInPieces() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        let large = String(repeating: "x", count: 3_000_000)
        async let first = client.send([["SET", "large", large], ["GET", "large"]])
        var pipeline = RedisPipeline()
        for number in 0..<10_000 { pipeline.append("ECHO", "\(number)") }
        async let second = client.send(pipeline)
        #expect(try await first == [.text("OK"), .text(large)])
        #expect(try await second == (0..<10_000).map { .text("\($0)") })
        try await client.finish()
    }

    @Test func unixSocketsUsersAndDatabases() async throws {
        let redis = try RedisServer([
            "--user", "me", "on", ">secret", "~*", "+@all", "--requirepass", "other",
        ])
        let client = try await Harness(redis) {
            $0.remote = .unix(path: redis.socketPath)
            $0.username = "me"
            $0.password = "secret"
            $0.database = 3
        }
        try await client.ready()
        let replies = try await client.send([["ACL", "WHOAMI"], ["CLIENT", "INFO"]])
        #expect(replies.first == .text("me"))
        guard case .text(let info)? = replies.last else {
            Issue.record("no client info")
            return
        }
        #expect(info.contains(" db=3 "))
        try await client.finish()
    }

    @Test func wrongPasswordIsTold() async throws {
        let redis = try RedisServer(["--requirepass", "right"])
        let client = try await Harness(redis) { $0.password = "wrong" }
        let state = try await client.next {
            if case .waiting(.server) = $0 { true } else { false }
        }
        guard case .waiting(.server(let error)) = state else { return }
        #expect(error.kind == .denied)
        await #expect(throws: RedisError.self) { _ = try await client.send([["PING"]]) }
        try await client.finish()
    }

    @Test func encryptsAndChecksTheServer() async throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "../NetTests/Fixtures").path
        // The certificate names one address; the port is below those that connections get.
        let address = SocketAddress(host: "127.0.0.1", port: .random(in: 20_000..<32_000))
        let redis = try RedisServer([
            "--bind", address.host, "--port", "0", "--tls-port", "\(address.port)",
            "--tls-cert-file", folder + "/server.pem", "--tls-key-file", folder + "/server.key",
            "--tls-ca-cert-file", folder + "/ca.pem", "--tls-auth-clients", "no",
        ])
        let trusting = try await Harness(redis) {
            $0.remote = .tcp(address)
            $0.tls = .ca(file: folder + "/ca.pem")
        }
        try await trusting.ready()
        let large = String(repeating: "y", count: 1_000_000)
        #expect(
            try await trusting.send([["SET", "k", large], ["GET", "k"]])
                == [.text("OK"), .text(large)])
        try await trusting.finish()

        let distrusting = try await Harness(redis) {
            $0.remote = .tcp(address)
            $0.tls = .system
        }
        let state = try await distrusting.next { if case .waiting = $0 { true } else { false } }
        #expect("\(state)".contains("TLS"))
        try await distrusting.finish()
    }

    @Test func comesBackAfterTheServerDid() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        #expect(try await client.send([["SET", "a", "1"]]) == [.text("OK")])
        redis.kill()
        try await client.next { if case .waiting = $0 { true } else { false } }
        await #expect(throws: RedisError.self) { _ = try await client.send([["PING"]]) }
        try redis.start()
        try await client.ready()
        #expect(try await client.send([["GET", "a"]]) == [.none])
        try await client.finish()
    }

    @Test func whatWaitsFailsWithTheConnection() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        let blocked = try await client.begin(["BLPOP", "never", "0"])
        let behind = try await client.begin(["PING"])
        try await client.call { #expect($0.queuedByteCount > 0) }
        redis.kill()
        for inbox in [blocked, behind] {
            let result = try await inbox.next()
            #expect(throws: RedisError.self) { try result.get() }
        }
        try await client.call { #expect($0.queuedByteCount == 0) }
        try await client.finish()
    }

    @Test func aServerThatDoesNotReplyIsGivenUp() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis) {
            $0.connectTimeout = .milliseconds(500)
            $0.commandTimeout = .milliseconds(200)
        }
        try await client.ready()
        redis.suspend()
        await #expect(throws: RedisError.timedOut) { _ = try await client.send([["PING"]]) }
        try await client.next { $0 == .waiting(.timedOut) }
        redis.resume()
        try await client.ready()
        #expect(try await client.send([["PING"]]) == [.text("PONG")])
        try await client.finish()
    }

    @Test func theQueueIsBounded() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis) { $0.maximumQueuedBytes = 1000 }
        try await client.ready()
        redis.suspend()
        let first = try await client.begin(["ECHO", String(repeating: "a", count: 900)])
        await #expect(throws: RedisError.queueFull(limitBytes: 1000)) {
            _ = try await client.begin(["ECHO", String(repeating: "b", count: 900)])
        }
        redis.resume()
        #expect(try await first.next().get().count == 1)
        try await client.finish()
    }

    @Test func replicasAreToldFromPrimaries() async throws {
        let primary = try RedisServer()
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        #expect(
            try await client.send([["REPLICAOF", primary.address.host, "\(primary.address.port)"]])
                == [.text("OK")])
        #expect(try await client.send([["SET", "a", "1"]]) == [.error(.readOnly)])
        try await client.finish()
    }

    @Test func memoryLimitsAndClustersAreTold() async throws {
        let redis = try RedisServer([
            "--maxmemory", "100mb", "--maxmemory-policy", "noeviction",
        ])
        let client = try await Harness(redis)
        try await client.ready()
        _ = try await client.send([["CONFIG", "SET", "maxmemory", "1"]])
        #expect(try await client.send([["SET", "a", "1"]]) == [.error(.outOfMemory)])
        try await client.finish()

        let cluster = try RedisServer(["--cluster-enabled", "yes"])
        let other = try await Harness(cluster)
        try await other.ready()
        #expect(try await other.send([["GET", "a"]]) == [.error(.cluster)])
        #expect(
            RedisServerError(message: "MOVED 1 127.0.0.1:1").description.contains("cluster"))
        try await other.finish()
    }

    @Test func closingEndsWhatWaits() async throws {
        let redis = try RedisServer()
        let client = try await Harness(redis)
        try await client.ready()
        redis.suspend()
        let waiting = try await client.begin(["PING"])
        try await client.call { $0.close() }
        let result = try await waiting.next()
        #expect(throws: RedisError.closed) { try result.get() }
        try await client.finish()
    }
}
