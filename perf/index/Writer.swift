import Foundation
import KVIndex
import PerfSupport
import Synchronization

/// An engine more that stores and drops blocks, a million a second, on a thread of its own.
final class Writer: Sendable {
    private static let blocksPerSecond = 1e6

    private let isOver = Atomic<Bool>(false)
    private let finished = DispatchSemaphore(value: 0)
    private let rate = Mutex(0.0)

    init(_ index: KVIndex) {
        Thread.detachNewThread { [self] in
            run(index)
            finished.signal()
        }
    }

    /// Ends the thread; the blocks per second that it applied.
    func stop() -> Double {
        isOver.store(true, ordering: .relaxed)
        finished.wait()
        return rate.withLock(\.self)
    }

    private func run(_ index: KVIndex) {
        guard let engine = try? index.register("writer") else { return }
        var batch = KVEventBatch()
        let start = ContinuousClock.now
        var count = 0
        while !isOver.load(ordering: .relaxed) {
            let event = workload.events[count / Workload.blocksPerPrompt % workload.events.count]
            guard (try? event.decode(into: &batch)) != nil else { return }
            index.apply(batch, from: engine, model: "model")
            count += Workload.blocksPerPrompt
            let due = start + .seconds(Double(count) / Self.blocksPerSecond)
            while ContinuousClock.now < due, !isOver.load(ordering: .relaxed) { sched_yield() }
        }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        rate.withLock { $0 = Double(count) / seconds }
        index.remove(engine)
    }
}
