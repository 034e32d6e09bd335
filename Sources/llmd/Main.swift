import ArgumentParser
import Foundation
import Net
import Stack

/// The binary: one subcommand per role.
@main
struct LLMD: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "llmd",
        abstract: "Serves large language models on many machines.",
        version: "llmd \(version)",
        subcommands: [
            UpCommand.self, GatewayCommand.self, RouterCommand.self, SidecarCommand.self,
            SimCommand.self, IndexerCommand.self, BenchCommand.self, TopologyCommand.self,
            ConformanceCommand.self,
        ])

    static let version = "0.1.0-dev"

    /// Exit codes: 0 done, 1 failed, 2 wrong usage.
    static func main() async {
        Subprocess.followParent()
        do {
            var command = try parseAsRoot()
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch {
            Foundation.exit(report(error))
        }
    }

    /// Says what went wrong; returns the exit code.
    private static func report(_ error: any Error) -> Int32 {
        if error is CleanExit || exitCode(for: error) == .success {
            print(fullMessage(for: error))
            return 0
        }
        if let error = error as? ExitCode {
            return error.rawValue
        }
        let text: String
        let isUsage: Bool
        if exitCode(for: error) == .validationFailure {
            text = fullMessage(for: error)
            isUsage = true
        } else {
            text = "llmd: \(error)"
            if case .usage = error as? StackError { isUsage = true } else { isUsage = false }
        }
        FileHandle.standardError.write(Data((text + "\n").utf8))
        return isUsage ? 2 : 1
    }
}
