import ArgumentParser
import Core
import Gateway
import Net
import Replay
import Telemetry

struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway",
        abstract: "An OpenAI-compatible reverse proxy that routes by KV cache and load.")

    @OptionGroup var service: ServiceOptions
    @OptionGroup var router: RouterOptions
    @OptionGroup(title: "Limits") var limits: GatewayLimitOptions
    @OptionGroup(title: "Clients") var access: GatewayAccessOptions

    @Option(help: "The port to listen on.")
    var port: UInt16 = 8000

    @Option(help: "The port of /metrics and /health.")
    var metricsPort: UInt16 = 9090

    @Flag(help: "Name the endpoints in response headers, x-llmd-prefill and x-llmd-decode.")
    var revealEndpoints = false

    func run() async throws {
        let group = try service.start("gateway")
        let stop = try await StopSignal(on: group.loops[0])
        let assembly = try RouterAssembly(router, maximumBodyBytes: limits.maxBodyBytes)
        var configuration = GatewayConfiguration(address: service.address(port))
        configuration.revealsEndpoints = revealEndpoints
        limits.apply(to: &configuration)
        try access.apply(to: &configuration, on: group.loops[0], metrics: assembly.metrics)
        let server = try GatewayServer.start(
            on: group, router: assembly.router, configuration: configuration,
            metrics: assembly.metrics)
        _ = try AdminServer.listen(
            on: group, at: service.address(metricsPort), metrics: assembly.metrics,
            kvEvents: assembly.kvEvents)
        await stop.serve()
        await server.drain(within: service.drainDeadline)
        assembly.recorder?.flush()
        configuration.accessLog?.flush(within: .seconds(2))
    }
}
