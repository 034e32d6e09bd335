import Configuration
import Core
import Gateway
import Net
import Testing

/// SHA-256 of `secret`, as sha256sum prints it.
private let secretDigest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
private let otherDigest = String(repeating: "ab", count: 32)

@Suite struct APIKeyTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func entries(_ text: String) throws -> [APIKeyEntry] {
        try APIKeyEntry.entries(parsing: text, file: "keys.yaml")
    }

    @Test func readsAFile() throws {
        let entries = try entries(
            """
            keys:
            - {name: a, sha256: \(secretDigest), requestsPerMinute: 60, tokensPerMinute: 100k}
            - {name: b, sha256: \(otherDigest.uppercased())}
            """)
        #expect(entries.map(\.name) == ["a", "b"])
        #expect(
            entries[0].limits == RateLimits(requestsPerMinute: 60, tokensPerMinute: 100_000))
        #expect(entries[1].limits == RateLimits())
        #expect(entries[1].digest == [UInt8](repeating: 0xab, count: 32))
    }

    @Test(arguments: [
        ("keys:\n- name: a", "keys.yaml:2: keys[0] needs a 'sha256'"),
        ("keys:\n- {name: a, sha256: secret}", "64 hexadecimal digits"),
        ("keys:\n- {name: a, sha256: \(otherDigest)0}", "64 hexadecimal digits"),
        ("keys:\n- {name: a, sha256: \(otherDigest), requestsPerMinute: 0}", "at least 1"),
        ("keys:\n- {name: a, sha256: \(otherDigest), rpm: 1}", "keys[0].rpm is not known"),
        ("keys:\n- {name: '', sha256: \(otherDigest)}", "1 to 128 bytes"),
        (
            "keys:\n- {name: a, sha256: \(otherDigest)}\n- {name: b, sha256: \(otherDigest)}",
            "keys.yaml:3: keys[1] has the name or the key"
        ),
    ])
    func saysWhatIsWrongAndWhere(text: String, part: String) throws {
        let error = try #require(throws: ConfigError.self) { try entries(text) }
        #expect(error.description.contains(part))
    }

    @Test func knowsAKeyByItsText() throws {
        let keys = APIKeys(
            try entries(
                "keys: [{name: a, sha256: \(secretDigest)}, {name: b, sha256: \(otherDigest)}]"))
        #expect(keys.key("secret")?.name == "a")
        #expect(keys.key("secret ") == nil)
        #expect(keys.key("") == nil)
        #expect(keys.key(secretDigest) == nil)
    }

    @Test func aKeyWhoseFirstBytesAgreeIsAnother() throws {
        let digest = secretDigest.dropLast() + "c"
        let keys = APIKeys(try entries("keys: [{name: a, sha256: \(digest)}]"))
        #expect(keys.key("secret") == nil)
    }

    @Test func whatWasUsedOutlivesAReload() throws {
        func list(_ name: String, _ limit: Int) throws -> [APIKeyEntry] {
            try entries(
                "keys: [{name: \(name), sha256: \(secretDigest), requestsPerMinute: \(limit)}]")
        }
        let keys = APIKeys(try list("a", 2), at: start)
        let before = try #require(keys.key("secret"))
        try before.withLimiter { (limiter) throws(APIError) in
            try limiter.begin(key: "a", at: start)
        }
        keys.replace(try list("b", 10), at: start)
        let after = try #require(keys.key("secret"))
        #expect(after.name == "b")
        let headers = try after.withLimiter { $0.headers(at: start) }
        #expect(headers.first { $0.name == "x-ratelimit-remaining-requests" }?.value == "9")
        keys.replace([], at: start)
        #expect(keys.key("secret") == nil)
    }

    @Test func headersThatShowAKey() {
        func key(_ headers: HTTPHeaders) -> String? { headers.apiKey }
        #expect(key(["authorization": "Bearer abc"]) == "abc")
        #expect(key(["authorization": "bearer   abc"]) == "abc")
        #expect(key(["authorization": "Basic abc"]) == nil)
        #expect(key(["authorization": "Bearer"]) == nil)
        #expect(key(["authorization": "Basic abc", "x-api-key": "k"]) == "k")
        #expect(key(["authorization": "Bearer abc", "x-api-key": "k"]) == "abc")
    }
}

