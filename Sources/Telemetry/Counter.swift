import Synchronization

/// A count that only grows. Any thread.
public final class Counter: Sendable {
    private let count = Atomic<UInt64>(0)

    init() {}

    /// Adds one.
    public func increment() { count.add(1, ordering: .relaxed) }

    /// Adds `amount`, which must not be negative.
    public func increment(by amount: Int) { count.add(UInt64(amount), ordering: .relaxed) }

    /// The count now.
    public var value: Int { Int(clamping: count.load(ordering: .relaxed)) }
}

/// A number that goes up and down. Any thread.
public final class Gauge: Sendable {
    private let number = AtomicDouble()

    init() {}

    /// Sets the value.
    public func set(_ value: Double) { number.store(value) }

    /// Adds `amount`.
    public func add(_ amount: Double) { number.add(amount) }

    /// Adds one.
    public func increment() { number.add(1) }

    /// Takes one away.
    public func decrement() { number.add(-1) }

    /// The value now.
    public var value: Double { number.load() }
}

/// A double in an atomic word.
struct AtomicDouble: ~Copyable, Sendable {
    private let bits = Atomic<UInt64>(0)

    func load() -> Double { Double(bitPattern: bits.load(ordering: .relaxed)) }

    func store(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }

    func add(_ amount: Double) {
        var old = bits.load(ordering: .relaxed)
        while true {
            let sum = Double(bitPattern: old) + amount
            let (exchanged, current) = bits.weakCompareExchange(
                expected: old, desired: sum.bitPattern, ordering: .relaxed)
            if exchanged { return }
            old = current
        }
    }
}
