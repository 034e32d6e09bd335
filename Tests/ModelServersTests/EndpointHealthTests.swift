import Core
import ModelServers
import Testing

@Suite struct EndpointHealthTests {
    private let start = MonotonicTime(nanoseconds: 1_000_000_000_000)

    @Test func aFailedConnectionRulesOutAtOnce() {
        var byScrape = EndpointHealth()
        byScrape.scrapeFailedToConnect()
        #expect(!byScrape.isHealthy)
        byScrape.scraped(at: start)
        #expect(byScrape.isHealthy)

        var byRequest = EndpointHealth()
        byRequest.requestFailedToConnect(at: start)
        #expect(!byRequest.isHealthy)
        byRequest.scraped(at: start + .milliseconds(999))
        #expect(!byRequest.isHealthy)
        byRequest.scraped(at: start + .seconds(1))
        #expect(byRequest.isHealthy)
    }

    @Test func slownessRulesOutTheThirdTimeInARow() {
        var health = EndpointHealth()
        health.scrapeTimedOut()
        health.scrapeTimedOut()
        health.scraped(at: start)
        health.scrapeTimedOut()
        health.scrapeTimedOut()
        #expect(health.isHealthy)
        health.scrapeTimedOut()
        #expect(!health.isHealthy)
        health.scraped(at: start)
        #expect(health.isHealthy)
    }
}

@Suite struct ScrapePacingTests {
    @Test func backsOffWhileNothingHappens() {
        var pacing = ScrapePacing(busy: .milliseconds(200), idle: .seconds(1))
        let intervals = [false, false, false, false, true, false].map {
            pacing.interval(isActive: $0)
        }
        #expect(
            intervals == [400, 800, 1000, 1000, 200, 400].map { .milliseconds($0) })
    }
}
