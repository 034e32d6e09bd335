// What others take to move the same bytes: NIXL, asked round by round, and iperf3.

import Foundation
import PerfSupport

/// What one round of equal transfers took.
struct Round {
    /// How many there were.
    var count: Int
    /// Of the fastest transfer, in seconds.
    var best: Double
    /// Of all of them.
    var total: Double
    /// Of the initiator's CPU; nil where it is not known.
    var cpu: Double?
}

/// NIXL with two processes of its own, over its own choice of transports or over TCP alone.
final class NIXLPeer {
    let name: String
    private let process: MeasuredProcess

    /// Nil unless `perf/peers` has installed it.
    init?(overTCP: Bool) throws {
        let python = ".build/peers/python/bin/python"
        let module = ".build/peers/python/lib"
        guard FileManager.default.isExecutableFile(atPath: python),
            let versions = try? FileManager.default.contentsOfDirectory(atPath: module),
            let version = versions.first(where: { $0.hasPrefix("python") }),
            FileManager.default.fileExists(atPath: "\(module)/\(version)/site-packages/nixl")
        else { return nil }
        name = overTCP ? "NIXL over tcp" : "NIXL"
        process = try MeasuredProcess(
            python, ["perf/transfer/nixl_peer.py"] + (overTCP ? ["tcp"] : []))
    }

    func round(_ operation: String, count: Int, byteCount: Int, times: Int) throws -> Round {
        let answer = try process.ask("\(operation) \(count) \(byteCount) \(times)")
        let seconds = answer.split(separator: " ").compactMap { Double($0) }
        guard seconds.count == 3 else { throw PerfError("\(name) said '\(answer)'") }
        return Round(count: times, best: seconds[0], total: seconds[1], cpu: seconds[2])
    }
}

/// iperf3 with one stream over the loopback interface.
final class Iperf {
    private static let folder = ".build/peers/iperf3/usr"
    private let server: MeasuredProcess
    private let port: UInt16

    /// Nil unless `perf/peers` has installed it.
    init?() throws {
        guard FileManager.default.isExecutableFile(atPath: "\(Self.folder)/bin/iperf3") else {
            return nil
        }
        port = try freePorts(1)[0]
        let libraries = try FileManager.default.contentsOfDirectory(atPath: "\(Self.folder)/lib")
        let paths = libraries.map { "\(Self.folder)/lib/\($0)" }.joined(separator: ":")
        setenv("LD_LIBRARY_PATH", paths, 1)
        server = try MeasuredProcess(
            "\(Self.folder)/bin/iperf3", ["--server", "--port", "\(port)"], listeningOn: port)
    }

    /// Bytes per second while `byteCount` are sent.
    func rate(byteCount: Int) throws -> Double {
        let client = Process()
        let output = Pipe()
        client.executableURL = URL(fileURLWithPath: "\(Self.folder)/bin/iperf3")
        client.arguments = [
            "--client", "127.0.0.1", "--port", "\(port)", "--bytes", "\(byteCount)", "--json",
        ]
        client.standardOutput = output
        try client.run()
        let report = try output.fileHandleForReading.readToEnd() ?? Data()
        client.waitUntilExit()
        struct Report: Decodable {
            struct End: Decodable {
                struct Sum: Decodable { var bits_per_second: Double }
                var sum_received: Sum
            }
            var end: End
        }
        return try JSONDecoder().decode(Report.self, from: report).end.sum_received.bits_per_second
            / 8
    }
}
