#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Musl)
    internal import Musl
#endif

/// Calls a body when one of some files has changed. Belongs to a loop.
///
/// The files are looked at by time; one that was replaced by a rename is noticed, too.
public final class FileFollower {
    private struct Stamp: Equatable {
        var device: UInt
        var inode: UInt
        var seconds: Int
        var nanoseconds: Int
        var bytes: Int
    }

    private let paths: [String]
    private let onChange: () -> Void
    /// What was seen last, with nil for a file that was not there; nil before the first look.
    private var stamps: [Stamp?]?
    private var timer: Timer?

    /// Makes a follower that does not look yet. Any thread.
    public init(_ paths: [String], onChange: @escaping () -> Void) {
        self.paths = paths
        self.onChange = onChange
    }

    /// Looks now, and every `interval` from now on, until ``stop()`` or the end of the loop,
    /// whether or not anybody holds the follower. The first look counts as a change.
    public func start(on loop: EventLoop, every interval: Duration = .seconds(1)) {
        poll()
        timer = loop.schedule(every: interval) { self.poll() }
    }

    /// Looks no more.
    public func stop() {
        timer?.cancel()
        timer = nil
    }

    /// Looks now.
    public func poll() {
        let current = paths.map(Self.stamp)
        guard current != stamps else { return }
        stamps = current
        onChange()
    }

    /// Takes the files as changed. On the loop.
    public func reread() {
        stamps = nil
        poll()
    }

    private static func stamp(of path: String) -> Stamp? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return Stamp(
            device: UInt(status.st_dev), inode: UInt(status.st_ino),
            seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec,
            bytes: Int(status.st_size))
    }
}
