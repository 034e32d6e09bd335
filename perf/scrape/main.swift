// What the router spends on scraping 100 engines 20 times a second: pages of 68 KB, always at that
// rate, beside a client that reads the pages and looks at nothing.

import CScrapeFloor
import Core
import Dispatch
import Foundation
import Net
import PerfSupport
import Scan

private let engineCount = 100
private let interval = Duration.milliseconds(50)
private let roundTime = Duration.seconds(2)

/// `llmd router` as it is shipped, at a rate that does not adapt.
private final class ScrapingRouter {
    let process: MeasuredProcess
    private let address: SocketAddress
    private let client: HTTPClient
    private var scrapesBefore = 0.0

    init(_ engines: [UInt16]) throws {
        let ports = try freePorts(3)
        let milliseconds = interval / .milliseconds(1)
        process = try MeasuredProcess.llmd(
            [
                "router", "--host", "127.0.0.1", "--no-secure-serving", "--policy", "load",
                "--grpc-port", "\(ports[0])", "--grpc-health-port", "\(ports[1])",
                "--metrics-port", "\(ports[2])",
                "--refresh-metrics-interval", "\(Int(milliseconds))",
                "--idle-metrics-interval", "\(Int(milliseconds))",
            ] + engines.flatMap { ["--endpoint", "127.0.0.1:\($0)"] })
        address = SocketAddress(host: "127.0.0.1", port: ports[2])
        client = HTTPClient(on: try EventLoop.start(name: "client"))
    }

    /// What the router shows of itself, by name and labels.
    private func page() throws -> [String: Double] {
        let (address, client) = (address, client)
        let answer = Answer()
        Task {
            let head = HTTPRequestHead(
                method: "GET", target: "/metrics", authority: address.description)
            answer.give((try? await client.send(head, to: address))?.body)
        }
        guard let body = answer.wait() else { throw PerfError("the router shows no metrics") }
        var samples: [String: Double] = [:]
        try PrometheusText.forEachSample(in: body) { sample in
            let labels = String(decoding: sample.labels, as: UTF8.self)
            samples["\(sample.name){\(labels)}"] = sample.value
        }
        return samples
    }

    /// Throws unless all engines were scraped as often as was asked for since the last call, and
    /// the figures of each are these.
    func check(_ figures: EnginePages.Figures, since: Duration) throws {
        let samples = try page()
        func sum(_ name: String) -> Double {
            samples.filter { $0.key.hasPrefix("\(name){") }.values.reduce(0, +)
        }
        let queues = samples.filter { $0.key.hasPrefix("llm_d_epp_per_endpoint_queue_size{") }
        guard queues.count == engineCount,
            queues.values.allSatisfy({ $0 == Double(figures.waiting) }),
            sum("llm_d_epp_average_running_requests") == Double(figures.running),
            abs(sum("llm_d_epp_average_kv_cache_utilization") - figures.kvUsage) < 1e-9,
            sum("llm_d_epp_datalayer_poll_errors_total") == 0
        else { throw PerfError("the router does not show \(figures) of every engine") }
        let scrapes = sum("llmd_scrapes_total")
        let expected = Double(engineCount) * (since / interval)
        defer { scrapesBefore = scrapes }
        guard scrapesBefore == 0 || scrapes - scrapesBefore > 0.9 * expected else {
            throw tooSlow(Int(scrapes - scrapesBefore), of: Int(expected))
        }
    }
}

/// Hands a page over to a thread that waits.
private final class Answer: @unchecked Sendable {
    // The semaphore orders the only write before the only read.
    private var body: [UInt8]?
    private let isGiven = DispatchSemaphore(value: 0)

    func give(_ body: [UInt8]?) {
        self.body = body
        isGiven.signal()
    }

    func wait() -> [UInt8]? {
        isGiven.wait()
        return body
    }
}

private func measure() throws {
    let engines = try EnginePages(engineCount)
    let router = try ScrapingRouter(engines.ports)
    let roles = engines.ports.map(String.init).joined(separator: ",")
    let scraper = try MeasuredProcess.itself(as: "scraper", roles)
    let floor = try MeasuredProcess.itself(as: "floor", roles)
    let clock = ContinuousClock()
    var number = 0
    // The figure is CPU time per time: cores.
    let nanoseconds = Int(roundTime / .nanoseconds(1))
    let figures = try measureCPUTime(
        rounds: 7,
        [
            Contender(operations: nanoseconds, in: router.process) {
                number += 1
                let shown = EnginePages.Figures(number)
                try engines.show(shown)
                let start = clock.now
                usleep(UInt32(roundTime / .microseconds(1)))
                try router.check(shown, since: clock.now - start)
            },
            Contender(operations: nanoseconds, in: scraper) { try scraper.doOnce() },
            Contender(operations: nanoseconds, in: floor) { try floor.doOnce() },
        ])
    for (name, ours, goal) in [
        ("llmd router, 100 engines at 20 Hz", figures[0], Row.Goal.atMost(0.25)),
        ("the scraper alone, each load looked at", figures[1], nil),
    ] {
        try Row(
            suite: "scrape", name: name, metric: "CPU time", unit: "cores", ours: ours,
            floor: figures[2].median, goal: goal
        ).print()
    }
}

/// A rate that was not kept cannot be measured.
private func tooSlow(_ pages: Int, of expected: Int) -> PerfError {
    PerfError("only \(pages) of \(expected) pages: the machine is too busy, or the engines are")
}

private func beFloor(_ ports: [UInt16]) throws {
    FileHandle.standardOutput.write(Data("ready\n".utf8))
    let expected = engineCount * Int(roundTime / interval)
    while readLine() != nil {
        let pages = csf_scrape(
            ports, ports.count, Int32(interval / .milliseconds(1)),
            Int32(roundTime / .milliseconds(1)))
        guard pages >= expected * 9 / 10 else { throw tooSlow(Int(pages), of: expected) }
        FileHandle.standardOutput.write(Data("done\n".utf8))
    }
}

runSuite {
    let arguments = Array(CommandLine.arguments.dropFirst())
    guard arguments.count == 2 else { return try measure() }
    let ports = arguments[1].split(separator: ",").compactMap { UInt16($0) }
    switch arguments[0] {
    case "floor": try beFloor(ports)
    case "scraper": try Scraper.run(ports, interval: interval, duration: roundTime)
    default: throw PerfError("there is no role '\(arguments[0])'")
    }
}
