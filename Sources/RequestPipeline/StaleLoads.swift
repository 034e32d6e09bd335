import Core
import Scheduling

extension ServerLoad {
    /// An older load says nothing of now: upstream's `--metrics-staleness-threshold`.
    private static let maximumAge = Duration.seconds(2)

    func isStale(at now: MonotonicTime) -> Bool {
        guard let scrapedAt else { return true }
        return now - scrapedAt > Self.maximumAge
    }
}

extension SchedulingContext {
    /// Gives endpoints whose load is stale the mean load of their kind, so that what is not known
    /// neither draws requests nor keeps them away.
    mutating func levelStaleLoads(at now: MonotonicTime) {
        // Endpoints that decode are busy in another way than those that only prefill.
        var decode = MeanLoad()
        var prefill = MeanLoad()
        var hasStale = false
        for index in endpoints.indices {
            if loads[index].isStale(at: now) {
                hasStale = true
            } else if endpoints[index].takesDecode {
                decode.add(loads[index], others: othersInFlight[index])
            } else {
                prefill.add(loads[index], others: othersInFlight[index])
            }
        }
        guard hasStale else { return }
        for index in loads.indices where loads[index].isStale(at: now) {
            let mean = endpoints[index].takesDecode ? decode : prefill
            mean.write(to: &loads[index], others: &othersInFlight[index])
        }
    }
}

/// The mean of what changes about loads; nothing to do if there is none.
private struct MeanLoad {
    private var count = 0
    private var waiting = 0
    private var running = 0
    private var kvUsage = 0.0
    private var others = 0

    mutating func add(_ load: ServerLoad, others: Int) {
        count += 1
        waiting += load.waitingCount
        running += load.runningCount
        kvUsage += load.kvUsage
        self.others += others
    }

    func write(to load: inout ServerLoad, others: inout Int) {
        let count = max(1, count)
        load.waitingCount = waiting / count
        load.runningCount = running / count
        load.kvUsage = kvUsage / Double(count)
        others = self.others / count
    }
}
