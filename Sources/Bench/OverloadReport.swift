import Core
import Scan

/// What an overload did to each band. Prints as one line of JSON or as a table.
public struct OverloadReport: Sendable {
    /// What became of the requests of one band.
    public struct Band: Sendable {
        /// Who they are.
        public var band: OverloadBand
        /// Requests sent.
        public var requests = 0
        /// Requests that were served to their end.
        public var served = 0
        /// Requests that were answered otherwise, by status and reason, such as
        /// `429 rejected-saturated`.
        public var refused: [String: Int] = [:]
        /// Requests that nobody answered, or whose answer broke off without a word.
        public var unanswered = 0
        /// Times from sending to the first token of those that were served, in milliseconds,
        /// ascending.
        public var timesToFirstToken: [Double] = []
        /// The same while the first band was alone; empty for the others.
        public var unloadedTimes: [Double] = []

        init(_ band: OverloadBand, _ outcomes: [Outcome]) {
            self.band = band
            requests = outcomes.count
            for outcome in outcomes {
                if outcome.failure == nil {
                    served += 1
                } else if outcome.isAnswered {
                    let reason = outcome.dropReason ?? (outcome.status == 200 ? "broken-off" : "-")
                    refused["\(outcome.status ?? 0) \(reason)", default: 0] += 1
                } else {
                    unanswered += 1
                }
            }
            timesToFirstToken = Self.times(outcomes)
        }

        static func times(_ outcomes: [Outcome]) -> [Double] {
            outcomes.filter { $0.failure == nil }
                .compactMap { $0.timeToFirstToken.map { $0.seconds * 1000 } }.sorted()
        }

        /// The 99th percentile under load as a multiple of the same without; nil if either is
        /// not known.
        public var slowdown: Double? {
            guard let loaded = timesToFirstToken.percentile(0.99),
                let unloaded = unloadedTimes.percentile(0.99)
            else { return nil }
            return loaded / unloaded
        }
    }

    /// The bands, the highest first.
    public var bands: [Band]
    /// Requests per second that the pool can serve.
    public var capacity: Double
    /// For how long requests came, in seconds.
    public var seconds: Double
    /// From when a request was due to when it was sent, in milliseconds: the 99th percentile. If it
    /// is no small part of the times to the first token, the client was too slow to be believed.
    public var lateness: Double
    /// The gateway's resident memory before the overload, in bytes; nil if it is not known.
    public var memoryBefore: Int?
    /// The most that it ever was, in bytes; nil if it is not known.
    public var peakMemory: Int?

    /// How slow the highest band may become.
    public static let slowdownGoal = 1.5

    /// Sums up the outcomes of `workload` and those of the first band alone.
    public init(
        bands: [OverloadBand], workload: Workload, outcomes: [Outcome], unloaded: [Outcome],
        capacity: Double, seconds: Double
    ) {
        var byBand = bands.map { _ in [Outcome]() }
        for (item, outcome) in zip(workload.items, outcomes) { byBand[item.band].append(outcome) }
        self.bands = zip(bands, byBand).map { Band($0, $1) }
        self.bands[0].unloadedTimes = Band.times(unloaded)
        self.capacity = capacity
        self.seconds = seconds
        lateness =
            outcomes.map { $0.lateness.seconds * 1000 }.sorted().percentile(0.99) ?? 0
    }

    /// Requests that nobody answered.
    public var unanswered: Int { bands.reduce(0) { $0 + $1.unanswered } }

    /// How many times what the pool can serve was asked for.
    public var overload: Double {
        Double(bands.reduce(0) { $0 + $1.requests }) / seconds / capacity
    }

    /// How many requests per second were served, as a part of what the pool can serve.
    public var goodput: Double {
        Double(bands.reduce(0) { $0 + $1.served }) / seconds / capacity
    }

    /// One JSON object on one line.
    public var json: String {
        var json = JSONWriter(capacity: 1024)
        func number(_ key: String, _ value: Double?) {
            json.key(key)
            if let value { json.double((value * 1e4).rounded() / 1e4) } else { json.null() }
        }
        func count(_ key: String, _ value: Int?) {
            json.key(key)
            if let value { json.int(value) } else { json.null() }
        }
        json.beginObject()
        number("capacity_per_s", capacity)
        number("seconds", seconds)
        number("overload", overload)
        number("goodput", goodput)
        number("slowdown_goal", Self.slowdownGoal)
        count("unanswered", unanswered)
        count("gateway_memory_before_bytes", memoryBefore)
        count("gateway_memory_peak_bytes", peakMemory)
        number("client_lateness_p99_ms", lateness)
        json.key("bands")
        json.beginArray()
        for band in bands {
            json.beginObject()
            json.member("band", band.band.name)
            json.member("priority", band.band.priority)
            json.member("requests", band.requests)
            json.member("served", band.served)
            json.key("refused")
            json.beginObject()
            for (reason, count) in band.refused.sorted(by: { $0.key < $1.key }) {
                json.member(reason, count)
            }
            json.endObject()
            json.member("unanswered", band.unanswered)
            number("ttft_p50_ms", band.timesToFirstToken.percentile(0.50))
            number("ttft_p99_ms", band.timesToFirstToken.percentile(0.99))
            number("unloaded_ttft_p50_ms", band.unloadedTimes.percentile(0.50))
            number("unloaded_ttft_p99_ms", band.unloadedTimes.percentile(0.99))
            number("slowdown", band.slowdown)
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }

    /// A table, for people.
    public var table: String {
        func milliseconds(_ value: Double?) -> String {
            value.map { fixed($0, places: 1) + " ms" } ?? "-"
        }
        let header = [
            "band", "priority", "requests", "served", "refused", "unanswered", "TTFT p50", "p99",
            "unloaded p50", "p99", "p99 / unloaded",
        ]
        let rows = bands.map { band in
            [
                band.band.name, "\(band.band.priority)", "\(band.requests)", "\(band.served)",
                "\(band.refused.values.reduce(0, +))", "\(band.unanswered)",
                milliseconds(band.timesToFirstToken.percentile(0.50)),
                milliseconds(band.timesToFirstToken.percentile(0.99)),
                milliseconds(band.unloadedTimes.percentile(0.50)),
                milliseconds(band.unloadedTimes.percentile(0.99)),
                band.slowdown.map { fixed($0, places: 2) } ?? "-",
            ]
        }
        var lines = [textTable([header] + rows), ""]
        for band in bands where !band.refused.isEmpty {
            let reasons = band.refused.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }
            lines.append("\(band.band.name) was refused: \(reasons.joined(separator: ", "))")
        }
        lines.append(
            "asked for \(fixed(overload, places: 2)) times, and served "
                + "\(fixed(goodput, places: 2)) of, \(fixed(capacity, places: 1)) requests/s, for "
                + "\(fixed(seconds, places: 0)) s")
        if let memoryBefore, let peakMemory {
            lines.append(
                "gateway memory: \(fixed(Double(memoryBefore) / 1e6, places: 1)) MB before, "
                    + "\(fixed(Double(peakMemory) / 1e6, places: 1)) MB at most")
        }
        lines.append("requests were sent \(fixed(lateness, places: 1)) ms late (p99)")
        return lines.joined(separator: "\n")
    }
}
