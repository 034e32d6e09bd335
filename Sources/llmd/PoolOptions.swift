import ArgumentParser
import Core
import Logging
import ModelServers
import Net

/// Which model servers there are.
struct PoolOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "A model server, as name=N,address=HOST:PORT[,role=R][,engine=KIND]"
                + "[,metrics=HOST:PORT][,events=E][,replay=E][,dp=RANKS]; may be given again.",
            valueName: "server"))
    var endpoint: [String] = []

    @Option(
        help: ArgumentHelp(
            "A file of model servers, objectives and model rewrites; it is read again when it "
                + "changes."))
    var endpointsFile: String?

    @Option(
        name: .customLong("endpoint-dns"),
        help: ArgumentHelp(
            "A name with a model server at each of its addresses, as HOST:PORT[,role=R]"
                + "[,family=ipv4|ipv6][,metrics=PORT][,events=PORT][,replay=PORT]"
                + "[,label=NAME=VALUE]; may be given again.", valueName: "name"))
    var endpointDNS: [String] = []

    @Option(name: .customLong("endpoint-dns-interval"), help: "Seconds between two look-ups.")
    var dnsInterval = 10

    @Option(
        name: .customLong("endpoint-dns-keep"),
        help: "Seconds that addresses count after the last look-up that was answered.")
    var dnsKeepTime = 300

    func validate() throws {
        let kinds = [!endpoint.isEmpty, endpointsFile != nil, !endpointDNS.isEmpty]
        guard kinds.count(where: { $0 }) <= 1 else {
            throw ValidationError(
                "give one of --endpoint, --endpoints-file and --endpoint-dns")
        }
        guard (1...3600).contains(dnsInterval) else {
            throw ValidationError("--endpoint-dns-interval must be from 1 to 3600")
        }
        guard (0...86400).contains(dnsKeepTime) else {
            throw ValidationError("--endpoint-dns-keep must be from 0 to 86400")
        }
    }

    /// Fills a pool, which is followed on the loop from then on.
    func fill(_ pool: EndpointPool, on loop: EventLoop) throws {
        try source().start(filling: pool, on: loop)
    }

    private func source() throws -> any EndpointSource {
        let logger = Logger(label: "discovery")
        if let file = endpointsFile { return FileEndpoints(path: file, logger: logger) }
        guard !endpointDNS.isEmpty else {
            return StaticEndpoints(
                try EndpointFile.servers(parsing: endpoint, option: "--endpoint"))
        }
        var configuration = DNSEndpoints.Configuration(
            names: try endpointDNS.map { try DNSName(parsing: $0, option: "--endpoint-dns") })
        configuration.interval = .seconds(dnsInterval)
        configuration.keepTime = .seconds(dnsKeepTime)
        return DNSEndpoints(configuration, logger: logger)
    }
}
