package import Core

/// What a key may use in a minute; nil: as much as it likes.
package struct RateLimits: Equatable, Sendable {
    package var requestsPerMinute: Int?
    package var tokensPerMinute: Int?

    package init(requestsPerMinute: Int? = nil, tokensPerMinute: Int? = nil) {
        self.requestsPerMinute = requestsPerMinute
        self.tokensPerMinute = tokensPerMinute
    }
}

/// Holds the requests of one key to its limits. A value; the time is given.
///
/// A request is counted when its head came, its prompt when that is known, and the rest at the end
/// of the reply, which may be more than there was: later requests wait for that.
package struct RateLimiter: Equatable, Sendable {
    private var requests: TokenBucket?
    private var tokens: TokenBucket?

    package init(_ limits: RateLimits, at now: MonotonicTime) {
        requests = limits.requestsPerMinute.map { TokenBucket(perMinute: $0, at: now) }
        tokens = limits.tokensPerMinute.map { TokenBucket(perMinute: $0, at: now) }
    }

    /// Changes the limits; what was used stays used.
    package mutating func update(_ limits: RateLimits, at now: MonotonicTime) {
        Self.update(&requests, limits.requestsPerMinute, at: now)
        Self.update(&tokens, limits.tokensPerMinute, at: now)
    }

    private static func update(_ bucket: inout TokenBucket?, _ limit: Int?, at now: MonotonicTime) {
        guard let limit else { return bucket = nil }
        if bucket == nil { bucket = TokenBucket(perMinute: limit, at: now) }
        bucket?.setLimit(limit, at: now)
    }

    /// Counts a request; refuses it if there is none left, or no token at all.
    package mutating func begin(key: String, at now: MonotonicTime) throws(APIError) {
        if let wait = tokens?.wait(for: 1, at: now), wait > .zero, let limit = tokens?.limit {
            throw .rateLimited(.tokens, key: key, limit: limit, wait: wait)
        }
        guard requests?.take(1, at: now) == false, let limit = requests?.limit else { return }
        throw .rateLimited(.requests, key: key, limit: limit, wait: requests?.wait(for: 1, at: now))
    }

    /// Takes the tokens of a prompt, as far as they are known; refuses it if they are not there.
    package mutating func reserve(_ count: Int, key: String, at now: MonotonicTime) throws(APIError)
    {
        guard tokens?.take(count, at: now) == false, let limit = tokens?.limit else { return }
        throw .rateLimited(
            .tokens, key: key, limit: limit, wait: tokens?.wait(for: count, at: now))
    }

    /// Puts what a request used in the place of what it reserved.
    package mutating func settle(reserved: Int, used: Int, at now: MonotonicTime) {
        tokens?.correct(by: reserved - used, at: now)
    }

    /// `x-ratelimit-*`, as clients of OpenAI know them.
    package func headers(at now: MonotonicTime) -> [APIError.Header] {
        Self.headers(requests, "requests", at: now) + Self.headers(tokens, "tokens", at: now)
    }

    private static func headers(
        _ bucket: TokenBucket?, _ what: String, at now: MonotonicTime
    ) -> [APIError.Header] {
        guard let limit = bucket?.limit, let remaining = bucket?.remaining(at: now),
            let full = bucket?.wait(for: limit, at: now)
        else { return [] }
        return [
            .init("x-ratelimit-limit-\(what)", "\(limit)"),
            .init("x-ratelimit-remaining-\(what)", "\(remaining)"),
            .init("x-ratelimit-reset-\(what)", full.goText),
        ]
    }
}

extension APIError {
    /// What there is a limit of.
    enum LimitedThing: String {
        case requests
        case tokens
    }

    /// 429 in OpenAI's words. Without a `wait` it is for good: the prompt alone is too much.
    static func rateLimited(
        _ what: LimitedThing, key: String, limit: Int, wait: Duration?
    ) -> APIError {
        let per = what == .requests ? "requests per min (RPM)" : "tokens per min (TPM)"
        var error = APIError(
            status: 429, type: what.rawValue,
            message: "Rate limit reached for key '\(key)' on \(per): limit \(limit).",
            code: "rate_limit_exceeded")
        guard let wait else {
            error.message = "The request is too large for key '\(key)' on \(per): limit \(limit)."
            // The official clients heed it.
            error.headers = [.init("x-should-retry", "false")]
            return error
        }
        let milliseconds = (wait.nanoseconds + 999_999) / 1_000_000
        error.message += " Please try again in \(wait.goText)."
        error.headers = [
            .init("retry-after", "\((milliseconds + 999) / 1000)"),
            .init("retry-after-ms", "\(milliseconds)"),
        ]
        return error
    }
}

extension Duration {
    /// In Go's form, as OpenAI's headers have it, rounded up to milliseconds: `120ms`, `6m0s`.
    package var goText: String {
        let all = (max(0, nanoseconds) + 999_999) / 1_000_000
        guard all >= 1000 else { return all == 0 ? "0s" : "\(all)ms" }
        let (hours, minutes, rest) = (all / 3_600_000, all / 60_000 % 60, all % 60_000)
        var text = hours > 0 ? "\(hours)h" : ""
        if hours > 0 || minutes > 0 { text += "\(minutes)m" }
        text += "\(rest / 1000)"
        guard rest % 1000 > 0 else { return text + "s" }
        var decimals = String(rest % 1000 + 1000).dropFirst()
        while decimals.last == "0" { decimals.removeLast() }
        return "\(text).\(decimals)s"
    }
}
