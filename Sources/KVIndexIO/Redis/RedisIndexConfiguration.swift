public import Configuration
import Foundation
public import Hashing
import Net
import RedisClient
public import Telemetry

/// How an index is shared through Redis: the section `redisConfig` or `valkeyConfig`.
public enum RedisSharing: Hashable, Sendable {
    /// In a layout of our own (`layout: llmd`, the default).
    case llmd(RedisIndexBackend.Configuration)
    /// In llm-d's layout, with its endpoint pickers (`layout: llm-d`).
    case upstream(UpstreamIndexBackend.Configuration)

    private enum Layout: String, CaseIterable {
        case llmd
        case upstream = "llm-d"
    }

    /// What may be said of the server.
    private enum BackendType: String, CaseIterable {
        case redis, valkey
    }

    /// The function of the request keys where the configuration names none: llm-d's, to share with
    /// it.
    public var keyAlgorithm: RequestKeyAlgorithm {
        switch self {
        case .llmd: .xxh64
        case .upstream: .cborFNV
        }
    }

    /// Reads upstream's `address` and `backendType`, and ours: `layout`, `passwordFile` (of which
    /// the first line counts), for `rediss://` a `caFile`, and for our own layout a `namespace`.
    public init(parsing value: ConfigValue) throws(ConfigError) {
        self = try value.section { (section) throws(ConfigError) in
            let redis = try Self.redis(&section)
            let layout = try section.optional("layout")?.choice(of: Layout.self) ?? .llmd
            let namespace = section.optional("namespace")
            switch layout {
            case .llmd:
                var configuration = RedisIndexBackend.Configuration(redis: redis)
                if let namespace {
                    configuration.namespace = try namespace.string()
                    if configuration.namespace.contains(where: { "{}".contains($0) }) {
                        throw namespace.error("must not contain braces")
                    }
                }
                return .llmd(configuration)
            case .upstream:
                if let namespace {
                    throw namespace.error(
                        "is not possible in llm-d's layout; use a database of its own")
                }
                return .upstream(UpstreamIndexBackend.Configuration(redis: redis))
            }
        }
    }

    /// Shares the index of a source from now on. To be called before its first pool.
    public func start(for source: KVEventSource, registry: MetricsRegistry) {
        switch self {
        case .llmd(let configuration):
            let metrics = RedisIndexMetrics(registry)
            source.share { try RedisIndexBackend(configuration, in: $0, metrics: metrics) }
        case .upstream(let configuration):
            let metrics = UpstreamIndexMetrics(registry)
            source.share { try UpstreamIndexBackend(configuration, in: $0, metrics: metrics) }
        }
    }

    private static func redis(_ section: inout ConfigSection) throws(ConfigError)
        -> RedisConfiguration
    {
        let address = try section.required("address")
        var redis = try server(address)
        _ = try section.optional("backendType")?.choice(of: BackendType.self)
        if let file = section.optional("passwordFile") { redis.password = try password(file) }
        if let file = section.optional("caFile") {
            guard redis.tls != nil else { throw file.error("needs an address with rediss://") }
            let verification = TLSClientContext.Verification.ca(file: try file.string())
            redis.tls = verification
            do throws(NetError) {
                _ = try TLSClientContext(verify: verification)
            } catch {
                throw file.error("cannot be used: \(error)")
            }
        }
        return redis
    }

    private static func server(_ value: ConfigValue) throws(ConfigError) -> RedisConfiguration {
        let text = try value.string()
        do throws(RedisError) {
            return try RedisConfiguration(parsing: text)
        } catch .address(let address, let problem) {
            throw value.error("'\(address)' \(problem)")
        } catch {
            throw value.error("cannot be used: \(error)")
        }
    }

    private static func password(_ file: ConfigValue) throws(ConfigError) -> String {
        let path = try file.string()
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else {
            throw file.error("'\(path)' cannot be read")
        }
        return text.split(separator: "\n").first.map(String.init) ?? ""
    }
}
