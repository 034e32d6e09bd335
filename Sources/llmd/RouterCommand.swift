import ArgumentParser
import Core
import ExtProc
import Net
import Replay

struct RouterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "router",
        abstract: "The endpoint picker of the Gateway API Inference Extension, over ext-proc.",
        subcommands: [ReplayCommand.self])

    @OptionGroup var service: ServiceOptions
    @OptionGroup var router: RouterOptions

    @Option(help: "The port of the external processor (gRPC).")
    var grpcPort: UInt16 = 9002

    @Option(help: "The port of the gRPC health service, without TLS.")
    var grpcHealthPort: UInt16 = 9003

    @Option(help: "The port of /metrics and /health.")
    var metricsPort: UInt16 = 9090

    @Flag(
        inversion: .prefixedNo,
        help: "TLS on the gRPC port, with a certificate of its own unless --cert-path names one.")
    var secureServing = true

    @Option(help: "A folder with tls.crt and tls.key; they are read again when they change.")
    var certPath: String?

    @Flag(help: "Pick from the whole pool whatever subset the data plane hints at.")
    var disableEndpointSubsetFilter = false

    func validate() throws {
        if certPath != nil, !secureServing {
            throw ValidationError("--cert-path needs --secure-serving")
        }
    }

    func run() async throws {
        let group = try service.start("router")
        let stop = try await StopSignal(on: group.loops[0])
        let assembly = try RouterAssembly(router)
        var configuration = ExtProcConfiguration(
            address: service.address(grpcPort), healthAddress: service.address(grpcHealthPort))
        configuration.ignoresSubsetHint = disableEndpointSubsetFilter
        if secureServing {
            configuration.tls =
                try certPath.map {
                    try CertificateFolder(path: $0).context(followedOn: group.loops[0])
                } ?? .selfSigned(names: ["localhost"])
        }
        let server = try ExtProcServer.start(
            on: group, router: assembly.router, configuration: configuration,
            metrics: assembly.metrics, isReady: { true })
        _ = try AdminServer.listen(
            on: group, at: service.address(metricsPort), metrics: assembly.metrics,
            kvEvents: assembly.kvEvents)
        await stop.serve()
        await server.drain(within: service.drainDeadline)
        assembly.recorder?.flush()
    }
}
