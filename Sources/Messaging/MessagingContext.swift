import CZeroMQ
import Synchronization

/// What ZMQ sockets of one process share: the I/O thread and the `inproc` names.
///
/// Sockets keep their context alive; it ends after the last of them is closed. May be used from
/// any thread.
public final class MessagingContext: Sendable {
    // A ZMQ context may be used from every thread (zmq_ctx_new(3)), and the pointer never changes.
    nonisolated(unsafe) let pointer: UnsafeMutableRawPointer
    private let monitorCount = Atomic<Int>(0)

    /// Starts a context.
    ///
    /// - Parameter maximumSocketCount: how many sockets may be open at a time. An engine takes two
    ///   and one more during a replay.
    /// - Throws: ``MessagingError/system(operation:reason:)`` when the system is out of files.
    public init(maximumSocketCount: Int32 = 8192) throws(MessagingError) {
        guard let context = zmq_ctx_new() else { throw .last("start a context") }
        pointer = context
        guard zmq_ctx_set(context, ZMQ_MAX_SOCKETS, maximumSocketCount) == 0 else {
            throw .last("allow \(maximumSocketCount) sockets")
        }
    }

    deinit {
        // Returns at once: every socket held a reference to self and lingers for no time.
        zmq_ctx_term(pointer)
    }

    /// An `inproc` endpoint that no other socket of the context has.
    func uniqueMonitorEndpoint() -> String {
        "inproc://monitor-\(monitorCount.add(1, ordering: .relaxed).newValue)"
    }
}
