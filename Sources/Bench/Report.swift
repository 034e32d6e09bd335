import Core
import Scan

/// What a replay measured under one policy. Prints as one line of JSON or one row of a table.
public struct Report: Sendable {
    /// The policy, or the address of a server that was there already.
    public var policy: String
    /// Requests sent.
    public var requests: Int
    /// Requests that failed.
    public var errors: Int
    /// Prompt tokens that no engine computed, of all prompt tokens; nil if the engines' metrics
    /// could not be read. KV that a decode engine pulled from a prefill engine is no hit.
    public var prefixHitRatio: Double?
    /// The same of one infinite cache.
    public var idealHitRatio: Double
    /// Times from sending to the first token, in milliseconds, ascending.
    public var timesToFirstToken: [Double]
    /// Times from sending to the end, in milliseconds, ascending.
    public var durations: [Double]
    /// From the first sending to the last end.
    public var seconds: Double
    /// Generated tokens.
    public var outputTokens: Int
    /// KV transfers between engines; nil if the engines' metrics could not be read.
    public var kvTransfers: Int?
    /// Bytes of those transfers.
    public var kvBytes: Int?
    /// The factor of input lengths.
    public var scale: Double
    /// The factor of the trace's clock.
    public var speedup: Double

    /// Sums up the outcomes of a replay; what the engines counted is set by the caller.
    public init(
        policy: String, workload: Workload, outcomes: [Outcome], duration: Duration,
        blockSize: Int
    ) {
        self.policy = policy
        requests = outcomes.count
        let completed = outcomes.filter { $0.failure == nil }
        errors = outcomes.count - completed.count
        idealHitRatio = workload.idealHitRatio(blockSize: blockSize)
        timesToFirstToken =
            completed.compactMap { $0.timeToFirstToken.map { $0.seconds * 1000 } }.sorted()
        durations = completed.map { $0.duration.seconds * 1000 }.sorted()
        seconds = duration.seconds
        outputTokens = completed.reduce(0) { $0 + $1.completionTokens }
        scale = workload.scale
        speedup = workload.speedup
    }

    /// One JSON object on one line.
    public var json: String {
        var json = JSONWriter(capacity: 512)
        func number(_ key: String, _ value: Double?) {
            json.key(key)
            if let value { json.double((value * 1e4).rounded() / 1e4) } else { json.null() }
        }
        func count(_ key: String, _ value: Int?) {
            json.key(key)
            if let value { json.int(value) } else { json.null() }
        }
        json.beginObject()
        json.member("policy", policy)
        json.member("requests", requests)
        json.member("errors", errors)
        number("prefix_hit_ratio", prefixHitRatio)
        number("ideal_hit_ratio", idealHitRatio)
        number("ttft_p50_ms", timesToFirstToken.percentile(0.50))
        number("ttft_p90_ms", timesToFirstToken.percentile(0.90))
        number("ttft_p99_ms", timesToFirstToken.percentile(0.99))
        number("e2e_p50_ms", durations.percentile(0.50))
        number("e2e_p99_ms", durations.percentile(0.99))
        number("requests_per_s", Double(requests - errors) / seconds)
        number("output_tokens_per_s", Double(outputTokens) / seconds)
        count("kv_transfers", kvTransfers)
        count("kv_bytes", kvBytes)
        number("scale", scale)
        number("speedup", speedup)
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }

    /// A table of several reports, for people.
    public static func table(_ reports: [Report]) -> String {
        let header = [
            "policy", "requests", "errors", "hit ratio", "of ideal", "TTFT p50", "p90", "p99",
            "E2E p50", "p99", "req/s", "tok/s", "KV moves", "KV GB",
        ]
        let rows = reports.map { report in
            [
                report.policy, "\(report.requests)", "\(report.errors)",
                report.prefixHitRatio.map { percent($0) } ?? "-",
                report.prefixHitRatio.map { percent($0 / report.idealHitRatio) } ?? "-",
                milliseconds(report.timesToFirstToken.percentile(0.50)),
                milliseconds(report.timesToFirstToken.percentile(0.90)),
                milliseconds(report.timesToFirstToken.percentile(0.99)),
                milliseconds(report.durations.percentile(0.50)),
                milliseconds(report.durations.percentile(0.99)),
                fixed(Double(report.requests - report.errors) / report.seconds, places: 1),
                fixed(Double(report.outputTokens) / report.seconds, places: 0),
                report.kvTransfers.map { "\($0)" } ?? "-",
                report.kvBytes.map { fixed(Double($0) / 1e9, places: 2) } ?? "-",
            ]
        }
        return textTable([header] + rows)
    }

    private static func percent(_ value: Double) -> String {
        value.isFinite ? fixed(value * 100, places: 1) + " %" : "-"
    }

    private static func milliseconds(_ value: Double?) -> String {
        value.map { fixed($0, places: 0) + " ms" } ?? "-"
    }
}

/// Rows of as many cells each, the first column to the left, the others to the right.
func textTable(_ rows: [[String]]) -> String {
    let widths = (rows.first ?? []).indices.map { column in
        rows.map { $0[column].count }.max() ?? 0
    }
    return rows.map { row in
        zip(row, widths).enumerated().map { column, cell in
            let padding = String(repeating: " ", count: cell.1 - cell.0.count)
            return column == 0 ? cell.0 + padding : padding + cell.0
        }.joined(separator: "  ")
    }.joined(separator: "\n")
}
