import ArgumentParser
import Core
import Gateway
import Net
import Replay

struct GatewayCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway",
        abstract: "An OpenAI-compatible reverse proxy that routes by KV cache and load.")

    @OptionGroup var service: ServiceOptions
    @OptionGroup var router: RouterOptions

    @Option(help: "The port to listen on.")
    var port: UInt16 = 8000

    @Option(help: "The port of /metrics and /health.")
    var metricsPort: UInt16 = 9090

    @Option(help: "Seconds that a client may take to go on with a body or to ask again.")
    var idleTimeout = 75.0

    @Flag(help: "Name the endpoints in response headers, x-llmd-prefill and x-llmd-decode.")
    var revealEndpoints = false

    func run() async throws {
        let group = try service.start("gateway")
        let stop = try await StopSignal(on: group.loops[0])
        let assembly = try RouterAssembly(router)
        var configuration = GatewayConfiguration(address: service.address(port))
        configuration.revealsEndpoints = revealEndpoints
        configuration.server.idleTimeout = Duration(seconds: idleTimeout)
        let server = try GatewayServer.start(
            on: group, router: assembly.router, configuration: configuration,
            metrics: assembly.metrics)
        _ = try AdminServer.listen(
            on: group, at: service.address(metricsPort), metrics: assembly.metrics,
            kvEvents: assembly.kvEvents)
        await stop.serve()
        await server.drain(within: service.drainDeadline)
        assembly.recorder?.flush()
    }
}
