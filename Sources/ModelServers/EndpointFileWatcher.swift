import Configuration
import Core
public import Logging
public import Net

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Keeps a pool, and what is said about requests, as a discovery file has them. Belongs to a loop.
///
/// The file is looked at every second; one that was replaced by a rename is noticed, too. A file
/// that is missing or wrong changes nothing and is logged once.
public final class EndpointFileWatcher {
    private struct Stamp: Equatable {
        var device: UInt
        var inode: UInt
        var seconds: Int
        var nanoseconds: Int
        var bytes: Int
    }

    private let path: String
    private let pool: EndpointPool
    private let logger: Logger
    /// What was read last; nil for a file that was not there.
    private var stamp: Stamp??
    private var timer: Timer?

    /// Makes a watcher that does not watch yet. Any thread.
    public init(path: String, pool: EndpointPool, logger: Logger) {
        self.path = path
        self.pool = pool
        self.logger = logger
    }

    /// Looks at the file now, and every `interval` from now on, until ``stop()`` or the end of the
    /// loop, whether or not anybody holds the watcher.
    public func start(on loop: EventLoop, every interval: Duration = .seconds(1)) {
        poll()
        timer = loop.schedule(every: interval) { self.poll() }
    }

    /// Watches no more.
    public func stop() {
        timer?.cancel()
        timer = nil
    }

    /// Reads the file if it has changed since it was last read.
    package func poll() {
        let current = currentStamp()
        guard current != stamp else { return }
        stamp = current
        do {
            let contents = try EndpointFile.contents(at: path)
            pool.update(contents.servers, rules: contents.rules)
            logger.info(
                "discovery file read",
                metadata: [
                    "endpoints": "\(contents.servers.count)",
                    "objectives": "\(contents.rules.objectives.count)",
                    "rewrites": "\(contents.rules.rewrites.count)",
                ])
        } catch {
            logger.error("discovery file kept out: \(error)")
        }
    }

    private func currentStamp() -> Stamp? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return Stamp(
            device: UInt(status.st_dev), inode: UInt(status.st_ino),
            seconds: status.st_mtim.tv_sec, nanoseconds: status.st_mtim.tv_nsec,
            bytes: Int(status.st_size))
    }
}
