public import Configuration
package import Core
internal import Hashing
public import Logging
public import Net
internal import Synchronization

/// A line of a file of keys. The key itself is not in it: who reads the file cannot use the keys.
package struct APIKeyEntry: Equatable, Sendable {
    /// Whose it is, for logs; told to nobody but its owner.
    package var name: String
    /// SHA-256 of the key: 32 bytes.
    package var digest: [UInt8]
    package var limits: RateLimits

    package init(name: String, digest: [UInt8], limits: RateLimits = RateLimits()) {
        self.name = name
        self.digest = digest
        self.limits = limits
    }

    /// A longer file is refused.
    static let maximumFileBytes = 4 << 20

    /// Reads a document in YAML or JSON:
    ///
    ///     keys:
    ///     - name: team-a
    ///       sha256: 9f86d081…          # 64 hexadecimal digits: printf %s "$KEY" | sha256sum
    ///       requestsPerMinute: 600     # optional
    ///       tokensPerMinute: 100k      # optional
    static func entries(at file: String) throws(ConfigError) -> [APIKeyEntry] {
        try entries(
            parsing: try ConfigFile.text(at: file, maximumBytes: maximumFileBytes), file: file)
    }

    /// As ``entries(at:)``, of the text of a file.
    package static func entries(parsing text: String, file: String) throws(ConfigError)
        -> [APIKeyEntry]
    {
        let root = try ConfigValue(parsing: text, file: file)
        return try root.section { (section) throws(ConfigError) in
            var names: Set<String> = []
            var digests: Set<[UInt8]> = []
            var entries: [APIKeyEntry] = []
            for value in try section.required("keys").list() {
                let entry = try entry(value)
                guard names.insert(entry.name).inserted, digests.insert(entry.digest).inserted
                else { throw value.error("has the name or the key of one before it") }
                entries.append(entry)
            }
            return entries
        }
    }

    private static func entry(_ value: ConfigValue) throws(ConfigError) -> APIKeyEntry {
        try value.section { (section) throws(ConfigError) in
            let name = try section.required("name").string()
            guard (1...128).contains(name.utf8.count) else {
                throw value.error("needs a name of 1 to 128 bytes")
            }
            let digest = try section.required("sha256")
            guard let bytes = [UInt8](hexadecimal: try digest.string()), bytes.count == 32 else {
                throw digest.error("must be the 64 hexadecimal digits of the key's SHA-256")
            }
            let limit = 1...TokenBucket.maximumLimit
            var limits = RateLimits()
            if let value = section.optional("requestsPerMinute") {
                limits.requestsPerMinute = try value.quantity(in: limit)
            }
            if let value = section.optional("tokensPerMinute") {
                limits.tokensPerMinute = try value.quantity(in: limit)
            }
            return APIKeyEntry(name: name, digest: bytes, limits: limits)
        }
    }
}

/// A key in use. Any thread.
package final class APIKey: Sendable {
    package let name: String
    fileprivate let digest: [UInt8]
    private let meter: Meter

    /// What the key has used; it outlives a line in the file.
    private final class Meter: Sendable {
        let limiter: Mutex<RateLimiter>

        init(_ limits: RateLimits, at now: MonotonicTime) {
            limiter = Mutex(RateLimiter(limits, at: now))
        }
    }

    /// A key by its line; `old` is the same key by another line.
    fileprivate init(_ entry: APIKeyEntry, after old: APIKey? = nil, at now: MonotonicTime) {
        name = entry.name
        digest = entry.digest
        meter = old?.meter ?? Meter(entry.limits, at: now)
        meter.limiter.withLock { $0.update(entry.limits, at: now) }
    }

    /// Calls `body` with what the key may still use.
    package func withLimiter<Result: Sendable>(
        _ body: (inout RateLimiter) throws(APIError) -> Result
    ) throws(APIError) -> Result {
        try meter.limiter.withLock { (limiter) throws(APIError) in try body(&limiter) }
    }
}

/// The keys that clients may show. Any thread.
public final class APIKeys: Sendable {
    private let byPrefix: Mutex<[UInt64: [APIKey]]>

    package init(_ entries: [APIKeyEntry], at now: MonotonicTime = .now) {
        byPrefix = Mutex(Self.table(entries.map { APIKey($0, at: now) }))
    }

    /// Reads a file of keys.
    public convenience init(file: String) throws(ConfigError) {
        self.init(try APIKeyEntry.entries(at: file))
    }

    /// What has to be started so that the keys are those of a file whenever it has changed. A file
    /// that is missing or wrong changes nothing and is logged once.
    public func follower(of file: String, logger: Logger) -> FileFollower {
        FileFollower([file]) { [self] in
            do {
                let entries = try APIKeyEntry.entries(at: file)
                replace(entries)
                logger.info("API keys read", metadata: ["keys": "\(entries.count)"])
            } catch {
                logger.error("API keys kept: \(error)")
            }
        }
    }

    /// Uses other keys from now on. One that stays keeps what it has used.
    package func replace(_ entries: [APIKeyEntry], at now: MonotonicTime = .now) {
        byPrefix.withLock { table in
            table = Self.table(
                entries.map {
                    APIKey($0, after: Self.find($0.digest, in: table), at: now)
                })
        }
    }

    /// The key whose text this is.
    package func key(_ text: String) -> APIKey? {
        let digest = sha256(text.utf8)
        return byPrefix.withLock { Self.find(digest, in: $0) }
    }

    /// The table may tell by its time whether digests share their first bytes. Nobody can choose
    /// those of a key without knowing the key, and the rest is compared in constant time.
    private static func find(_ digest: [UInt8], in table: [UInt64: [APIKey]]) -> APIKey? {
        table[prefix(of: digest)]?.first { key in
            zip(key.digest, digest).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0
        }
    }

    private static func table(_ keys: [APIKey]) -> [UInt64: [APIKey]] {
        Dictionary(grouping: keys) { prefix(of: $0.digest) }
    }

    private static func prefix(of digest: [UInt8]) -> UInt64 {
        digest.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    }
}

extension [UInt8] {
    /// The bytes that pairs of hexadecimal digits stand for.
    fileprivate init?(hexadecimal text: String) {
        let digits = text.utf8.compactMap { Character(UnicodeScalar($0)).hexDigitValue }
        guard digits.count == text.utf8.count, digits.count.isMultiple(of: 2) else { return nil }
        self = stride(from: 0, to: digits.count, by: 2).map {
            UInt8(digits[$0] << 4 | digits[$0 + 1])
        }
    }
}

extension HTTPHeaders {
    /// The key that a client shows: `Authorization: Bearer …`, or `x-api-key`.
    package var apiKey: String? {
        if let text = self[first: "authorization"] {
            let parts = text.split(separator: " ", maxSplits: 1)
            if parts.count == 2, parts[0].lowercased() == "bearer" {
                return parts[1].trimmingPrefix { $0 == " " }.description
            }
        }
        return self[first: "x-api-key"]
    }
}
