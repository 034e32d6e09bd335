import ArgumentParser
import Bench
import Core
import Foundation
import Net
import Stack

struct OverloadCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "overload",
        abstract: "Asks for more than a pool can serve, and reports what that did to whom.",
        discussion: """
            Three bands send requests, each with its objective: high (priority 10), normal (0) and \
            sheddable (-1). First the pool is kept full to see what it can serve, then high is \
            alone, then all three come, whether they are answered or not. Without --url a stack of \
            simulated engines is started. It fails if a request was left without an answer.
            """)

    @Option(help: "Engines to start.")
    var engines = 8

    @Option(
        name: .customLong("config"),
        help: "An EndpointPickerConfig file for the gateway; default: that of docs/flow-control.md."
    )
    var configFile: String?

    @Option(help: "How many times what the pool can serve is asked for.")
    var overload = 2.0

    @Option(help: "The part of what the pool can serve that high asks for.")
    var high = 0.1

    @Option(help: "The part of what the pool can serve that normal asks for.")
    var normal = 0.6

    @Option(help: "Seconds of overload.")
    var seconds = 60.0

    @Option(help: "Seconds that high is alone.")
    var unloadedSeconds = 60.0

    @Option(help: "Requests per second that the pool can serve, instead of finding it out.")
    var capacity: Double?

    @Option(help: "Seconds that finding it out takes.")
    var saturationSeconds = 10.0

    @Option(help: "Requests at a time that finding it out takes; default: 64 per engine.")
    var concurrency: Int?

    @Option(help: "Tokens of a prompt.")
    var promptTokens = 4000

    @Option(help: "Tokens of an answer.")
    var outputTokens = 64

    @Option(help: "Determines when requests come and what they say.")
    var seed: UInt64 = 1

    @Option(
        help: """
            An OpenAI server that runs already, such as http://127.0.0.1:8000, and that knows \
            the objectives high, normal and sheddable.
            """)
    var url: String?

    @Option(help: "The model that engines serve.")
    var model = "llmd-sim"

    @Option(
        help: ArgumentHelp(
            "A further argument for every engine; may be given again.", valueName: "argument"))
    var engineArgument: [String] = []

    @Option(help: "The first of the ports that the stack takes.")
    var firstPort: UInt16 = 28000

    @Flag(help: "One JSON object.")
    var json = false

    private var bands: [OverloadBand] {
        OverloadBand.three(overload: overload, high: high, normal: normal)
    }

    func validate() throws {
        func require(_ condition: Bool, _ problem: String) throws {
            guard condition else { throw ValidationError(problem) }
        }
        try require((1...1000).contains(engines), "--engines must be from 1 to 1000")
        try require(high > 0 && normal >= 0, "--high must be above 0, and --normal at least 0")
        try require(
            overload >= high + normal && overload <= 100,
            "--overload must be at least --high and --normal together, and at most 100")
        for (option, value) in [
            ("seconds", seconds), ("unloaded-seconds", unloadedSeconds),
            ("saturation-seconds", saturationSeconds),
        ] {
            try require((1...3600).contains(value), "--\(option) must be from 1 to 3600")
        }
        if let capacity { try require(capacity > 0, "--capacity must be above 0") }
        if let concurrency {
            try require((1...10_000).contains(concurrency), "--concurrency must be 1 to 10000")
        }
        try require((1...100_000).contains(promptTokens), "--prompt-tokens must be 1 to 100000")
        try require((1...100_000).contains(outputTokens), "--output-tokens must be 1 to 100000")
        try require(firstPort <= 65_000, "--first-port must be at most 65000")
        try require(url == nil || configFile == nil, "--config is for a stack, not for a --url")
        _ = try server()
    }

    private func server() throws -> SocketAddress? {
        try url.map {
            try SocketAddress(url: $0, option: "--url", paths: ["", "/", "/v1", "/v1/"])
        }
    }

    func run() async throws {
        let loop = try EventLoop.start(name: "bench")
        let report =
            if let server = try server() {
                try await measure([server], on: loop)
            } else {
                try await measureFreshStack(on: loop)
            }
        print(json ? report.json : report.table)
        if report.unanswered > 0 { throw ExitCode.failure }
    }

    private func measureFreshStack(on loop: EventLoop) async throws -> OverloadReport {
        let endpoints = FileManager.default.temporaryDirectory
            .appending(path: "llmd-overload-\(UUID().uuidString).yaml")
        let plan = try StackPlan(
            StackConfiguration(
                engines: .aggregated(count: engines), configFile: configFile,
                configTexts: configFile == nil
                    ? [OverloadConfiguration.text(engines: engines, bands: bands)] : [],
                model: model, port: firstPort, metricsPort: firstPort + 1,
                firstChildPort: firstPort + 10,
                // Nothing is moved here, and many engines fit into little memory.
                engineArguments: ["--block-bytes", "64"] + engineArgument,
                endpointsFile: endpoints.path))
        let objectives = bands.map { "- {name: \($0.name), priority: \($0.priority)}\n" }
        try (plan.endpointsText + "objectives:\n" + objectives.joined())
            .write(to: endpoints, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(at: endpoints) }
        let output = StackOutput(plan: plan, model: model)
        let supervisor = StackSupervisor(plan: plan, executable: try ownPath(), on: loop) {
            output.show($0)
        }
        guard let pids = try await supervisor.start() else { throw ExitCode.failure }
        do {
            let gateway = pids["gateway"] ?? 0
            var before: Int?
            var report = try await measure(plan.gateways, on: loop) {
                await idle(supervisor)
                before = ProcessMemory(of: gateway)?.residentBytes
            }
            report.memoryBefore = before
            report.peakMemory = ProcessMemory(of: gateway)?.peakBytes
            await supervisor.stop()
            return report
        } catch {
            await supervisor.stop()
            throw error
        }
    }

    /// Waits until the engines have nothing to do, half a minute at most.
    private func idle(_ supervisor: StackSupervisor) async {
        for _ in 0..<150 {
            guard let engines = await supervisor.metrics()?.engines.values,
                engines.contains(where: { $0.running + $0.waiting > 0 })
            else { return }
            try? await Task.sleep(for: .milliseconds(200))
        }
    }

    /// `settle` is called between the parts of the measurement.
    private func measure(
        _ servers: [SocketAddress], on loop: EventLoop, settle: () async -> Void = {}
    ) async throws -> OverloadReport {
        let capacity: Double
        if let known = self.capacity {
            capacity = known
        } else {
            say("keeping the pool full for \(saturationSeconds) s")
            let generator = LoadGenerator(servers: servers, model: model, on: loop)
            capacity = await generator.saturate(
                concurrency: concurrency ?? 64 * engines, seconds: saturationSeconds,
                objective: bands[0].name, promptTokens: promptTokens, outputTokens: outputTokens,
                seed: seed)
            await generator.shutdown()
            guard capacity > 0 else {
                throw BenchError(problem: "no request was served while the pool was kept full")
            }
        }
        await settle()
        say("\(capacity) requests/s; high alone for \(unloadedSeconds) s")
        let alone = workload([bands[0]], capacity, seconds: unloadedSeconds, seed: seed &+ 1)
        let unloaded = await send(alone, to: servers, on: loop)
        await settle()
        say("all bands for \(seconds) s")
        let all = workload(bands, capacity, seconds: seconds, seed: seed &+ 2)
        let outcomes = await send(all, to: servers, on: loop)
        return OverloadReport(
            bands: bands, workload: all, outcomes: outcomes, unloaded: unloaded,
            capacity: capacity, seconds: seconds)
    }

    private func workload(
        _ bands: [OverloadBand], _ capacity: Double, seconds: Double, seed: UInt64
    ) -> Workload {
        Workload(
            bands: bands, capacity: capacity, seconds: seconds, promptTokens: promptTokens,
            outputTokens: outputTokens, seed: seed)
    }

    private func send(
        _ workload: Workload, to servers: [SocketAddress], on loop: EventLoop
    ) async -> [Outcome] {
        let generator = LoadGenerator(servers: servers, model: model, on: loop)
        let outcomes = await generator.run(workload).outcomes
        await generator.shutdown()
        return outcomes
    }

    private func say(_ text: String) {
        guard isatty(STDERR_FILENO) == 1 else { return }
        FileHandle.standardError.write(Data((text + "\n").utf8))
    }
}

/// Why nothing could be measured.
private struct BenchError: Error, CustomStringConvertible {
    let problem: String
    var description: String { problem }
}

/// How much memory a process has, by `/proc/PID/status` (proc_pid_status(5)).
private struct ProcessMemory {
    var residentBytes = 0
    var peakBytes = 0

    /// Nil if there is no such process.
    init?(of pid: Int32) {
        guard let text = try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8) else {
            return nil
        }
        for line in text.split(separator: "\n") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.count == 3, let kibibytes = Int(words[1]) else { continue }
            if words[0] == "VmRSS:" { residentBytes = kibibytes << 10 }
            if words[0] == "VmHWM:" { peakBytes = kibibytes << 10 }
        }
    }
}
