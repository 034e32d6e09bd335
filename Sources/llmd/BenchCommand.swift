import ArgumentParser
import Bench
import Core
import Foundation
import Net
import RequestPipeline
import Simulator
import Stack

struct BenchCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measures a stack or a server under load.",
        subcommands: [TraceCommand.self, OverloadCommand.self])
}

struct TraceCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Replays a request trace and reports latency, throughput and hit ratio.",
        discussion: """
            The trace is in the format of Mooncake's releases: JSON lines with timestamp, \
            input_length, output_length and hash_ids. Without --url a fresh stack of simulated \
            engines is started for each policy and stopped again.
            """)

    @Argument(help: "The trace file.")
    var file: String?

    @Option(help: "A generated workload instead of a file: conversation, agent or rag.")
    var synthetic: SyntheticTrace?

    @Option(help: "Determines the generated workload.")
    var seed: UInt64 = 1

    @Option(help: "Requests to replay; default: all of a file, 1000 of a generated workload.")
    var limit: Int?

    @Option(help: "Multiplies input lengths.")
    var scale = 1.0

    @Option(help: "Divides the trace's time.")
    var speedup = 1.0

    @Option(
        help: """
            Milliseconds of the trace that its timestamps are rounded to, to spread requests over; \
            Mooncake's are rounded to 3000.
            """)
    var spread: Double?

    @Option(help: "An OpenAI server that runs already, such as http://127.0.0.1:8000.")
    var url: String?

    @Option(
        help: """
            The policies to compare, each on a fresh stack, comma-separated: \
            \(RoutingPolicy.names); default: precise.
            """)
    var compare: String?

    @Option(
        help: """
            Gateways that requests take turns at; with precise they share their index \
            (replicaConfig).
            """)
    var routers = 1

    @Flag(
        inversion: .prefixedNo,
        help: "Several routers with precise tell each other what they have in flight, too.")
    var shareLoad = true

    @Flag(help: "One JSON object per policy and line.")
    var json = false

    @OptionGroup var stack: StackOptions

    @Option(help: "The first of the ports that stacks of this command take.")
    var firstPort: UInt16 = 28000

    func validate() throws {
        guard (file == nil) != (synthetic == nil) else {
            throw ValidationError("give a trace file or --synthetic, one of them")
        }
        guard scale > 0, scale <= 100 else {
            throw ValidationError("--scale must be above 0 and at most 100")
        }
        guard speedup > 0, speedup <= 1e6 else {
            throw ValidationError("--speedup must be above 0 and at most 1000000")
        }
        if let spread, !(1...1e6).contains(spread) {
            throw ValidationError("--spread must be from 1 to 1000000")
        }
        if let limit, limit < 1 { throw ValidationError("--limit must be at least 1") }
        if url != nil, compare != nil {
            throw ValidationError("--compare starts stacks of its own, give it without --url")
        }
        guard (1...Int(Self.maximumRouters)).contains(routers) else {
            throw ValidationError("--routers must be from 1 to \(Self.maximumRouters)")
        }
        if url != nil, routers > 1 {
            throw ValidationError("--routers starts stacks of its own, give it without --url")
        }
        guard firstPort <= UInt16.max - Self.routerPorts else {
            throw ValidationError("--first-port must be at most \(UInt16.max - Self.routerPorts)")
        }
        _ = try policies()
        _ = try url.map(Self.server)
    }

    private static let maximumRouters: UInt16 = 8
    /// Gateways, their metrics, and where they share their index.
    private static let routerPorts = 3 * maximumRouters

    /// For each of several routers, a configuration that shares the index with the others.
    private func configTexts(_ policy: RoutingPolicy) -> [String] {
        guard routers > 1 else { return [] }
        let listens = (0..<routers).map { number in
            "127.0.0.1:\(firstPort + 2 * Self.maximumRouters + UInt16(number))"
        }
        return listens.map {
            policy.configuration(listen: $0, peers: listens, sharesLoad: shareLoad)
        }
    }

    private func policies() throws -> [RoutingPolicy] {
        guard let compare else { return [.precise] }
        return try compare.split(separator: ",").map { name in
            guard let policy = RoutingPolicy(rawValue: String(name)) else {
                throw ValidationError("no policy '\(name)'; there are \(RoutingPolicy.names)")
            }
            return policy
        }
    }

    /// The address in `http://host:port[/v1]`.
    private static func server(_ url: String) throws -> SocketAddress {
        try SocketAddress(url: url, option: "--url", paths: ["", "/", "/v1", "/v1/"])
    }

    func run() async throws {
        var trace: Trace
        if let file {
            trace = try Trace(contentsOf: file, limit: limit)
        } else {
            trace = (synthetic ?? .conversation).trace(count: limit ?? 1000, seed: seed)
        }
        if let spread { trace = trace.spread(over: spread) }
        let workload = Workload(trace, scale: scale, speedup: speedup)
        let loop = try EventLoop.start(name: "bench")
        var reports: [Report] = []
        func add(_ report: Report) {
            reports.append(report)
            if json { print(report.json) }
        }
        if let url {
            add(await replay(workload, against: [try Self.server(url)], named: url, on: loop))
        } else {
            for policy in try policies() {
                add(try await replayOnFreshStack(workload, policy, on: loop))
            }
        }
        if !json { show(reports, workload) }
        if reports.contains(where: { $0.errors > 0 }) { throw ExitCode.failure }
    }

    private func show(_ reports: [Report], _ workload: Workload) {
        print(
            "\(workload.items.count) requests, input lengths x \(scale), time / \(speedup); "
                + "ideal hit ratio of one infinite cache "
                + "\(Int((100 * (reports.first?.idealHitRatio ?? 0)).rounded())) %\n")
        print(Report.table(reports))
        if url == nil { print("\nmodelled time of the engines:\n\(LatencyConstants.table)") }
    }

    private func replayOnFreshStack(
        _ workload: Workload, _ policy: RoutingPolicy, on loop: EventLoop
    ) async throws -> Report {
        let plan = try StackPlan(
            StackConfiguration(
                engines: stack.layout, policy: policy.rawValue,
                configTexts: configTexts(policy), model: stack.model, port: firstPort,
                metricsPort: firstPort + Self.maximumRouters,
                firstChildPort: firstPort + Self.routerPorts,
                engineArguments: stack.engineArgument))
        let output = StackOutput(plan: plan, model: stack.model)
        let supervisor = StackSupervisor(plan: plan, executable: try ownPath(), on: loop) {
            output.show($0)
        }
        _ = try await supervisor.start()
        var report = await replay(
            workload, against: plan.gateways,
            named: routers == 1 ? policy.rawValue : "\(policy.rawValue) x \(routers)", on: loop)
        let metrics = await supervisor.metrics()
        report.prefixHitRatio = metrics?.prefixHitRatio
        report.kvTransfers = metrics?.engines.values.reduce(0) { $0 + $1.transfers }
        report.kvBytes = metrics?.engines.values.reduce(0) { $0 + $1.transferredBytes }
        await supervisor.stop()
        return report
    }

    private func replay(
        _ workload: Workload, against servers: [SocketAddress], named name: String,
        on loop: EventLoop
    ) async -> Report {
        let generator = LoadGenerator(servers: servers, model: stack.model, on: loop)
        let bar = Task { await showProgress(of: generator, named: name) }
        let (outcomes, duration) = await generator.run(workload)
        bar.cancel()
        await bar.value
        await generator.shutdown()
        for failure in Set(outcomes.compactMap(\.failure)).sorted().prefix(5) {
            FileHandle.standardError.write(Data("\(name): a request failed: \(failure)\n".utf8))
        }
        return Report(
            policy: name, workload: workload, outcomes: outcomes, duration: duration,
            blockSize: SimulatorConfiguration().blockSize)
    }

    private func showProgress(of generator: LoadGenerator, named name: String) async {
        guard isatty(STDERR_FILENO) == 1 else { return }
        while !Task.isCancelled {
            let progress = await generator.progress
            let filled = progress.total == 0 ? 0 : 40 * progress.done / progress.total
            let bar =
                String(repeating: "#", count: filled)
                + String(repeating: ".", count: 40 - filled)
            let text =
                "\r\u{1b}[K\(name) [\(bar)] \(progress.done)/\(progress.total), "
                + "\(progress.running) running, \(progress.failed) failed"
            FileHandle.standardError.write(Data(text.utf8))
            try? await Task.sleep(for: .milliseconds(200))
        }
        FileHandle.standardError.write(Data("\r\u{1b}[K".utf8))
    }
}
