import Foundation
import PerfSupport

/// Dynamo's radix tree (`ai-dynamo-runtime`) through its Python binding, in a process of its own
/// that runs one round when it is asked to; nil where `perf/peers` has not installed it.
final class Peer {
    struct Figure {
        let name: String
        let value: Double
    }

    private let process = Process()
    private let requests = Pipe()
    private let replies = Pipe()
    private var rounds: [String: [Double]] = [:]

    init?(rounds: Int, blockCount: Int, engineCount: Int) throws {
        let folder = URL(filePath: FileManager.default.currentDirectoryPath)
        let python = folder.appending(path: ".build/peers/python/bin/python")
        guard FileManager.default.isExecutableFile(atPath: python.path) else { return nil }
        process.standardInput = requests
        process.standardOutput = replies
        try process.run(
            python.path, ["perf/index/peer.py", "\(blockCount)", "\(engineCount)"])
        // Its first round warms up; without the package it ends at once.
        guard try runRound() else { return nil }
        self.rounds = [:]
    }

    deinit {
        guard process.isRunning else { return }
        process.terminate()
        process.waitUntilExit()
    }

    /// Measures once more; false if the process has ended.
    @discardableResult
    func runRound() throws -> Bool {
        guard process.isRunning else { return false }
        try requests.fileHandleForWriting.write(contentsOf: Data("round\n".utf8))
        var line = Data()
        while line.last != UInt8(ascii: "\n") {
            guard let byte = try replies.fileHandleForReading.read(upToCount: 1), !byte.isEmpty
            else { return false }
            line += byte
        }
        for (name, value) in try JSONDecoder().decode([String: Double].self, from: line) {
            rounds[name, default: []].append(value)
        }
        return true
    }

    /// The median of a figure over the rounds so far.
    func figure(_ name: String) -> Figure? {
        rounds[name].map {
            Figure(name: "Dynamo RadixTree, JSON", value: Measurement(rounds: $0).median)
        }
    }
}
