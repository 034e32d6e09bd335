import CTransfer
import Core

/// Names a transfer within its engine.
public struct TransferID: Hashable, Sendable {
    let value: UInt64
}

/// Names a peer within the engine that connected to it.
public struct PeerID: Hashable, Sendable {
    let value: UInt64
}

/// Names an engine from its creation to its end. A restarted process has another.
public struct EngineID: Hashable, Sendable, CustomStringConvertible {
    let high: UInt64
    let low: UInt64

    init(_ id: ct_engine_id) {
        (high, low) = withUnsafeBytes(of: id.bytes) { bytes in
            (
                UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
                UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            )
        }
    }

    /// Parses 32 hexadecimal digits, as ``description`` prints them.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32, text.allSatisfy(\.isHexDigit),
            let high = UInt64(text.prefix(16), radix: 16),
            let low = UInt64(text.suffix(16), radix: 16)
        else { return nil }
        self.high = high
        self.low = low
    }

    /// 32 lower-case hexadecimal digits.
    public var description: String { Self.hex(high) + Self.hex(low) }

    private static func hex(_ word: UInt64) -> String {
        let digits = String(word, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    var cValue: ct_engine_id {
        var id = ct_engine_id()
        withUnsafeMutableBytes(of: &id.bytes) { bytes in
            bytes.storeBytes(of: high.bigEndian, as: UInt64.self)
            bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        return id
    }
}

/// How bytes travel to a peer.
public enum TransferPath: String, Hashable, Sendable, CaseIterable {
    /// Same host: the initiator maps the peer's pool and copies.
    case memfd
    /// Same host: the kernel copies between the two processes' memory.
    case cma
    /// Scatter and gather over sockets.
    case tcp

    var cValue: ct_path {
        switch self {
        case .memfd: ct_path(CT_PATH_MEMFD)
        case .cma: ct_path(CT_PATH_CMA)
        case .tcp: ct_path(CT_PATH_TCP)
        }
    }

    init?(_ path: ct_path) {
        guard let match = Self.allCases.first(where: { $0.cValue == path }) else { return nil }
        self = match
    }
}

/// The end of one transfer.
public struct Completion: Hashable, Sendable {
    /// What `read` or `write` returned.
    public var id: TransferID
    /// The other side.
    public var peer: PeerID
    /// Nil when every block arrived and the notification, if any, was delivered.
    public var error: TransferError?
    /// The path that carried it; nil when nothing travelled.
    public var path: TransferPath?
    /// Ascending positions in the block lists whose blocks are not known to be complete.
    public var failedBlocks: [Int]
    /// Of the blocks that are complete.
    public var byteCount: Int
    /// From submission to the end.
    public var elapsed: Duration
}

/// What happened on an engine's own thread. Each event is delivered once.
public enum TransferEvent: Hashable, Sendable {
    /// A transfer is final; its local blocks are the caller's again.
    case finished(Completion)
    /// A peer finished a transfer and sent these bytes with it.
    case notified(bytes: [UInt8], sender: EngineID)
    /// A connect succeeded: the peer's path and regions are known.
    case peerUp(PeerID, path: TransferPath)
    /// A connect failed or a peer was lost. Its transfers are final. It does not come back: connect
    /// again.
    case peerDown(PeerID, TransferError)
    /// A region over the caller's memory was released, and nothing touches that any more.
    case regionGone(RemoteRegion)

    init(_ event: ct_event) {
        switch event.kind {
        case ct_event_kind(CT_EVENT_TRANSFER):
            self = .finished(
                Completion(
                    id: TransferID(value: event.transfer_id),
                    peer: PeerID(value: event.peer_id),
                    error: TransferError(status: event.status),
                    path: TransferPath(event.path),
                    failedBlocks: UnsafeBufferPointer(
                        start: event.failed, count: Int(event.failed_count)
                    ).map(Int.init),
                    byteCount: Int(event.transferred_bytes),
                    elapsed: .nanoseconds(Int64(event.elapsed_ns))))
        case ct_event_kind(CT_EVENT_NOTIFICATION):
            self = .notified(
                bytes: Array(
                    UnsafeBufferPointer(
                        start: event.notification, count: event.notification_bytes)),
                sender: EngineID(event.sender))
        case ct_event_kind(CT_EVENT_PEER_UP):
            guard let path = TransferPath(event.path) else {
                preconditionFailure("a peer came up over path \(event.path)")
            }
            self = .peerUp(PeerID(value: event.peer_id), path: path)
        case ct_event_kind(CT_EVENT_PEER_DOWN):
            guard let error = TransferError(status: event.status) else {
                preconditionFailure("a peer went down without a reason")
            }
            self = .peerDown(PeerID(value: event.peer_id), error)
        case ct_event_kind(CT_EVENT_REGION_GONE):
            self = .regionGone(RemoteRegion(event.region))
        default:
            preconditionFailure("CTransfer delivered an event of kind \(event.kind)")
        }
    }
}
