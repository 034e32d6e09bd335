public import Core
import KVIndex
import Messaging
import Scan

/// Checks this implementation against files of KV events; `Tests/Vectors/README.md` describes their
/// format.
public enum KVEventConformance {
    /// Checks all cases of a vector file, which is JSON.
    public static func check(_ file: [UInt8]) throws(VectorFileError) -> [ConformanceResult] {
        let root: JSONValue
        do {
            root = try JSONDocument.parse(file).root
        } catch {
            throw VectorFileError("no JSON: \(error)")
        }
        var results: [ConformanceResult] = []
        if let samples = root["samples"] {
            for sample in samples.elements {
                guard let name = sample["name"]?.string else {
                    throw VectorFileError("\(sample.path) has no name")
                }
                results.append(ConformanceResult(name: name) { try check(sample: sample) })
            }
        }
        if let captures = root["captured_from_vllm_publisher_code"] {
            for (release, capture) in captures.members {
                results += try check(capture: capture, of: release)
            }
        }
        guard !results.isEmpty else { throw VectorFileError("it has no KV events") }
        return results
    }

    // MARK: - Payloads

    private static func check(sample: JSONValue) throws -> String? {
        let payload = try bytes(sample, "hex")
        var batch = KVEventBatch()
        let problem = decode(payload, into: &batch)
        if let error = sample["error"]?.bool, error {
            return problem == nil ? "decoded, though it is malformed" : nil
        }
        if let problem { return problem }
        guard let expected = sample["decoded"] else {
            throw VectorFileError("\(sample.path) has neither decoded nor error")
        }
        let parts = Array(expected.elements)
        guard parts.count >= 2 else { throw VectorFileError("\(expected.path) is no batch") }
        let events = Array(parts[1].elements)
        let failure =
            difference("timestamp", batch.timestamp, parts[0].double ?? 0)
            ?? difference("rank", batch.dataParallelRank, parts.count > 2 ? parts[2].int : nil)
            ?? difference("events", batch.events.count, events.count)
        if let failure { return failure }
        for (index, (event, expected)) in zip(batch.events, events).enumerated() {
            let facts = EventFacts(event, in: batch)
            if let failure = try facts.difference(from: EventFacts(expecting: expected)) {
                return "event \(index): \(failure)"
            }
        }
        return nil
    }

    private static func difference<Value: Equatable>(
        _ what: String, _ ours: Value, _ expected: Value
    ) -> String? {
        ConformanceResult.difference(what, ours, expected)
    }

    // MARK: - Frames

    /// Live messages, a question for a replay, and its answer.
    private static func check(
        capture: JSONValue, of release: String
    ) throws(VectorFileError) -> [ConformanceResult] {
        var live: [UInt64: [[UInt8]]] = [:]
        var results: [ConformanceResult] = []
        var next: UInt64 = 0
        if let messages = capture["live"] {
            for (index, message) in messages.elements.enumerated() {
                let message = try frames(message)
                results.append(
                    ConformanceResult(name: "\(release) live \(index)") {
                        guard message.count == 3 else { return "\(message.count) frames, not 3" }
                        live[next] = message
                        let sequence = message[1].withUnsafeBytes(KVEventFrames.decode)
                        var batch = KVEventBatch()
                        return ConformanceResult.difference("sequence", sequence, next)
                            ?? decode(message[2], into: &batch)
                    })
                next += 1
            }
        }
        guard let answer = capture["replay_reply"] else { return results }
        let messages = try answer.elements.map { (value) throws(VectorFileError) in
            try frames(value)
        }
        var due: UInt64 = 0
        for (name, question) in capture.members where name.hasPrefix("replay_request_from_seq_") {
            due = UInt64(name.drop { !$0.isNumber }) ?? 0
            let last = try frames(question).last ?? []
            results.append(
                ConformanceResult(name: "\(release) replay request") {
                    ConformanceResult.difference("sequence", KVEventFrames.encode(due), last)
                })
        }
        for (index, message) in messages.enumerated() {
            results.append(
                ConformanceResult(name: "\(release) replay \(index)") {
                    defer { due += 1 }
                    return check(
                        reply: message, sequence: due, live: live[due],
                        isLast: index == messages.count - 1)
                })
        }
        return results
    }

    private static func check(
        reply message: [[UInt8]], sequence due: UInt64, live: [[UInt8]]?, isLast: Bool
    ) -> String? {
        let buffers = message.map { frame in
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: frame.count, alignment: 8)
            copy.copyBytes(from: frame)
            return UnsafeRawBufferPointer(copy)
        }
        defer { for buffer in buffers { buffer.deallocate() } }
        switch KVReplayReply(frameCount: buffers.count, frame: { buffers[$0] }) {
        case nil: return "no reply to a replay"
        case .end: return isLast ? nil : "ends before the last message"
        case .batch(let topic, let sequence, let payload):
            if isLast { return "the end is missing" }
            var batch = KVEventBatch()
            let failure =
                difference("sequence", sequence, due) ?? decode(Array(payload), into: &batch)
            guard failure == nil, let live else { return failure }
            return (topic.map { difference("topic", Array($0), live[0]) } ?? nil)
                ?? difference("payload", Array(payload), live[2])
        }
    }

    private static func frames(_ message: JSONValue) throws(VectorFileError) -> [[UInt8]] {
        var frames: [[UInt8]] = []
        for frame in message.elements {
            guard let hex = frame.string else {
                throw VectorFileError("\(frame.path) is no string in hexadecimal")
            }
            frames.append(try [UInt8](hex: hex))
        }
        return frames
    }

    private static func bytes(
        _ object: JSONValue, _ key: String
    ) throws(VectorFileError) -> [UInt8] {
        guard let hex = object[key]?.string else {
            throw VectorFileError("\(object.path) has no \(key)")
        }
        return try [UInt8](hex: hex)
    }

    /// What is wrong with a payload; nil if it could be decoded.
    private static func decode(_ payload: [UInt8], into batch: inout KVEventBatch) -> String? {
        payload.withUnsafeBytes { payload in
            do throws(KVIndexError) {
                try KVEventDecoder.decode(payload, into: &batch)
                return nil
            } catch {
                return "\(error)"
            }
        }
    }
}
