public import ArgumentParser
public import Bench
public import Core
import Foundation
public import Hashing
import Indexer
public import KVIndex
public import Logging
public import RequestPipeline
public import Telemetry
public import Transfer

// Types of other rooms as values of options.

extension LineLogHandler.Format: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
extension RequestKeyAlgorithm: ExpressibleByArgument {}
extension RoutingPolicy: ExpressibleByArgument {}
extension ServerRole: ExpressibleByArgument {}
extension SyntheticTrace: ExpressibleByArgument {}

extension TransferPath: ExpressibleByArgument {
    /// The path with this name.
    public init?(argument: String) {
        guard let path = Self.allCases.first(where: { "\($0)" == argument }) else { return nil }
        self = path
    }
}

extension TierWeights: ExpressibleByArgument {
    /// The weights in `gpu=1,cpu=0.8`.
    public init?(argument: String) {
        self.init(parsing: argument)
    }

    /// As it is given.
    public var defaultValueDescription: String {
        Tier.allCases.map { "\($0)=\(self[$0])" }.joined(separator: ",")
    }
}

extension SocketAddress {
    /// The address in `http://host:port`, followed by one of `paths`.
    init(url: String, option: String, paths: [String]) throws {
        guard let parts = URLComponents(string: url), parts.scheme == "http",
            let host = parts.host, let port = UInt16(exactly: parts.port ?? 80),
            paths.contains(parts.path)
        else { throw ValidationError("\(option) must be like http://127.0.0.1:8000") }
        self.init(host: host, port: port)
    }
}

extension RoutingPolicy {
    /// All names, for help and errors.
    static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
