import Core
import Foundation
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net
import Synchronization
import Telemetry
import Testing

/// A router's load that tests make up.
private final class TestLoad: LoadSharing {
    let own = Mutex<[String: InFlightLoad]>([:])
    let others = Mutex<[String: InFlightLoad]>([:])
    let services = Mutex<[AttainedService]>([])
    let othersServices = Mutex<[FlowID: Double]>([:])

    func set(_ load: InFlightLoad, at endpoint: String) {
        own.withLock { $0[endpoint] = load }
    }

    func others(at endpoint: String) -> InFlightLoad {
        others.withLock { $0[endpoint, default: .none] }
    }

    func endpointsInFlight() -> [EndpointInFlight] {
        own.withLock { own in
            own.sorted { $0.key < $1.key }.map { EndpointInFlight(name: $0.key, load: $0.value) }
        }
    }

    func attainedServices(all: Bool, at now: MonotonicTime) -> [AttainedService] {
        services.withLock(\.self)
    }

    func show(_ loads: [String: InFlightLoad]) {
        others.withLock { $0.merge(loads) { $1 } }
    }

    func show(_ services: [FlowID: Double], at now: MonotonicTime) {
        othersServices.withLock { $0.merge(services) { $1 } }
    }
}

@Suite(.timeLimit(.minutes(1))) struct LoadSharingTests {
    /// Shares a router's load over real connections; the address where others find it.
    private func share(
        _ stack: Stack, _ load: TestLoad, with peers: [SocketAddress] = [],
        sharesIndex: Bool = true,
        _ configure: (inout ReplicaIndexBackend.Configuration) -> Void = { _ in }
    ) async throws -> SocketAddress {
        var configuration = ReplicaIndexBackend.Configuration(
            listen: .ownLoopback(), peers: .addresses(peers))
        configuration.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        configuration.heartbeat = .milliseconds(40)
        configuration.loadInterval = .milliseconds(5)
        configuration.loadRefresh = .milliseconds(50)
        configuration.loadLease = .milliseconds(500)
        configure(&configuration)
        let metrics = ReplicaMetrics(stack.registry)
        let addresses = Inbox<SocketAddress>()
        stack.source.share { [configuration] in
            let backend = try ReplicaIndexBackend(
                configuration, in: $0, load: load, sharesIndex: sharesIndex, metrics: metrics)
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

    private static func fixture(_ name: String) -> String {
        URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "NetTests/Fixtures/\(name)").path
    }

    /// Plain, and with certificates on both sides.
    @Test(arguments: [false, true])
    func whatIsInFlightCountsAtTheOtherRouter(isEncrypted: Bool) async throws {
        func configure(_ configuration: inout ReplicaIndexBackend.Configuration) {
            guard isEncrypted else { return }
            configuration.tls = ReplicaTLS(
                certFile: Self.fixture("server.pem"), keyFile: Self.fixture("server.key"),
                caFile: Self.fixture("ca.pem"), serverName: "server.test")
        }
        let (first, second) = (try Stack(), try Stack())
        let (firstLoad, secondLoad) = (TestLoad(), TestLoad())
        let flow = FlowID(fairnessID: "team", priority: 0)
        firstLoad.set(InFlightLoad(requests: 2, prefillTokens: 900), at: "a")
        firstLoad.services.withLock {
            $0 = [AttainedService(flow: flow, tokens: 4000, halfLifeSeconds: 1e6)]
        }
        let address = try await share(first, firstLoad, configure)
        _ = try await share(second, secondLoad, with: [address], configure)
        try await eventually {
            secondLoad.others(at: "a") == InFlightLoad(requests: 2, prefillTokens: 900)
        }
        try await eventually {
            (3999...4000).contains(
                secondLoad.othersServices.withLock { $0[flow, default: 0] })
        }
        try await eventually { metric("load_peers", of: second) == 1 }
        #expect(metric("load_age_seconds", of: second) < 0.5)
        #expect(metric("load_peers", of: first) == 0)
        firstLoad.set(InFlightLoad(requests: 1), at: "a")
        try await eventually { secondLoad.others(at: "a") == InFlightLoad(requests: 1) }
        // It ends in the midst of its request.
        try await first.finish()
        try await eventually { secondLoad.others(at: "a") == .none }
        try await eventually { metric("load_peers", of: second) == 0 }
        try await second.finish()
    }

    /// Who has no certificate that the CA signed, or none, is told nothing.
    @Test(arguments: ["plain", "no certificate"])
    func strangersAreToldNothing(_ kind: String) async throws {
        let (first, second) = (try Stack(), try Stack())
        let load = TestLoad()
        let (cert, key) = (Self.fixture("server.pem"), Self.fixture("server.key"))
        let address = try await share(first, load) {
            $0.tls = ReplicaTLS(
                certFile: cert, keyFile: key, caFile: Self.fixture("ca.pem"),
                serverName: "server.test")
        }
        // Without a CA of the routers' own the server is checked by the system's, which signed none.
        _ = try await share(second, TestLoad(), with: [address]) {
            guard kind != "plain" else { return }
            $0.tls = ReplicaTLS(certFile: cert, keyFile: key, serverName: "server.test")
        }
        try await eventually { metric("heard_age_seconds{peer=\"\(address)\"}", of: second) > 0.3 }
        #expect(metric("followed_peers", of: second) == 0)
        #expect(metric("followers", of: first) == 0)
        try await first.finish()
        try await second.finish()
    }

    @Test func loadIsSharedBesideAnotherWayToShareTheIndex() async throws {
        let (first, second) = (try Stack(), try Stack())
        let (firstLoad, secondLoad) = (TestLoad(), TestLoad())
        let address = try await share(first, firstLoad, sharesIndex: false)
        _ = try await share(second, secondLoad, with: [address], sharesIndex: false)
        for stack in [first, second] { stack.source.update([server("a", events: nil)]) }
        firstLoad.set(InFlightLoad(requests: 7), at: "a")
        try await eventually { secondLoad.others(at: "a").requests == 7 }
        #expect(metric("convergence_age_seconds", of: second) == 0)
        try await first.finish()
        try await second.finish()
    }

    /// A router of before: it greets and is heard, and says nothing of loads.
    @Test func anOlderRouterIsFollowedAsBefore() async throws {
        let router = try Stack()
        let keys = router.index.configuration
        let old = try await router.run { try HangingTeller(on: router.loop, keys: keys) }
        _ = try await share(router, TestLoad(), with: [old.address]) {
            $0.silenceLimit = .milliseconds(500)
        }
        try await eventually { metric("followed_peers", of: router) == 1 }
        #expect(metric("load_peers", of: router) == 0)
        try await router.run { old.close() }
        try await router.finish()
    }
}
