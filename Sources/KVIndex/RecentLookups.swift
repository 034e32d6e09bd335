import Synchronization

/// The prompts that were looked up lately, for someone who asks others about them in the meantime.
///
/// Nobody listens at first; noting a prompt costs one load then. Any thread.
public final class RecentLookups: Sendable {
    private struct State {
        var prompts: [[UInt64]] = []
        var arrived: (@Sendable () -> Void)?
    }

    /// Prompts that may wait; older ones make room.
    private static let maximumCount = 64

    private let isOpen = Atomic<Bool>(false)
    private let state = Mutex(State())
    private let droppedCount = Atomic<Int>(0)

    init() {}

    /// Starts to keep prompts. `arrived` is called, by whoever notes it, when a prompt comes while
    /// none waits; it must not block.
    public func open(_ arrived: @escaping @Sendable () -> Void) {
        state.withLock { $0.arrived = arrived }
        isOpen.store(true, ordering: .releasing)
    }

    /// Keeps no more prompts, and forgets those that wait.
    public func close() {
        isOpen.store(false, ordering: .relaxed)
        state.withLock { $0 = State() }
    }

    /// Notes that a prompt was looked up. Does not wait: while another thread notes one, or when
    /// too many wait, a prompt is dropped. Keeps `keys` as they are, without a copy.
    public func note(_ keys: [UInt64]) {
        guard isOpen.load(ordering: .acquiring), !keys.isEmpty else { return }
        let isFirst = state.withLockIfAvailable { state in
            if state.prompts.count == Self.maximumCount {
                state.prompts.removeFirst()
                droppedCount.add(1, ordering: .relaxed)
            }
            state.prompts.append(keys)
            return state.prompts.count == 1 ? state.arrived : nil
        }
        guard let isFirst else {
            droppedCount.add(1, ordering: .relaxed)
            return
        }
        isFirst?()
    }

    /// The prompts that wait, oldest first, by the request keys of their blocks; they wait no more.
    public func take() -> [[UInt64]] {
        state.withLock { state in
            defer { state.prompts = [] }
            return state.prompts
        }
    }

    /// Prompts that were dropped since this was asked last.
    public func takeDroppedCount() -> Int { droppedCount.exchange(0, ordering: .relaxed) }
}
