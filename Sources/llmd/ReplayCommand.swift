import ArgumentParser
import Configuration
import FlowControl
import Foundation
import KVIndex
import KVIndexIO
import Replay
import Scheduling
import SchedulingPlugins

struct ReplayCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replay",
        abstract: "What another configuration would change about recorded decisions.")

    @Option(
        help: ArgumentHelp(
            "A file that a router recorded with --record-file; may be given again.",
            valueName: "file"))
    var record: [String]

    // No option of `llmd router` may stand here: it would be taken for that one.
    @Option(help: "The EndpointPickerConfig file to decide with.")
    var config: String

    func run() throws {
        let replayer = try Replayer(configuration(), file: config)
        var report = ReplayReport()
        for file in record {
            let reader = try RecordReader(file: file)
            while let entry = try reader.next() { report.add(entry, with: replayer) }
            if let problem = reader.firstProblem {
                let text = "llmd: \(reader.skippedLineCount) lines were skipped; \(problem)\n"
                FileHandle.standardError.write(Data(text.utf8))
            }
        }
        print(report.text, terminator: "")
    }

    /// With an index that nobody fills: what it said is in the records.
    private func configuration() throws -> EndpointPickerConfig {
        var plugins = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(
            in: &plugins,
            makeIndex: { (configuration) throws(KVIndexError) in
                try KVIndex(configuration: configuration)
            },
            shareIndex: { (section) throws(ConfigError) in
                try RedisSharing(parsing: section).keyAlgorithm
            },
            shareReplicas: { (section) throws(ConfigError) in
                _ = try ReplicaIndexBackend.Configuration(parsing: section)
            })
        plugins.reserve(FlowPolicy.types)
        return try RouterAssembly.configuration(file: config, plugins)
    }
}
