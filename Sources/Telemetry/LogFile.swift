internal import Dispatch
internal import Glibc
internal import Synchronization

/// Why a log file cannot be opened.
public struct LogFileError: Error, Equatable, Sendable, CustomStringConvertible {
    /// One line for people.
    public let description: String
}

/// Lines on their way to a file or to standard output. Whoever writes never waits: a thread of its
/// own writes what has gathered, and lines that find the buffer full are dropped and counted. Any
/// thread.
///
/// A file that was renamed or removed is opened anew by its name before the next line is written,
/// and at ``reopen()``.
public final class LogFile: Sendable {
    private struct State {
        var pending: [UInt8] = []
        var isWriting = false
        var mustReopen = false
    }

    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "log-file")
    private let sink: Sink
    private let limit: Int
    private let dropped: Counter

    /// Opens a file to append to, made if it is not there; `-` is standard output.
    ///
    /// - Parameters:
    ///   - dropped: Counts the lines that were lost.
    ///   - maximumPendingBytes: What may wait to be written.
    public init(
        path: String, dropped: Counter, maximumPendingBytes: Int = 4 << 20
    ) throws(LogFileError) {
        sink = try Sink(path: path)
        limit = maximumPendingBytes
        self.dropped = dropped
    }

    /// Adds a line, which ends in a line feed.
    public func write(_ line: [UInt8]) {
        let (isFirst, isDropped) = state.withLock { state in
            guard state.pending.count + line.count <= limit else { return (false, true) }
            state.pending.append(contentsOf: line)
            defer { state.isWriting = true }
            return (!state.isWriting, false)
        }
        if isDropped { dropped.increment() }
        if isFirst { queue.async { self.drain() } }
    }

    /// Has the file opened anew by its name before the next line is written.
    public func reopen() {
        state.withLock { $0.mustReopen = true }
    }

    /// Waits until what was written before has left this process, or `deadline` has passed.
    public func flush(within deadline: Duration) {
        let done = DispatchSemaphore(value: 0)
        queue.async { done.signal() }
        _ = done.wait(timeout: .now() + .milliseconds(Int(deadline / .milliseconds(1))))
    }

    private func drain() {
        while true {
            let (bytes, mustReopen) = state.withLock { state in
                defer {
                    state.isWriting = !state.pending.isEmpty
                    state.pending = []
                    state.mustReopen = false
                }
                return (state.pending, state.mustReopen)
            }
            if bytes.isEmpty { return }
            sink.follow(mustReopen: mustReopen)
            let written = sink.write(bytes)
            if written < bytes.count {
                let lost = bytes[written...].count { $0 == UInt8(ascii: "\n") }
                dropped.increment(by: lost)
            }
        }
    }
}

/// The file behind a log. Used on the queue of its log alone.
private final class Sink: @unchecked Sendable {
    // Proof for the annotation: after the initializer, only the serial queue of the log calls it.
    private let path: String
    private var descriptor: Int32
    /// Whether it breaks off amid a line, which the next one must not continue.
    private var isTorn = false

    init(path: String) throws(LogFileError) {
        self.path = path
        descriptor = path == "-" ? 1 : Self.open(path)
        guard descriptor >= 0 else {
            throw LogFileError(description: "\(path): \(String(cString: strerror(errno)))")
        }
    }

    deinit {
        if path != "-" { close(descriptor) }
    }

    /// Opens the file anew if its name no longer leads to it; keeps the old one if that fails.
    func follow(mustReopen: Bool) {
        guard path != "-", mustReopen || !isCurrent else { return }
        let new = Self.open(path)
        guard new >= 0 else { return }
        close(descriptor)
        descriptor = new
        isTorn = false
    }

    /// Returns the count of bytes that were written.
    func write(_ bytes: [UInt8]) -> Int {
        bytes.withUnsafeBytes { all in
            if isTorn, !writeAll("\n") { return 0 }
            var rest = all[...]
            while !rest.isEmpty {
                let count = Glibc.write(
                    descriptor, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
                if count > 0 {
                    rest = rest.dropFirst(count)
                } else if count < 0, errno == EINTR || (errno == EAGAIN && waitWritable()) {
                    continue
                } else {
                    break
                }
            }
            let written = all.count - rest.count
            if written > 0 { isTorn = all[written - 1] != UInt8(ascii: "\n") }
            return written
        }
    }

    private func writeAll(_ text: StaticString) -> Bool {
        Glibc.write(descriptor, text.utf8Start, text.utf8CodeUnitCount) == text.utf8CodeUnitCount
    }

    /// Standard output may be a pipe that somebody else made non-blocking.
    private func waitWritable() -> Bool {
        var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        return Glibc.poll(&poll, 1, 1000) > 0
    }

    private var isCurrent: Bool {
        var named = stat()
        var opened = stat()
        return stat(path, &named) == 0 && fstat(descriptor, &opened) == 0
            && named.st_dev == opened.st_dev && named.st_ino == opened.st_ino
    }

    private static func open(_ path: String) -> Int32 {
        Glibc.open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o640)
    }
}
