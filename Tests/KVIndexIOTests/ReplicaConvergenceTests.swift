import Core
import KVIndexIO
import Testing

/// Three routers, two engines, and connections that break, in many orders.
@Suite(.timeLimit(.minutes(2))) struct ReplicaConvergenceTests {
    /// What an engine's events were, and who has heard how many of them.
    private struct Engine {
        var events: [ReplicaChange] = []
        var held: Set<SharedBlock> = []
        /// Of each router that hears them, how many it has heard.
        var heard: [Int: Int] = [:]
        /// The same of each router that hears them no more.
        var lost: [Int: Int] = [:]
    }

    private final class World {
        var random: SeededGenerator
        var now = MonotonicTime(nanoseconds: 1_000_000_000)
        var routers: [ReplicaRouter] = []
        var engines: [String: Engine] = ["e": Engine(), "f": Engine()]
        var links: [ReplicaLink] = []
        private var linkCount = 0
        private var routerCount: UInt64 = 0

        init(_ seed: UInt64) {
            random = SeededGenerator(seed)
            for _ in 0..<3 { routers.append(makeRouter()) }
            // Who hears whom; each engine is heard from its start by one router at least.
            engines["e"]?.heard = [0: 0, 1: 0]
            engines["f"]?.heard = [2: 0]
            for (name, engine) in engines {
                engines[name]?.events = [.cleared]
                for router in engine.heard.keys { hear(router, name, 1) }
            }
        }

        private func makeRouter() -> ReplicaRouter {
            routerCount += 1
            // Neither the first nor the last is the lowest.
            let router = ReplicaRouter(routerCount &* 0x9e37_79b9 % 97 + 100 * routerCount) {
                $0.maximumFrameBytes = 4 << 10
                $0.maximumLogCount = 32
                // There are no heartbeats here.
                $0.silenceLimit = .seconds(3600)
            }
            router.node.update(["e", "f"])
            return router
        }

        func publish(_ name: String) {
            guard var engine = engines[name] else { return }
            switch Int.random(in: 0..<100, using: &random) {
            case 0:
                engine.events.append(.cleared)
                engine.held = []
            case 1..<40:
                guard
                    let block = engine.held.sorted(by: { $0.key < $1.key })
                        .randomElement(using: &random)
                else { break }
                engine.events.append(.removed(block))
                engine.held.remove(block)
            default:
                let number = UInt64.random(in: 0..<400, using: &random)
                let block = blocks(number..<(number + 1))[0]
                guard engine.held.insert(block).inserted else { break }
                engine.events.append(.stored(block))
            }
            engines[name] = engine
        }

        /// Lets a router hear some events.
        func hear(_ router: Int, _ name: String, _ count: Int) {
            guard let engine = engines[name], let heard = engine.heard[router] else { return }
            let end = min(heard + count, engine.events.count)
            for event in engine.events[heard..<end] {
                routers[router].event(event, at: name, now: now)
            }
            engines[name]?.heard[router] = end
        }

        func connect(_ from: Int, _ to: Int) {
            let isThere = links.contains {
                $0.follower === routers[from] && $0.teller === routers[to]
            }
            guard from != to, !isThere else { return }
            linkCount += 1
            links.append(ReplicaLink(linkCount, from: routers[from], to: routers[to], now: now))
        }

        func cut(where body: (ReplicaLink) -> Bool) {
            for link in links where body(link) { link.cut() }
            links.removeAll(where: body)
        }

        /// One of the two that hear an engine ends, unless it alone knows what there is to know, and
        /// a new one takes its place. It hears all that the other has yet to hear.
        func restart(_ number: Int) {
            let old = routers[number]
            guard routers[1 - number].node.isOffered("e"), engines["e"]?.lost[number] == nil
            else { return }
            cut { $0.follower === old || $0.teller === old }
            routers[number] = makeRouter()
            for (name, engine) in engines where engine.heard[number] != nil {
                let others = engine.heard.filter { $0.key != number }.values
                engines[name]?.heard[number] = others.min() ?? engine.events.count
            }
        }

        /// A router loses an engine's events. Of those that another one hears, only if that one knows
        /// what there is to know.
        func lose(_ router: Int, _ name: String) {
            guard let heard = engines[name]?.heard[router],
                name == "f" || routers[1 - router].node.isOffered(name)
            else { return }
            engines[name]?.heard[router] = nil
            engines[name]?.lost[router] = heard
            routers[router].lose(name)
        }

        /// A router hears an engine's events again: by a replay all that it missed, else only what
        /// is to come. Nobody whom it may have followed meanwhile is behind that.
        func regain(_ router: Int, _ name: String) {
            guard let engine = engines[name], let old = engine.lost[router] else { return }
            let others = engine.heard.values.min()
            var heard = min(old, others ?? old)
            if let others, Bool.random(using: &random), routers[1 - router].node.isOffered(name) {
                heard = others
            }
            engines[name]?.lost[router] = nil
            engines[name]?.heard[router] = heard
            routers[router].node.applied([], at: name, now: now)
            routers[router].perform()
        }

        func step() {
            now = now + .milliseconds(10)
            let router = Int.random(in: 0..<3, using: &random)
            let other = Int.random(in: 0..<3, using: &random)
            let name = Bool.random(using: &random) ? "e" : "f"
            switch Int.random(in: 0..<100, using: &random) {
            case 0: restart(Int.random(in: 0..<2, using: &random))
            case 1..<4:
                cut { $0.follower === routers[router] && $0.teller === routers[other] }
            case 4..<10: connect(router, other)
            case 10: lose(router, name)
            case 11..<13: regain(router, name)
            case 13..<40: publish(name)
            case 40..<60: hear(router, name, Int.random(in: 1...5, using: &random))
            default:
                guard let link = links.randomElement(using: &random) else { return }
                link.send(at: now)
                link.deliver(Int.random(in: 1...4, using: &random), at: now)
            }
        }

        func finish() {
            for router in 0..<3 {
                for name in ["e", "f"] { regain(router, name) }
            }
            for router in 0..<3 {
                for other in 0..<3 { connect(router, other) }
                for name in ["e", "f"] { hear(router, name, .max / 2) }
            }
            settle(links, at: now)
            // Who waits for somebody who knew more waits in vain.
            now = now + .seconds(6)
            for router in routers { router.node.tick(now) }
            settle(links, at: now)
        }
    }

    private static let seeds = (0..<50).map { _ in UInt64.random(in: 0 ... .max) }

    @Test(arguments: seeds) func routersAgreeInTheEnd(_ seed: UInt64) {
        let world = World(seed)
        for _ in 0..<4000 { world.step() }
        world.finish()
        for (number, router) in world.routers.enumerated() {
            for (name, engine) in world.engines {
                let differences = router.held(name).symmetricDifference(engine.held).count
                #expect(differences == 0, "router \(number), \(name), seed \(seed)")
                #expect(router.countsOnce(name), "router \(number), \(name), seed \(seed)")
            }
            #expect(router.node.isAgreed, "router \(number), seed \(seed)")
        }
        #expect(world.links.allSatisfy { !$0.isBroken }, "seed \(seed)")
    }
}
