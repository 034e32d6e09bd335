import ArgumentParser
import Foundation
import Hashing

struct ConformanceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "conformance",
        abstract: "Checks this implementation against vector files.",
        discussion: """
            Prints passed or FAILED for every case. The exit code is 0 only when all pass. \
            Tests/Vectors has files, and a README on their format.
            """,
        subcommands: [HashConformanceCommand.self])
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

/// What became of the cases of a vector file, of whatever kind.
struct ConformanceReport {
    private let results: [HashConformance.Result]

    /// Reads a file and checks its cases; an error names the file.
    init(file: String, check: (Data) throws -> [HashConformance.Result]) throws {
        do {
            results = try check(Data(contentsOf: URL(filePath: file)))
        } catch let error as HashVectorError {
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
