import Foundation
import PerfSupport

/// Engines as far as scraping sees them: nginx, which answers on every port with the same real page
/// of vLLM, and with figures that change when the suite says so.
final class EnginePages {
    /// The figures of a page, all made of one number.
    struct Figures: Equatable {
        var waiting: Int
        var running: Int
        var kvUsage: Double

        init(_ number: Int) {
            waiting = number
            running = 2 * number + 1
            kvUsage = Double(number % 100) / 100
        }
    }

    let ports: [UInt16]
    private let folder: URL
    private let lines: [Substring]
    private var process: MeasuredProcess?

    init(_ count: Int) throws {
        let peers = URL(fileURLWithPath: ".build/peers")
        let program = peers.appendingPathComponent("nginx/usr/sbin/nginx").path
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw PerfError("there is no nginx to be scraped; perf/peers installs it")
        }
        ports = try freePorts(count)
        folder = peers.appendingPathComponent("scrape")
        try FileManager.default.createDirectory(
            at: folder.appendingPathComponent("v1"), withIntermediateDirectories: true)
        lines = try String(
            contentsOfFile: "Tests/ModelServersTests/Fixtures/vllm-metrics.txt", encoding: .utf8
        ).split(separator: "\n", omittingEmptySubsequences: false)
        try Data(#"{"object":"list","data":[{"id":"m","object":"model"}]}"#.utf8)
            .write(to: folder.appendingPathComponent("v1/models"))
        try show(Figures(0))
        try String(contentsOfFile: "perf/scrape/nginx.conf", encoding: .utf8)
            .replacingOccurrences(of: "ROOT", with: folder.path)
            .replacingOccurrences(
                of: "PORTS",
                with: ports.map { "listen 127.0.0.1:\($0);" }.joined(separator: "\n")
            )
            .write(
                to: peers.appendingPathComponent("scrape.conf"), atomically: true, encoding: .utf8)
        process = try MeasuredProcess(
            program, ["-p", peers.path, "-c", "scrape.conf", "-e", "stderr"],
            listeningOn: ports[0])
    }

    /// Puts other figures on the pages, all at once.
    func show(_ figures: Figures) throws {
        let values = [
            "vllm:num_requests_waiting{": "\(figures.waiting).0",
            "vllm:num_requests_running{": "\(figures.running).0",
            "vllm:kv_cache_usage_perc{": "\(figures.kvUsage)",
        ]
        let page = lines.map { line in
            guard let value = values.first(where: { line.hasPrefix($0.key) })?.value,
                let space = line.lastIndex(of: " ")
            else { return String(line) }
            return "\(line[...space])\(value)"
        }
        try Data(page.joined(separator: "\n").utf8)
            .write(to: folder.appendingPathComponent("metrics"), options: .atomic)
    }
}
