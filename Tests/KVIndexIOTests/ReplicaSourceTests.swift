import Configuration
import Core
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1))) struct ReplicaSourceTests {
    private let prompt: [UInt32] = Array(1...16)

    /// Shares a router's index; the address where others find it.
    private func share(
        _ stack: Stack, with peers: [SocketAddress] = [],
        _ configure: (inout ReplicaIndexBackend.Configuration) -> Void = { _ in }
    ) async throws -> SocketAddress {
        var configuration = ReplicaIndexBackend.Configuration(
            listen: .ownLoopback(), peers: .addresses(peers))
        configuration.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        configuration.heartbeat = .milliseconds(50)
        // Nobody else knew the engines.
        configuration.loadingPatience = peers.isEmpty ? .zero : .seconds(30)
        configure(&configuration)
        let metrics = ReplicaMetrics(stack.registry)
        let addresses = Inbox<SocketAddress>()
        stack.source.share { [configuration] in
            let backend = try ReplicaIndexBackend(configuration, in: $0, metrics: metrics)
            addresses.put(backend.address)
            return backend
        }
        return try await addresses.next()
    }

    private func metric(_ name: String, of stack: Stack) -> Double {
        let page = String(decoding: stack.registry.exposition(), as: UTF8.self)
        return page.split(separator: "\n").first {
            $0.hasPrefix("llm_d_epp_kv_cache_replica_\(name) ")
        }
        .flatMap { Double($0.split(separator: " ")[1]) } ?? -1
    }

    /// A router whose engine `a` holds the first blocks of the prompt.
    private func source(
        _ blockCount: Int, of events: String, _ engines: Stack,
        _ configure: (inout ReplicaIndexBackend.Configuration) -> Void = { _ in }
    ) async throws -> (Stack, SocketAddress) {
        let stack = try Stack()
        let address = try await share(stack, configure)
        stack.source.update([server("a", events: events)])
        try await eventually {
            try await engines.publish(
                "a",
                storePayload(
                    (1...UInt64(blockCount)).map(\.self),
                    tokens: Array(prompt.prefix(4 * blockCount))))
            return stack.matched(prompt, on: "a") == blockCount
        }
        return (stack, address)
    }

    @Test func aRouterWithoutEventsFollowsOneThatHasThem() async throws {
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        let first = try Stack()
        let address = try await share(first)
        try await first.startEngine("a", at: events, replay: replay)
        try await first.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        first.source.update([server("a", events: events, replay: replay)])
        let second = try Stack()
        _ = try await share(second, with: [address])
        second.source.update([server("a", events: nil)])
        try await eventually { second.matched(prompt, on: "a") == 2 }
        try await first.publish("a", storePayload([3, 4], parent: 2, tokens: Array(9...16)))
        try await eventually { second.matched(prompt, on: "a") == 4 }
        #expect(metric("followed_peers", of: second) == 1)
        #expect(metric("followers", of: first) == 1)
        #expect(metric("snapshots_received_total", of: second) == 1)
        try await eventually { metric("convergence_age_seconds", of: second) == 0 }
        // The engine restarts: another process under its name, with other blocks.
        try await first.stopEngine("a")
        try await eventually { first.state(of: "a")?.isConnected == false }
        // Nobody gets its events now: nobody is followed.
        try await eventually { metric("convergence_age_seconds", of: second) > 0 }
        #expect(second.matched(prompt, on: "a") == 4)
        try await first.startEngine("a", at: events, replay: replay)
        try await eventually { second.matched(prompt, on: "a") == 0 }
        try await first.publish("a", storePayload([7], tokens: Array(1...4)))
        try await eventually { second.matched(prompt, on: "a") == 1 }
        // Alone, a router answers as before.
        try await first.finish()
        try await eventually { metric("followed_peers", of: second) == 0 }
        #expect(second.matched(prompt, on: "a") == 1)
        try await second.finish()
    }

    @Test func aNewRouterStartsWarmAndGoesOnByItself() async throws {
        let events = ipcEndpoint()
        let engines = try Stack()
        try await engines.startEngine("a", at: events)
        let (old, address) = try await source(2, of: events, engines)
        let new = try Stack()
        _ = try await share(new, with: [address])
        new.source.update([server("a", events: events)])
        try await eventually { new.matched(prompt, on: "a") == 2 }
        // Its engine goes on to talk: the parent is known from the other router alone.
        try await eventually { new.state(of: "a")?.isConnected == true }
        try await eventually {
            try await engines.publish("a", storePayload([3], parent: 2, tokens: Array(9...12)))
            return new.matched(prompt, on: "a") == 3
        }
        try await old.finish()
        try await engines.publish("a", storePayload([4], parent: 3, tokens: Array(13...16)))
        try await eventually { new.matched(prompt, on: "a") == 4 }
        try await new.finish()
        try await engines.finish()
    }

    @Test func anotherRouterIsFollowedWhenOneIsGone() async throws {
        let events = ipcEndpoint()
        let engines = try Stack()
        try await engines.startEngine("a", at: events)
        let (first, firstAddress) = try await source(2, of: events, engines)
        let (second, secondAddress) = try await source(2, of: events, engines)
        let follower = try Stack()
        // An address where nobody is does no harm.
        let nobody = SocketAddress.ownLoopback(port: 1)
        _ = try await share(follower, with: [firstAddress, secondAddress, nobody])
        follower.source.update([server("a", events: nil)])
        try await eventually { metric("followed_peers", of: follower) == 2 }
        try await eventually { follower.matched(prompt, on: "a") == 2 }
        try await first.finish()
        try await eventually { metric("followed_peers", of: follower) == 1 }
        try await engines.publish("a", storePayload([3], parent: 2, tokens: Array(9...12)))
        try await eventually { follower.matched(prompt, on: "a") == 3 }
        try await second.finish()
        try await follower.finish()
        try await engines.finish()
    }

    @Test func aServiceIsLookedUpAndARouterKnowsItself() async throws {
        let events = ipcEndpoint()
        let engines = try Stack()
        try await engines.startEngine("a", at: events)
        // What the name stands for.
        let (first, address) = try await source(2, of: events, engines) {
            $0.listen = SocketAddress(host: "127.0.0.1", port: 0)
        }
        let second = try Stack()
        let own = try await share(second) {
            $0.peers = .service(SocketAddress(host: "localhost", port: address.port))
            $0.loadingPatience = .seconds(30)
        }
        second.source.update([server("a", events: nil)])
        try await eventually { second.matched(prompt, on: "a") == 2 }
        for stack in [first, second, engines] { try await stack.finish() }
        // A router that finds nobody but itself.
        let lonely = try Stack()
        _ = try await share(lonely) {
            $0.listen = own
            $0.peers = .addresses([own])
        }
        try await eventually { metric("received_bytes_total", of: lonely) > 0 }
        #expect(metric("followed_peers", of: lonely) == 0)
        try await lonely.finish()
    }

    @Test func aSlowFollowerDoesNotMakeTheOtherRouterQueue() async throws {
        let events = ipcEndpoint()
        let teller = try Stack()
        let address = try await share(teller) { $0.maximumLogCount = 1000 }
        try await teller.startEngine("a", at: events, replay: events + "-r")
        func publish(_ start: UInt64) async throws {
            let hashes = (start..<(start + 1000)).map(\.self)
            let tokens = hashes.flatMap { hash in (0..<4).map { UInt32(hash * 4 + $0) } }
            try await teller.publish("a", storePayload(hashes, tokens: tokens))
        }
        for start in UInt64(0)..<100 { try await publish(1 + start * 1000) }
        teller.source.update([server("a", events: events, replay: events + "-r")])
        try await eventually { teller.state(of: "a")?.index.blockCount == 100_000 }
        let slow = try SlowFollower(of: address, keys: teller.index.configuration)
        try await slow.paused.next()
        // Two windows full, and a little.
        try await eventually { metric("snapshots_sent_total", of: teller) == 1 }
        try await eventually { metric("sent_bytes_total", of: teller) > 300_000 }
        for start in UInt64(100)..<110 { try await publish(1 + start * 1000) }
        try await eventually { teller.state(of: "a")?.index.blockCount == 110_000 }
        #expect(metric("sent_bytes_total", of: teller) < 1_000_000)
        slow.goOn()
        // The changes are not in the log any more: all blocks are told again.
        while try await slow.told.next() < 210_000 {}
        #expect(metric("log_overruns_total", of: teller) == 1)
        slow.finish()
        try await teller.finish()
    }

    @Test func aRouterWithOtherKeysIsRefused() async throws {
        let teller = try Stack()
        let address = try await share(teller)
        var keys = teller.index.configuration
        keys.blockSize = 32
        let other = try SlowFollower(of: address, keys: keys)
        #expect(
            try await other.ended.next()
                == "gRPC status 9: its keys are made otherwise: xxh64, blocks of 32 tokens, "
                + "seed ''; this router's: xxh64, blocks of 4 tokens, seed ''")
        other.finish()
        try await teller.finish()
    }

    /// The peer is the same; what hangs is the connection.
    @Test func aConnectionThatHangsIsNotUsedAgain() async throws {
        let router = try Stack()
        let keys = router.index.configuration
        let teller = try await router.run { try HangingTeller(on: router.loop, keys: keys) }
        _ = try await share(router, with: [teller.address]) {
            $0.silenceLimit = .milliseconds(500)
        }
        let age = "heard_age_seconds{peer=\"\(teller.address)\"}"
        try await eventually { metric(age, of: router) >= 0 }
        try await eventually { metric("followed_peers", of: router) == 1 }
        try await eventually { metric(age, of: router) < 0.1 }
        try await router.run { teller.close() }
        try await eventually { metric(age, of: router) > 0.5 }
        try await router.finish()
    }

    // MARK: - The configuration

    private func configuration(_ text: String) throws -> ReplicaIndexBackend.Configuration {
        try ReplicaIndexBackend.Configuration(
            parsing: ConfigValue(parsing: text, file: "router.yaml"))
    }

    @Test func readsItsConfiguration() throws {
        let listed = try configuration("listen: :9010\npeers: [10.0.0.7:9010, \"[fd00::7]:9010\"]")
        #expect(listed.listen == SocketAddress(host: "0.0.0.0", port: 9010))
        #expect(
            listed.peers
                == .addresses([
                    SocketAddress(host: "10.0.0.7", port: 9010),
                    SocketAddress(host: "fd00::7", port: 9010),
                ]))
        let service = try configuration("listen: :9010\nservice: router-peers.prod.svc:9010")
        #expect(
            service.peers == .service(SocketAddress(host: "router-peers.prod.svc", port: 9010)))
        #expect(service.sharesLoad && service.tls == nil)
        let encrypted = try configuration(
            "listen: :9010\nservice: peers:9010\nshareLoad: false\n"
                + "tls: {certFile: c, keyFile: k, caFile: a}")
        #expect(!encrypted.sharesLoad)
        // Certificates name the service, not its addresses.
        #expect(
            encrypted.tls
                == ReplicaTLS(certFile: "c", keyFile: "k", caFile: "a", serverName: "peers"))
    }

    @Test(arguments: [
        ("peers: [a:1]", "listen"), ("listen: :1", "needs peers or service"),
        ("listen: x\nservice: a:1", "router.yaml:1"),
        ("listen: :1\npeers: [a]", "router.yaml:2"),
        ("listen: :1\npeers: [a:1]\nservice: a:1", "cannot stand beside service"),
        ("listen: :1\nservice: a:1\npeer: b", "peer"),
        ("listen: :1\nservice: a:1\nshareLoad: 3", "router.yaml:3"),
        ("listen: :1\nservice: a:1\ntls: {certFile: x}", "keyFile"),
        ("listen: :1\nservice: a:1\ntls: {certFile: x, keyFile: y, ca: z}", "ca"),
    ])
    func tellsWhatIsWrongAndWhere(_ text: String, _ part: String) {
        #expect {
            try configuration(text)
        } throws: { error in
            "\(error)".contains(part)
        }
    }
}
