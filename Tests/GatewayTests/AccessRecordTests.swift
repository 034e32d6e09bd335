import Foundation
import Gateway
import Testing

@Suite struct AccessRecordTests {
    private func object(_ record: AccessRecord) throws -> [String: Any] {
        let line = record.line(at: "2026-01-31T12:00:00.000Z")
        #expect(line.last == UInt8(ascii: "\n") && line.count { $0 == UInt8(ascii: "\n") } == 1)
        let object = try JSONSerialization.jsonObject(with: Data(line))
        return try #require(object as? [String: Any])
    }

    @Test func tellsWhatIsKnown() throws {
        var record = AccessRecord(method: "POST", path: "/v1/completions")
        #expect(
            Set(try object(record).keys) == [
                "time", "request_id", "method", "path", "bytes_in", "bytes_out", "duration_ms",
            ])
        record.requestID = "id"
        record.model = "m"
        record.status = 200
        record.endpoint = "decode-0"
        record.prefill = "prefill-0"
        record.firstByte = .microseconds(12_034)
        record.duration = .seconds(2)
        record.promptTokens = 7
        record.reason = "timeout"
        let found = try object(record)
        #expect(found["time"] as? String == "2026-01-31T12:00:00.000Z")
        #expect(found["status"] as? Int == 200)
        #expect(found["first_byte_ms"] as? Double == 12.034)
        #expect(found["duration_ms"] as? Double == 2000)
        #expect(found["prompt_tokens"] as? Int == 7)
        #expect(found["endpoint"] as? String == "decode-0")
        #expect(found["prefill"] as? String == "prefill-0")
        #expect(found["reason"] as? String == "timeout")
    }

    @Test func whatClientsSayStaysInItsField() throws {
        var record = AccessRecord(method: "POST", path: "/\",\"status\":200,\"x\":\"\n{")
        record.model = String(repeating: "ä", count: 10_000) + "\u{0}"
        let found = try object(record)
        #expect(found["status"] == nil)
        #expect(found["path"] as? String == "/\",\"status\":200,\"x\":\"\n{")
        #expect((found["model"] as? String)?.utf8.count == AccessRecord.maximumTextBytes)
    }
}
