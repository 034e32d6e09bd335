import ArgumentParser
import Core
import Foundation
import Gateway
import Logging
import Net
import Telemetry

/// How long and how much the gateway puts up with.
struct GatewayLimitOptions: ParsableArguments {
    @Option(help: "Seconds from the first byte of a request to the end of its header section.")
    var headerTimeout = 10.0

    @Option(help: "Seconds that a client may take to go on with a body or to ask again.")
    var idleTimeout = 75.0

    @Option(help: "Seconds that a client may take over a whole body.")
    var bodyTimeout = 300.0

    @Option(help: "Seconds until a connection to a model server counts as failed.")
    var connectTimeout = 2.0

    @Option(help: "Seconds that a model server may take to begin its response.")
    var firstByteTimeout = 600.0

    @Option(help: "Seconds that a response of a model server may make no progress.")
    var upstreamIdleTimeout = 300.0

    @Option(help: "The longest header section of a request, in bytes.")
    var maxHeaderBytes = 64 << 10

    @Option(help: "The longest body of a request, in bytes.")
    var maxBodyBytes = 32 << 20

    @Option(help: "Connections of clients, per event loop; more wait.")
    var maxConnections = 10_000

    @Option(help: "Requests served at once; more are answered with 503.")
    var maxRequests = 10_000

    func validate() throws {
        for (name, seconds) in [
            ("header-timeout", headerTimeout), ("idle-timeout", idleTimeout),
            ("body-timeout", bodyTimeout), ("connect-timeout", connectTimeout),
            ("first-byte-timeout", firstByteTimeout),
            ("upstream-idle-timeout", upstreamIdleTimeout),
        ] {
            guard seconds > 0, seconds <= 86_400 else {
                throw ValidationError("--\(name) must be above 0 and at most 86400")
            }
        }
        for (name, count, range) in [
            ("max-header-bytes", maxHeaderBytes, 1 << 10...16 << 20),
            ("max-body-bytes", maxBodyBytes, 1 << 10...2 << 30),
            ("max-connections", maxConnections, 1...1_000_000),
            ("max-requests", maxRequests, 1...1_000_000),
        ] {
            guard range.contains(count) else {
                throw ValidationError(
                    "--\(name) must be from \(range.lowerBound) to \(range.upperBound)")
            }
        }
    }

    func apply(to configuration: inout GatewayConfiguration) {
        configuration.server.headerTimeout = Duration(seconds: headerTimeout)
        configuration.server.idleTimeout = Duration(seconds: idleTimeout)
        configuration.server.maximumHeaderBytes = maxHeaderBytes
        configuration.server.maximumConnections = maxConnections
        configuration.bodyTimeout = Duration(seconds: bodyTimeout)
        configuration.client.connectTimeout = Duration(seconds: connectTimeout)
        configuration.client.responseHeadTimeout = Duration(seconds: firstByteTimeout)
        configuration.client.idleTimeout = Duration(seconds: upstreamIdleTimeout)
        configuration.maximumConcurrentRequests = maxRequests
    }
}

/// Who may ask the gateway, how, and what is noted of it.
struct GatewayAccessOptions: ParsableArguments {
    @Option(help: "A folder with tls.crt and tls.key: TLS, with HTTP/1.1 and HTTP/2.")
    var certPath: String?

    @Option(help: "A file of API keys and their limits; it is read again when it changes.")
    var apiKeys: String?

    @Flag(help: "Send the key of a client on to model servers, where there are API keys.")
    var forwardAuthorization = false

    @Option(help: "A file that gets a line of JSON per request; -: standard output.")
    var accessLog: String?

    @Option(
        help: ArgumentHelp(
            "Origins whose pages may call (CORS), comma-separated, or *.", valueName: "origins"))
    var corsOrigins: String?

    func validate() throws {
        guard corsOrigins == nil || cors != nil else {
            throw ValidationError(
                "--cors-origins takes origins like https://chat.example, or *, separated by commas")
        }
        guard !forwardAuthorization || apiKeys != nil else {
            throw ValidationError("--forward-authorization needs --api-keys")
        }
    }

    private var cors: CORSPolicy? {
        corsOrigins.flatMap {
            CORSPolicy(origins: $0.split(separator: ",").map { String($0) })
        }
    }

    /// Opens and follows the files. SIGHUP reads and opens them anew from now on.
    func apply(
        to configuration: inout GatewayConfiguration, on loop: EventLoop, metrics: MetricsRegistry
    ) throws {
        configuration.cors = cors
        configuration.forwardsAuthorization = forwardAuthorization
        let log = try accessLog.map {
            try LogFile(
                path: $0,
                dropped: metrics.counter(
                    "llmd_gateway_access_log_dropped_total",
                    "Lines of the access log that were lost because its file was slow or full."))
        }
        configuration.accessLog = log
        var followers: [@Sendable () -> FileFollower] = []
        if let apiKeys {
            let keys = try APIKeys(file: apiKeys)
            configuration.keys = keys
            followers.append { keys.follower(of: apiKeys, logger: Logger(label: "api-keys")) }
        }
        if let certPath {
            let folder = CertificateFolder(path: certPath)
            let tls = try folder.context()
            configuration.server.tls = tls
            followers.append { folder.follower(of: tls) }
        }
        guard log != nil || !followers.isEmpty else { return }
        let makers = followers
        loop.execute {
            let followers = makers.map { $0() }
            for follower in followers { follower.start(on: loop) }
            do {
                _ = try SignalWatcher([SIGHUP], on: loop) { _ in
                    log?.reopen()
                    for follower in followers { follower.reread() }
                }
            } catch {
                Logger(label: "gateway").error("SIGHUP is not watched: \(error)")
            }
        }
    }
}
