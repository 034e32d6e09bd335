import Core
import ModelServers
import Testing

@Suite struct CircuitBreakerTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000_000)

    /// What happens, in letters, and whether requests are admitted after each:
    /// `f` a failed answer, `c` a failed connection, `s` success, `r` a request that starts,
    /// `e` a probe that ends, `w` one second, `l` a sign of life.
    @Test(arguments: [
        ("ff", "++"), ("fff", "++-"), ("ffsff", "+++++"), ("ffsfff", "+++++-"),
        ("c", "-"), ("cl", "--"), ("cw", "--"), ("cwl", "--+"),
        // One probe, no second beside it.
        ("cwlr", "--+-"), ("cwlrr", "--+--"),
        // It tells nothing: another may try. It succeeds: all may. It fails: twice the time.
        ("cwlre", "--+-+"), ("cwlrse", "--+-++"), ("cwlrfe", "--+---"),
        ("cwlrfewl", "--+-----"), ("cwlrfewlwl", "--+------+"),
        // After success the times begin anew.
        ("cwlrsecwl", "--+-++--+"),
        // A connection that holds is enough where connections were the trouble.
        ("cwlrwwwwlwl", "--+-------+"), ("fffwlrwwwwwwl", "++--+--------"),
        // What is left from before the circuit opened tells nothing.
        ("cs", "--"), ("cfffffwl", "-------+"),
    ])
    func table(events: String, admits: String) {
        var rules = CircuitBreaker.Rules()
        rules.failureLimit = 3
        var circuit = CircuitBreaker(rules)
        var now = start
        var seen = ""
        for event in events {
            apply(event, to: &circuit, &now)
            seen += circuit.admits ? "+" : "-"
        }
        #expect(seen == admits)
    }

    @Test func backsOffUpToAMinute() {
        var circuit = CircuitBreaker()
        var now = start
        var waits: [Int64] = []
        for _ in 0..<40 {
            circuit.failed(.connection, at: now)
            let opened = now
            while !circuit.admits {
                now = now + .seconds(1)
                circuit.letProbe(at: now)
            }
            waits.append((now - opened).components.seconds)
            let isProbe = circuit.requestStarted(at: now)
            #expect(isProbe)
        }
        #expect(waits.prefix(8) == [1, 2, 4, 8, 16, 32, 60, 60])
        #expect(waits.dropFirst(8).allSatisfy { $0 == 60 })
    }

    @Test func withoutALimitAnswersOpenNothing() {
        var rules = CircuitBreaker.Rules()
        rules.failureLimit = 0
        var circuit = CircuitBreaker(rules)
        for _ in 0..<1000 { circuit.failed(.answer, at: start) }
        #expect(circuit.admits)
        circuit.failed(.connection, at: start)
        #expect(!circuit.admits)
    }

    /// Whatever happens in whatever order.
    @Test(arguments: [UInt64](0..<200))
    func holdsItsPromises(seed: UInt64) {
        var random = SystemIndependent(state: seed)
        var circuit = CircuitBreaker()
        var now = start
        var failures = 0
        var openedAt: MonotonicTime?
        var probes = 0
        for _ in 0..<500 {
            let admitted = circuit.admits
            let event = "fffcsrrewl".randomElement(using: &random) ?? "w"
            switch event {
            case "r":
                // A router starts only what is admitted.
                if admitted, circuit.requestStarted(at: now) { probes += 1 }
                #expect(probes <= 1, "seed \(seed): two probes")
            case "e":
                if probes > 0 { circuit.probeEnded() }
                probes = 0
            default: apply(event, to: &circuit, &now)
            }
            if event == "s" { failures = 0 }
            if event == "f" || event == "c" { failures += 1 }
            if !circuit.admits, event == "f" || event == "c" {
                if admitted || probes > 0 { openedAt = now }
                probes = 0
            }
            // It opens by failures only, and stays open for a second at least.
            if !circuit.admits, probes == 0 { #expect(openedAt != nil, "seed \(seed)") }
            if !admitted, circuit.admits, event == "l", let openedAt {
                #expect(now - openedAt >= .seconds(1), "seed \(seed)")
            }
            // Enough failures in a row always open it.
            if failures >= 5, event == "f", admitted { #expect(!circuit.admits, "seed \(seed)") }
            if !circuit.admits { failures = 0 }
            if circuit.admits, event == "s" || event == "e" { probes = 0 }
        }
    }

    private func apply(
        _ event: Character, to circuit: inout CircuitBreaker, _ now: inout MonotonicTime
    ) {
        switch event {
        case "f": circuit.failed(.answer, at: now)
        case "c": circuit.failed(.connection, at: now)
        case "s": circuit.succeeded()
        case "r": _ = circuit.requestStarted(at: now)
        case "e": circuit.probeEnded()
        case "w": now = now + .seconds(1)
        default: circuit.letProbe(at: now)
        }
    }
}

/// SplitMix64.
private struct SystemIndependent: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

@Suite struct SuspectTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000_000)

    private func member() -> PoolMember {
        let pool = EndpointPool()
        let address = SocketAddress(host: "10.0.0.1", port: 80)
        pool.update([ModelServer(name: "a", address: address)])
        return pool.snapshot.members[0]
    }

    @Test func failedAnswersMakeASuspectUntilOneIsGood() {
        let member = member()
        for _ in 0..<4 { member.requestAnswered(isFailure: true, at: start) }
        #expect(member.isHealthy && !member.isSuspect)
        member.requestAnswered(isFailure: true, at: start)
        #expect(!member.isHealthy && member.isSuspect)
        member.scraped(.unreadable, at: start + .seconds(1))
        #expect(member.isHealthy && member.isSuspect)
        let isProbe = member.requestStarted()
        let isSecond = member.requestStarted()
        #expect(isProbe && !isSecond && !member.isHealthy)
        member.requestEnded()
        #expect(!member.isHealthy)
        member.requestAnswered(isFailure: false, at: start)
        member.requestEnded(wasProbe: isProbe)
        #expect(member.isHealthy && !member.isSuspect && member.inFlightCount == 0)
    }

    @Test func whatCannotBeReachedIsNoSuspect() {
        let member = member()
        member.requestFailedToConnect(at: start)
        #expect(!member.isHealthy && !member.isSuspect)
        let other = self.member()
        for _ in 0..<5 { other.requestAnswered(isFailure: true, at: start) }
        other.scraped(.failedToConnect, at: start)
        #expect(!other.isHealthy && !other.isSuspect)
    }
}
