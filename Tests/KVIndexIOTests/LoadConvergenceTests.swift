import Core
import KVIndexIO
import Testing

/// Three routers, between which reports are lost, doubled and mixed up, and which are killed.
@Suite(.timeLimit(.minutes(1))) struct LoadConvergenceTests {
    private final class World {
        var random: SeededGenerator
        var now = MonotonicTime(nanoseconds: 1_000_000_000)
        var routers: [ReplicaRouter] = []
        /// What each router has in flight, and the service of its flows when it was given last.
        var loads: [[String: InFlightLoad]] = [[:], [:], [:]]
        var services: [[FlowID: (service: AttainedService, at: MonotonicTime)]] = [[:], [:], [:]]
        /// Which flows got service since the last report.
        var news: [Set<FlowID>] = [[], [], []]
        /// Frames on the way: between whom, and of which connection.
        var wires: [(follower: Int, connection: Int, bytes: [UInt8])] = []
        /// By the follower, then the teller.
        var connections: [[Int]] = Array(repeating: [0, 0, 0], count: 3)
        private var connectionCount = 0
        private var routerCount: UInt64 = 0

        init(_ seed: UInt64) {
            random = SeededGenerator(seed)
            for _ in 0..<3 { routers.append(makeRouter()) }
            for a in 0..<3 { for b in 0..<3 where a != b { connect(a, to: b) } }
        }

        private func makeRouter() -> ReplicaRouter {
            routerCount += 1
            return ReplicaRouter(routerCount) { $0.silenceLimit = .seconds(3600) }
        }

        /// Greets; all else is left on the way.
        private func connect(_ follower: Int, to teller: Int) {
            connectionCount += 1
            connections[follower][teller] = connectionCount
            let (follower, teller) = (routers[follower].node, routers[teller].node)
            follower.connected(connectionCount, at: now)
            teller.accepted(connectionCount, takesLoad: true, at: now)
            for (from, to) in [(follower, teller), (teller, follower)] {
                let greeting = from.nextFrame(for: connectionCount, at: now)
                greeting?.encoded.withUnsafeBytes {
                    to.received($0, on: connectionCount, at: now)
                }
            }
        }

        func kill(_ index: Int) {
            for other in 0..<3 where other != index {
                routers[other].node.closed(connections[other][index])
                routers[other].node.closed(connections[index][other])
            }
            routers[index] = makeRouter()
            loads[index] = [:]
            services[index] = [:]
            news[index] = []
            for other in 0..<3 where other != index {
                connect(other, to: index)
                connect(index, to: other)
            }
        }

        func change(_ index: Int) {
            let name = "e\(Int.random(in: 0..<6, using: &random))"
            let requests = Int.random(in: 0..<4, using: &random)
            loads[index][name] = InFlightLoad(
                requests: requests, prefillTokens: requests * Int.random(in: 0..<9, using: &random))
            let flow = FlowID(fairnessID: "t\(Int.random(in: 0..<3, using: &random))", priority: 0)
            var service = current(flow, of: index)
            service.tokens += 1000
            services[index][flow] = (service, now)
            news[index].insert(flow)
        }

        private func current(_ flow: FlowID, of index: Int) -> AttainedService {
            guard let (service, at) = services[index][flow] else {
                return AttainedService(flow: flow, tokens: 0, halfLifeSeconds: 60)
            }
            return service.aged(by: now - at)
        }

        func report(_ index: Int) {
            let flows =
                routers[index].node.isLoadRefreshDue(at: now)
                ? Set(services[index].keys) : news[index]
            news[index] = []
            routers[index].node.report(
                loads[index].map { EndpointInFlight(name: $0.key, load: $0.value) },
                flows.map { current($0, of: index) }, at: now)
            routers[index].perform()
        }

        /// Puts what there is to send on the way.
        func send() {
            for follower in 0..<3 {
                for teller in 0..<3 where teller != follower {
                    let id = connections[follower][teller]
                    while let frame = routers[teller].node.nextFrame(for: id, at: now) {
                        wires.append((follower, id, frame.encoded))
                    }
                }
            }
        }

        /// Hands over a frame that may be any of those on the way; some come twice, some never.
        func deliver(isLossy: Bool) {
            guard let place = wires.indices.randomElement(using: &random) else { return }
            let fate = isLossy ? Int.random(in: 0..<10, using: &random) : 9
            let wire = fate == 0 ? wires[place] : wires.remove(at: place)
            if fate == 1 { return }
            let router = routers[wire.follower]
            wire.bytes.withUnsafeBytes { router.node.received($0, on: wire.connection, at: now) }
            router.perform()
        }

        /// Of each router, what the other two have.
        func check(_ comment: String) {
            for index in 0..<3 {
                var expected: [String: InFlightLoad] = [:]
                var flows: [FlowID: Double] = [:]
                for other in 0..<3 where other != index {
                    expected.merge(loads[other], uniquingKeysWith: +)
                    for flow in services[other].keys {
                        flows[flow, default: 0] += current(flow, of: other).tokens
                    }
                }
                #expect(
                    routers[index].loads == expected.filter { $0.value != .none },
                    "router \(index), \(comment)")
                #expect(Set(routers[index].services.keys) == Set(flows.keys), "\(comment)")
                for (flow, tokens) in flows {
                    let known = routers[index].services[flow, default: 0]
                    #expect(abs(known - tokens) <= 1e-6 * tokens, "\(flow), \(comment)")
                }
                #expect(routers[index].closed.isEmpty, "\(comment)")
            }
        }
    }

    @Test(arguments: [1, 2, 3, UInt64.random(in: 4 ... .max)])
    func allKnowTheSumWhenItIsQuiet(seed: UInt64) {
        let world = World(seed)
        for _ in 0..<1500 {
            world.now = world.now + .milliseconds(Int64.random(in: 0..<25, using: &world.random))
            let index = Int.random(in: 0..<3, using: &world.random)
            switch Int.random(in: 0..<100, using: &world.random) {
            case 0: world.kill(index)
            case 1..<40: world.change(index)
            case 40..<70:
                world.report(index)
                world.send()
            default: world.deliver(isLossy: true)
            }
        }
        // Two rounds in which all is told again, in any order, after what is on the way still; the
        // leases of those that were killed end meanwhile.
        for _ in 0..<2 {
            world.now = world.now + .seconds(2)
            for index in 0..<3 { world.report(index) }
            world.send()
            while !world.wires.isEmpty { world.deliver(isLossy: false) }
        }
        world.check("seed \(seed)")
        // The last one holds while nothing changes.
        for index in 0..<3 { world.report(index) }
        world.send()
        #expect(world.wires.isEmpty, "seed \(seed)")
    }
}
