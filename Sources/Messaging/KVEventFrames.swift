/// The framing of KV events as vLLM sends them: sequence numbers are 8 bytes, big-endian.
enum KVEventFrames {
    /// The sequence number of the frame that ends a replay.
    static let endOfReplay = UInt64.max

    static func encode(_ sequence: UInt64) -> [UInt8] {
        withUnsafeBytes(of: sequence.bigEndian) { Array($0) }
    }

    /// nil if the frame is not 8 bytes long.
    static func decode(_ frame: UnsafeRawBufferPointer) -> UInt64? {
        guard frame.count == MemoryLayout<UInt64>.size else { return nil }
        return UInt64(bigEndian: frame.loadUnaligned(as: UInt64.self))
    }
}

/// What a replay endpoint answers, in either framing: `"", sequence, payload` (vLLM up to 0.23)
/// or `"", topic, sequence, payload` (from 0.27, SGLang).
enum KVReplayReply {
    case batch(
        topic: UnsafeRawBufferPointer?, sequence: UInt64, payload: UnsafeRawBufferPointer)
    case end

    /// nil if the message has neither form.
    init?(_ message: ZMQMessage) {
        guard message.count == 3 || message.count == 4, message[0].isEmpty,
            let sequence = KVEventFrames.decode(message[message.count - 2])
        else { return nil }
        if sequence == KVEventFrames.endOfReplay {
            self = .end
        } else {
            self = .batch(
                topic: message.count == 4 ? message[1] : nil, sequence: sequence,
                payload: message[message.count - 1])
        }
    }
}
