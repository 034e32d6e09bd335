public import Configuration
import Foundation
import Net
import RedisClient

extension RedisIndexBackend.Configuration {
    /// What may be said of the server.
    private enum BackendType: String, CaseIterable {
        case redis, valkey
    }

    /// Reads `redisConfig`, upstream's `address` and `backendType`, and ours: `namespace`,
    /// `passwordFile` (of which the first line counts) and, for `rediss://`, `caFile`.
    public init(parsing value: ConfigValue) throws(ConfigError) {
        self = try value.section { (section) throws(ConfigError) in
            let address = try section.required("address")
            var redis = try Self.server(address)
            _ = try section.optional("backendType")?.choice(of: BackendType.self)
            if let file = section.optional("passwordFile") {
                redis.password = try Self.password(file)
            }
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
            var configuration = RedisIndexBackend.Configuration(redis: redis)
            if let namespace = section.optional("namespace") {
                configuration.namespace = try namespace.string()
                if configuration.namespace.contains(where: { "{}".contains($0) }) {
                    throw namespace.error("must not contain braces")
                }
            }
            return configuration
        }
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
