import ArgumentParser
import Core
import Foundation
import Hashing
import KVIndexIO

struct ConformanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "conformance",
        abstract: "Checks this implementation against vector files.",
        discussion: """
            Prints passed or FAILED for every case. The exit code is 0 only when all pass. \
            Tests/Vectors has files, and a README on their format.
            """,
        subcommands: [HashConformanceCommand.self, EventConformanceCommand.self])
}

struct HashConformanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "hash",
        abstract: "Block hashes of vLLM and SGLang, request keys and approximate keys of llm-d.")

    @Argument(help: "The vector file.")
    var file: String

    func run() throws {
        try ConformanceReport(file: file) { try HashConformance.check($0) }.print()
    }
}

struct EventConformanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "KV events of vLLM and SGLang: payloads, and the frames of live ones and replays."
    )

    @Argument(help: "The vector file.")
    var file: String

    func run() throws {
        try ConformanceReport(file: file) { try KVEventConformance.check(Array($0)) }.print()
    }
}

/// What became of the cases of a vector file, of whatever kind.
struct ConformanceReport {
    private let results: [ConformanceResult]

    /// Reads a file and checks its cases; an error names the file.
    init(file: String, check: (Data) throws -> [ConformanceResult]) throws {
        do {
            results = try check(Data(contentsOf: URL(filePath: file)))
        } catch let error as VectorFileError {
            throw ValidationError("\(file): \(error)")
        } catch {
            throw ValidationError(error.localizedDescription)
        }
    }

    /// Prints a line for each case and the sums.
    ///
    /// - Throws: `ExitCode.failure` if a case failed.
    func print() throws {
        for result in results {
            if let failure = result.failure {
                Swift.print("FAILED \(result.name): \(failure)")
            } else {
                Swift.print("passed \(result.name)")
            }
        }
        let failedCount = results.count { $0.failure != nil }
        Swift.print("\(results.count - failedCount) passed, \(failedCount) failed")
        guard failedCount == 0 else { throw ExitCode.failure }
    }
}
