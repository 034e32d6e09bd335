import Core
import Net
import RedisClient
import Testing

@Suite struct RedisConfigurationTests {
    private func tcp(_ host: String, _ port: UInt16) -> RedisConfiguration {
        RedisConfiguration(remote: .tcp(SocketAddress(host: host, port: port)))
    }

    @Test func readsAddresses() throws {
        #expect(try RedisConfiguration(parsing: "redis://127.0.0.1:6379") == tcp("127.0.0.1", 6379))
        #expect(try RedisConfiguration(parsing: "valkey://cache") == tcp("cache", 6379))
        #expect(try RedisConfiguration(parsing: "cache:7000") == tcp("cache", 7000))
        #expect(try RedisConfiguration(parsing: "redis://[fd00::7]/") == tcp("fd00::7", 6379))
        #expect(try RedisConfiguration(parsing: "redis://[fd00::7]:1/") == tcp("fd00::7", 1))
    }

    @Test func readsUserPasswordAndDatabase() throws {
        let read = try RedisConfiguration(parsing: "rediss://me:p%40ss%2F@cache:1/5")
        #expect(read.username == "me")
        #expect(read.password == "p@ss/")
        #expect(read.database == 5)
        #expect(read.tls == .system)
        let anonymous = try RedisConfiguration(parsing: "redis://:secret@cache")
        #expect(anonymous.username == nil)
        #expect(anonymous.password == "secret")
    }

    @Test func readsUnixSockets() throws {
        let read = try RedisConfiguration(parsing: "unix:///run/redis.sock?db=2")
        #expect(read.remote == .unix(path: "/run/redis.sock"))
        #expect(read.database == 2)
    }

    @Test(arguments: [
        ("http://cache", "scheme 'http'"), ("redis://", "no host"), ("redis://:1", "no host"),
        ("redis://cache:x", "no port"), ("redis://cache/one", "'one'"),
        ("redis://cache/-1", "'-1'"), ("redis://secret@cache", "user:password"),
        ("redis://u:%4@cache", "user:password"), ("unix://run/s", "absolute path"),
        ("unix:///run/s?x=1", "?db="), ("redis://fd00::7", "without brackets"),
    ])
    func refuses(_ text: String, _ problem: String) {
        #expect {
            try RedisConfiguration(parsing: text)
        } throws: { error in
            "\(error)".contains(problem)
        }
    }

    @Test func doesNotTellPasswords() {
        #expect {
            try RedisConfiguration(parsing: "redis://me:hunter2@cache:x")
        } throws: { error in
            !"\(error)".contains("hunter2") && "\(error)".contains("cache:x")
        }
    }
}
