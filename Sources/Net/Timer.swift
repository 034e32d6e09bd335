internal import CNet
internal import Core

/// A body that a loop runs later, made by ``EventLoop/schedule(after:_:)`` and
/// ``EventLoop/schedule(every:_:)``. It lives until it fired for the last time, is cancelled, or
/// the loop ends, whether or not anybody holds it.
public final class Timer {
    private let isRepeating: Bool
    private var handle: OpaquePointer?
    private var body: (() -> Void)?

    init(
        on loop: EventLoop, after delay: Duration, every interval: Duration?,
        _ body: @escaping () -> Void
    ) {
        loop.preconditionInLoop()
        isRepeating = interval != nil
        self.body = body
        let user = Unmanaged.passRetained(self)
        let status = cn_timer_create(
            loop.handle, UInt64(max(0, delay.nanoseconds)),
            UInt64(max(isRepeating ? 1 : 0, interval?.nanoseconds ?? 0)),
            { user in
                Unmanaged<Timer>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue().fire()
            },
            { user in Unmanaged<Timer>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue().gone()
            },
            user.toOpaque(), &handle)
        precondition(status == CN_OK || status == CN_CANCELLED, "no memory for a timer")
        if status != CN_OK {
            // The loop is ending: the body never runs.
            self.body = nil
            user.release()
        }
    }

    /// Fires no more. On the loop; a second call does nothing.
    public func cancel() {
        guard let handle else { return }
        self.handle = nil
        cn_timer_destroy(handle)
    }

    private func fire() {
        let body = self.body
        if !isRepeating { cancel() }
        body?()
    }

    private func gone() {
        handle = nil
        body = nil
    }
}

/// Watches a file descriptor, made by ``EventLoop/watchReadable(_:_:)``. It lives until it is
/// cancelled or the loop ends, whether or not anybody holds it.
public final class FileWatcher {
    private var handle: OpaquePointer?
    private var body: (() -> Void)?

    init(on loop: EventLoop, _ fd: Int32, _ body: @escaping () -> Void) throws(NetError) {
        loop.preconditionInLoop()
        self.body = body
        let user = Unmanaged.passRetained(self)
        let status = cn_poll_create(
            loop.handle, fd,
            { user in
                Unmanaged<FileWatcher>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
                    .body?()
            },
            { user in
                Unmanaged<FileWatcher>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue().gone()
            },
            user.toOpaque(), &handle)
        guard status == CN_OK else {
            user.release()
            throw NetError(status)
        }
    }

    /// Watches no more; the descriptor may be closed afterwards. On the loop.
    public func cancel() {
        guard let handle else { return }
        gone()
        cn_poll_destroy(handle)
    }

    private func gone() {
        handle = nil
        body = nil
    }
}

/// Runs a body on a loop when the process gets one of some signals, in place of their default
/// action. It lives until it is cancelled or the loop ends, whether or not anybody holds it.
public final class SignalWatcher {
    private var handle: OpaquePointer?
    private var body: ((Int32) -> Void)?

    /// Starts to watch. On the loop.
    public init(_ signals: [Int32], on loop: EventLoop, _ body: @escaping (Int32) -> Void)
        throws(NetError)
    {
        loop.preconditionInLoop()
        self.body = body
        let user = Unmanaged.passRetained(self)
        let status = cn_signals_create(
            loop.handle, signals, signals.count,
            { user, number in
                Unmanaged<SignalWatcher>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
                    .body?(number)
            },
            { user in
                Unmanaged<SignalWatcher>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue()
                    .gone()
            },
            user.toOpaque(), &handle)
        guard status == CN_OK else {
            user.release()
            throw NetError(status)
        }
    }

    /// Gives the signals their default action back. On the loop.
    public func cancel() {
        guard let handle else { return }
        gone()
        cn_signals_destroy(handle)
    }

    private func gone() {
        handle = nil
        body = nil
    }
}
