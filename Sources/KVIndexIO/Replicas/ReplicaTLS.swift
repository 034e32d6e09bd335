public import Configuration
import Logging
import Net

/// The certificates of connections between routers. Each router shows the same one to those that
/// connect to it and to those that it connects to. All are PEM files, read again when they change.
public struct ReplicaTLS: Hashable, Sendable {
    /// The chain, leaf first.
    public var certFile: String
    /// Its key.
    public var keyFile: String
    /// Who signs the routers' certificates. With it both sides must show one; without it only who
    /// listens does, and the system's CAs count.
    public var caFile: String?
    /// The name in the routers' certificates; nil: the host of each address.
    public var serverName: String?

    /// Makes a configuration; nothing is read.
    public init(
        certFile: String, keyFile: String, caFile: String? = nil, serverName: String? = nil
    ) {
        self.certFile = certFile
        self.keyFile = keyFile
        self.caFile = caFile
        self.serverName = serverName
    }

    /// Reads `certFile`, `keyFile`, `caFile` and `serverName`.
    public init(parsing value: ConfigValue) throws(ConfigError) {
        self = try value.section { (section) throws(ConfigError) in
            Self(
                certFile: try section.required("certFile").string(),
                keyFile: try section.required("keyFile").string(),
                caFile: try section.optional("caFile")?.string(),
                serverName: try section.optional("serverName")?.string())
        }
    }

    fileprivate func makeServer() throws(NetError) -> TLSServerContext {
        try TLSServerContext(
            certificatePEMFile: certFile, keyPEMFile: keyFile, clientCAFile: caFile)
    }

    fileprivate func makeClient() throws(NetError) -> TLSClientContext {
        try TLSClientContext(
            verify: caFile.map { .ca(file: $0) } ?? .system, serverName: serverName,
            certificatePEMFile: certFile, keyPEMFile: keyFile)
    }
}

/// The contexts of a router's certificates, which follow the files. Loop-bound.
///
/// The CA of those that connect is read once.
final class ReplicaCertificates {
    let server: TLSServerContext
    /// For the next connection to another router.
    private(set) var client: TLSClientContext
    private let files: ReplicaTLS
    private let logger: Logger
    private var follower: FileFollower?

    init(_ files: ReplicaTLS, on loop: EventLoop, logger: Logger) throws(NetError) {
        self.files = files
        self.logger = logger
        server = try files.makeServer()
        client = try files.makeClient()
        let paths = [files.certFile, files.keyFile] + (files.caFile.map { [$0] } ?? [])
        let follower = FileFollower(paths) { [weak self] in self?.read() }
        follower.start(on: loop)
        self.follower = follower
    }

    func close() { follower?.stop() }

    private func read() {
        do {
            let client = try files.makeClient()
            try server.reload(certificatePEMFile: files.certFile, keyPEMFile: files.keyFile)
            self.client = client
        } catch {
            logger.error("certificate kept: \(error)")
        }
    }
}