@Suite struct RateLimiterTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000)

    private func limiter(requests: Int? = nil, tokens: Int? = nil) -> RateLimiter {
        RateLimiter(RateLimits(requestsPerMinute: requests, tokensPerMinute: tokens), at: start)
    }

    private func value(_ name: String, _ headers: [APIError.Header]) -> String? {
        headers.first { $0.name == name }?.value
    }

    @Test func requestsBeyondTheLimitAreToldWhenToComeBack() throws {
        var limiter = limiter(requests: 2)
        try limiter.begin(key: "a", at: start)
        try limiter.begin(key: "a", at: start)
        let error = try #require(throws: APIError.self) { try limiter.begin(key: "a", at: start) }
        #expect(error.status == 429 && error.type == "requests")
        #expect(error.body.contains(#""code":"rate_limit_exceeded""#))
        #expect(value("retry-after", error.headers) == "30")
        #expect(value("retry-after-ms", error.headers) == "30000")
        try limiter.begin(key: "a", at: start + .seconds(30))
    }

    @Test func tokensAreReservedAndSettled() throws {
        var limiter = limiter(tokens: 100)
        try limiter.reserve(80, key: "a", at: start)
        let error = try #require(throws: APIError.self) {
            try limiter.reserve(30, key: "a", at: start)
        }
        #expect(error.type == "tokens" && value("retry-after", error.headers) == "6")
        limiter.settle(reserved: 80, used: 10, at: start)
        #expect(value("x-ratelimit-remaining-tokens", limiter.headers(at: start)) == "90")
        // A reply may have used more than there was. Nobody gets in until that is paid.
        limiter.settle(reserved: 0, used: 120, at: start)
        #expect(throws: APIError.self) { try limiter.begin(key: "a", at: start) }
        try limiter.begin(key: "a", at: start + .seconds(20))
    }

    @Test func whatNeverFitsIsNotToBeTriedAgain() throws {
        var limiter = limiter(tokens: 100)
        let error = try #require(throws: APIError.self) {
            try limiter.reserve(101, key: "a", at: start)
        }
        #expect(value("x-should-retry", error.headers) == "false")
        #expect(value("retry-after", error.headers) == nil)
    }

    @Test func headersAreOpenAIs() throws {
        var limiter = limiter(requests: 600, tokens: 1000)
        try limiter.begin(key: "a", at: start)
        try limiter.reserve(500, key: "a", at: start)
        let texts = limiter.headers(at: start).map { "\($0.name): \($0.value)" }
        #expect(
            texts == [
                "x-ratelimit-limit-requests: 600", "x-ratelimit-remaining-requests: 599",
                "x-ratelimit-reset-requests: 100ms", "x-ratelimit-limit-tokens: 1000",
                "x-ratelimit-remaining-tokens: 500", "x-ratelimit-reset-tokens: 30s",
            ])
        var free = self.limiter()
        try free.begin(key: "a", at: start)
        #expect(free.headers(at: start).isEmpty)
    }

    @Test(arguments: [
        (0, "0s"), (1, "1ms"), (999_000, "999ms"), (1_000_000, "1s"), (1_500_000, "1.5s"),
        (12_345_678, "12.346s"), (60_000_000, "1m0s"), (3_600_000_000, "1h0m0s"),
        (3_723_040_000, "1h2m3.04s"),
    ])
    func durationsInGosForm(microseconds: Int, text: String) {
        #expect(Duration.microseconds(microseconds).goText == text)
    }
}

@Suite struct EventCounterTests {
    @Test(arguments: [
        ("data: a\n\ndata: b\n\n", 2), ("data: a\r\n\r\ndata: b\r\n\r\n", 2),
        ("data: a\ndata: b\n\n\n", 1), ("data: a", 0),
    ])
    func countsEventsHoweverTheyAreCut(text: String, count: Int) {
        for size in 1...text.utf8.count {
            var counter = EventCounter()
            var rest = Array(text.utf8)[...]
            while !rest.isEmpty {
                rest.prefix(size).withUnsafeBytes { counter.add($0) }
                rest = rest.dropFirst(size)
            }
            #expect(counter.count == count, "in pieces of \(size)")
        }
    }
}
