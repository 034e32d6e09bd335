import Scan
import Scheduling

/// What the latency predictor of llm-d goes by: the state of an endpoint, and the request. Names
/// and their order are those of llm-d-router's client (`latencypredictorclient/types.go`).
struct LatencyFeatures: Equatable, Sendable {
    /// 0 to 1.
    var kvUsage = 0.0
    var promptTokens = 0
    var waitingCount = 0
    var runningCount = 0
    /// The share of the prompt that is cached, 0 to 1.
    var prefixScore = 0.0
    var encoderInputSize = 0
    var encoderMatchedSize = 0
    /// The endpoint's role; empty if roles are not told.
    var role = ""
    var prefillTokensInFlight = 0
}

/// What a request took, and what was predicted.
struct LatencySample: Sendable {
    var features: LatencyFeatures
    /// 0 where the other is told.
    var ttftMilliseconds = 0.0
    var tpotMilliseconds = 0.0
    var predictedTTFT: Double?
    var predictedTPOT: Double?
    /// RFC 3339.
    var timestamp: String
}

enum LatencyPredictorMessages {
    /// The body of `POST /predict/bulk/strict`.
    static func question(_ rows: some Collection<LatencyFeatures>) -> [UInt8] {
        var json = JSONWriter(capacity: 64 + 320 * rows.count)
        json.beginObject()
        json.key("requests")
        json.beginArray()
        for row in rows {
            json.beginObject()
            load(row, generated: 1, to: &json)
            json.number("prefix_cache_score", row.prefixScore)
            encoder(row, to: &json)
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return json.bytes
    }

    /// The body of `POST /add_training_data_bulk`.
    static func training(_ samples: some Collection<LatencySample>) -> [UInt8] {
        var json = JSONWriter(capacity: 64 + 480 * samples.count)
        json.beginObject()
        json.key("entries")
        json.beginArray()
        for sample in samples {
            json.beginObject()
            load(sample.features, generated: 0, to: &json)
            json.number("actual_ttft_ms", sample.ttftMilliseconds)
            json.number("actual_tpot_ms", sample.tpotMilliseconds)
            if let ttft = sample.predictedTTFT { json.number("predicted_ttft_ms", ttft) }
            if let tpot = sample.predictedTPOT { json.number("predicted_tpot_ms", tpot) }
            json.number("prefix_cache_score", sample.features.prefixScore)
            encoder(sample.features, to: &json)
            json.member("timestamp", sample.timestamp)
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return json.bytes
    }

    /// Reads the answer to ``question(_:)``; nil unless it has a prediction for each of `count`
    /// rows.
    static func predictions(_ body: [UInt8], count: Int) -> [LatencyPrediction]? {
        guard let root = try? JSONDocument.parse(body).root,
            (root["failed_predictions"]?.int ?? 0) == 0, let list = root["predictions"]
        else { return nil }
        var predictions: [LatencyPrediction] = []
        predictions.reserveCapacity(count)
        for element in list.elements {
            guard let ttft = element["ttft_ms"]?.double, let tpot = element["tpot_ms"]?.double
            else { return nil }
            predictions.append(
                LatencyPrediction(ttftMilliseconds: ttft, tpotMilliseconds: tpot))
        }
        return predictions.count == count ? predictions : nil
    }

    private static func load(_ row: LatencyFeatures, generated: Int, to json: inout JSONWriter) {
        json.number("kv_cache_percentage", row.kvUsage)
        json.member("input_token_length", row.promptTokens)
        json.member("num_request_waiting", row.waitingCount)
        json.member("num_request_running", row.runningCount)
        json.member("num_tokens_generated", generated)
    }

    private static func encoder(_ row: LatencyFeatures, to json: inout JSONWriter) {
        json.member("encoder_input_size", row.encoderInputSize)
        json.member("encoder_matched_size", row.encoderMatchedSize)
        if !row.role.isEmpty { json.member("pod_type", row.role) }
        json.member("prefill_tokens_in_flight", row.prefillTokensInFlight)
        // Upstream's router does not tell these either.
        json.member("decode_tokens_in_flight", 0)
    }
}

extension JSONWriter {
    /// Writes a number without a fraction if it has none.
    fileprivate mutating func number(_ key: String, _ value: Double) {
        if let whole = Int(exactly: value) {
            member(key, whole)
        } else {
            member(key, value)
        }
    }
}
