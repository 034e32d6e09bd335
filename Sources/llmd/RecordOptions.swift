import ArgumentParser
import Net
import Replay
import Scheduling
import Telemetry

/// Whether decisions are recorded for `llmd router replay`.
struct RecordOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A file to record decisions in, as JSON lines; default: none.", valueName: "file"))
    var recordFile: String?

    @Option(help: "The share of the decisions that are recorded, above 0 to 1.")
    var recordFraction = 0.01

    @Option(help: "MiB that the file and the one before it, FILE.1, may take together.")
    var recordMebibytes = 256

    func validate() throws {
        guard recordFraction > 0, recordFraction <= 1 else {
            throw ValidationError("--record-fraction must be above 0 and at most 1")
        }
        guard (1...1 << 20).contains(recordMebibytes) else {
            throw ValidationError("--record-mebibytes must be from 1 to 1048576")
        }
    }

    /// Opens the file; nil without one.
    func recorder(
        of picker: EndpointPickerConfig, registry: MetricsRegistry
    ) throws -> DecisionRecorder? {
        guard let recordFile else { return nil }
        var configuration = RecorderConfiguration(path: recordFile)
        configuration.fraction = recordFraction
        configuration.maximumBytes = recordMebibytes << 20
        // A disk may be slow: a thread that nobody else waits for.
        let writer = try EventLoop.start(name: "records")
        return try DecisionRecorder(
            configuration,
            plugins: picker.plugins(as: (any Plugin).self).map { RecordedPlugin($0, of: picker) },
            registry: registry, on: { writer.execute($0) })
    }
}
