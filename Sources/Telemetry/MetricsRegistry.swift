import Synchronization

/// The metrics of one process, as `/metrics` shows them. Any thread.
///
/// Registering a name twice, or one that Prometheus does not allow, ends the process: it is a
/// mistake of the program that its first start shows.
public final class MetricsRegistry: Sendable {
    /// The content type of ``exposition()``.
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"
    /// How many label sets a family holds unless it is told otherwise.
    public static let defaultLimit = 1000

    private typealias Write = @Sendable (inout Exposition) -> Void
    private let metrics = Mutex<[String: Write]>([:])

    /// A registry without metrics.
    public init() {}

    /// Registers a counter. Its name should end in `_total`.
    public func counter(_ name: String, _ help: String) -> Counter {
        let counter = Counter()
        register(name, help, .counter) { $0.sample(name, "", Double(counter.value)) }
        return counter
    }

    /// Registers a gauge.
    public func gauge(_ name: String, _ help: String) -> Gauge {
        let gauge = Gauge()
        register(name, help, .gauge) { $0.sample(name, "", gauge.value) }
        return gauge
    }

    /// Registers a histogram with the upper `bounds` of its buckets.
    public func histogram(_ name: String, _ help: String, bounds: [Double]) -> Histogram {
        let histogram = Histogram(bounds: bounds)
        register(name, help, .histogram) { $0.histogram(name, "", histogram) }
        return histogram
    }

    /// Registers counters that differ by labels.
    public func counters(
        _ name: String, _ help: String, labels: [String], limit: Int = defaultLimit
    ) -> Family<Counter> {
        let family = Family(labels: labels, limit: limit) { Counter() }
        register(name, help, .counter) { page in
            for (labels, counter) in family.sorted {
                page.sample(name, labels, Double(counter.value))
            }
        }
        return family
    }

    /// Registers gauges that differ by labels.
    public func gauges(
        _ name: String, _ help: String, labels: [String], limit: Int = defaultLimit
    ) -> Family<Gauge> {
        let family = Family(labels: labels, limit: limit) { Gauge() }
        register(name, help, .gauge) { page in
            for (labels, gauge) in family.sorted { page.sample(name, labels, gauge.value) }
        }
        return family
    }

    /// Registers histograms that differ by labels.
    public func histograms(
        _ name: String, _ help: String, labels: [String], bounds: [Double],
        limit: Int = defaultLimit
    ) -> Family<Histogram> {
        let family = Family(labels: labels, limit: limit) { Histogram(bounds: bounds) }
        register(name, help, .histogram) { page in
            for (labels, histogram) in family.sorted { page.histogram(name, labels, histogram) }
        }
        return family
    }

    /// Registers a gauge whose value is read for each exposition, on the thread that asks for it.
    public func gauge(
        _ name: String, _ help: String, read: @escaping @Sendable () -> Double
    ) {
        register(name, help, .gauge) { $0.sample(name, "", read()) }
    }

    /// Registers a counter whose value is read for each exposition, on the thread that asks for
    /// it.
    public func counter(
        _ name: String, _ help: String, read: @escaping @Sendable () -> Double
    ) {
        register(name, help, .counter) { $0.sample(name, "", read()) }
    }

    /// Registers gauges whose label values and values are read for each exposition, on the thread
    /// that asks for it; for things that come and go, such as endpoints.
    public func gauges(
        _ name: String, _ help: String, labels: [String],
        read: @escaping @Sendable () -> [(labels: [String], value: Double)]
    ) {
        register(name, help, .gauge) { page in
            let samples = read().map { (labelText(labels, $0.labels), $0.value) }
            for (labels, value) in samples.sorted(by: { $0.0 < $1.0 }) {
                page.sample(name, labels, value)
            }
        }
    }

    /// The page of all metrics: names in order, series of a name in order of their labels.
    public func exposition() -> [UInt8] {
        // Not under the lock: a callback may be slow, or register.
        let metrics = self.metrics.withLock { $0 }.sorted { $0.key < $1.key }
        var page = Exposition()
        for (_, write) in metrics { write(&page) }
        return page.bytes
    }

    private func register(
        _ name: String, _ help: String, _ kind: Exposition.Kind, _ samples: @escaping Write
    ) {
        // Not `precondition`, which drops its message from release builds.
        guard isMetricName(name) else { fatalError("bad metric name '\(name)'") }
        metrics.withLock { metrics in
            guard metrics[name] == nil else { fatalError("metric '\(name)' is registered twice") }
            let header = Exposition.header(name, help, kind)
            metrics[name] = { page in
                page.append(header)
                samples(&page)
            }
        }
    }
}
