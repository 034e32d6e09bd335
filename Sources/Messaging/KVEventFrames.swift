/// The framing of KV events as vLLM sends them: sequence numbers are 8 bytes, big-endian.
package enum KVEventFrames {
    /// The sequence number of the frame that ends a replay.
    package static let endOfReplay = UInt64.max

    package static func encode(_ sequence: UInt64) -> [UInt8] {
        withUnsafeBytes(of: sequence.bigEndian) { Array($0) }
    }

    /// nil if the frame is not 8 bytes long.
    package static func decode(_ frame: UnsafeRawBufferPointer) -> UInt64? {
        guard frame.count == MemoryLayout<UInt64>.size else { return nil }
        return UInt64(bigEndian: frame.loadUnaligned(as: UInt64.self))
    }
}

/// What a replay endpoint answers, in either framing: `"", sequence, payload` (vLLM up to 0.23)
/// or `"", topic, sequence, payload` (from 0.27, SGLang).
package enum KVReplayReply {
    case batch(
        topic: UnsafeRawBufferPointer?, sequence: UInt64, payload: UnsafeRawBufferPointer)
    case end

    init?(_ message: ZMQMessage) {
        self.init(frameCount: message.count) { message[$0] }
    }

    /// nil if the frames have neither form.
    package init?(frameCount: Int, frame: (Int) -> UnsafeRawBufferPointer) {
        guard frameCount == 3 || frameCount == 4, frame(0).isEmpty,
            let sequence = KVEventFrames.decode(frame(frameCount - 2))
        else { return nil }
        if sequence == KVEventFrames.endOfReplay {
            self = .end
        } else {
            self = .batch(
                topic: frameCount == 4 ? frame(1) : nil, sequence: sequence,
                payload: frame(frameCount - 1))
        }
    }
}
