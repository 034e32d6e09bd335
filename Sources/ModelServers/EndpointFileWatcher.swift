import Configuration
import Core
public import Logging
public import Net

/// Keeps a pool, and what is said about requests, as a discovery file has them. Belongs to a loop.
///
/// The file is looked at every second. One that is missing or wrong changes nothing and is logged
/// once.
public final class EndpointFileWatcher {
    private let follower: FileFollower

    /// Makes a watcher that does not watch yet. Any thread.
    public init(path: String, pool: EndpointPool, logger: Logger) {
        follower = FileFollower([path]) {
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
    }

    /// Looks at the file now, and every `interval` from now on, until ``stop()`` or the end of the
    /// loop, whether or not anybody holds the watcher.
    public func start(on loop: EventLoop, every interval: Duration = .seconds(1)) {
        follower.start(on: loop, every: interval)
    }

    /// Watches no more.
    public func stop() {
        follower.stop()
    }

    /// Reads the file if it has changed since it was last read.
    package func poll() {
        follower.poll()
    }
}
