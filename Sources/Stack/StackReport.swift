import Scan

extension StackMetrics {
    /// The state as one line for a terminal.
    public var line: String {
        let hit = prefixHitRatio.map { "\(Int(($0 * 100).rounded())) %" } ?? "-"
        let queue = engines.values.reduce(0) { $0 + $1.waiting }
        let running = engines.values.reduce(0) { $0 + $1.running }
        let usage = engines.sorted { $0.key < $1.key }.map { name, engine in
            "\(name) \(Int((engine.kvUsage * 100).rounded())) %"
        }
        return "requests \(requests)  running \(running)  queue \(queue)  hit ratio \(hit)  "
            + "KV: \(usage.joined(separator: ", "))"
    }

    /// The state as one line of JSON, `"event":"state"`.
    public var json: String {
        var json = JSONWriter(capacity: 512)
        json.beginObject()
        json.member("event", "state")
        json.member("requests", requests)
        json.member("prompt_tokens", promptTokens)
        json.member("prefix_hit_ratio", prefixHitRatio ?? 0)
        json.key("engines")
        json.beginObject()
        for (name, engine) in engines.sorted(by: { $0.key < $1.key }) {
            json.key(name)
            json.beginObject()
            json.member("running", engine.running)
            json.member("waiting", engine.waiting)
            json.member("kv_usage", engine.kvUsage)
            json.member("kv_transfers", engine.transfers)
            json.member("kv_bytes", engine.transferredBytes)
            json.endObject()
        }
        json.endObject()
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }
}
