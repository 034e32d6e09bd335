import ArgumentParser
import Core
import Net
import Sidecar
import Telemetry

struct SidecarCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sidecar",
        abstract: "Prefill/decode routing beside a decode engine (nixlv2).")

    @OptionGroup var service: ServiceOptions

    @Option(help: "The port to listen on.")
    var port: UInt16 = 8000

    @Option(
        name: [.customLong("model-server-port"), .customLong("vllm-port")],
        help: "The port of the decode engine on this host.")
    var modelServerPort: UInt16 = 8200

    @Option(help: "The host of the decode engine.")
    var modelServerHost = "127.0.0.1"

    @Option(help: "The port of /metrics and /health; 0: none.")
    var metricsPort: UInt16 = 0

    @Option(help: "Hosts that may be named as prefillers, comma-separated; default: any.")
    var allowedPrefillers: String?

    @Flag(help: "Name the address of who computed the prompt in a response header, x-llmd-prefill.")
    var revealPrefiller = false

    @Option(help: "Seconds that prefilling may take before the decode engine does it itself.")
    var prefillTimeout = 120.0

    func run() async throws {
        let group = try service.start("sidecar")
        let stop = try await StopSignal(on: group.loops[0])
        var configuration = SidecarConfiguration(
            address: service.address(port),
            engine: SocketAddress(host: modelServerHost, port: modelServerPort))
        configuration.revealsPrefiller = revealPrefiller
        configuration.prefillTimeout = Duration(seconds: prefillTimeout)
        configuration.allowedPrefillers = allowedPrefillers.map {
            Set($0.split(separator: ",").map(String.init))
        }
        let metrics = MetricsRegistry()
        metrics.registerProcessMetrics()
        let server = try SidecarServer.start(
            on: group, configuration: configuration, metrics: metrics)
        if metricsPort != 0 {
            _ = try AdminServer.listen(
                on: group, at: service.address(metricsPort), metrics: metrics)
        }
        await stop.serve()
        await server.drain(within: service.drainDeadline)
    }
}
