import Core
import Net
import Relay
import SchedulingPlugins
import Telemetry

/// Tells a latency predictor what requests took.
enum LatencyTraining {
    /// Posts the samples of producers from now on.
    static func start(
        _ producers: [PredictedLatencyProducer], on loop: EventLoop, registry: MetricsRegistry
    ) {
        guard !producers.isEmpty else { return }
        let posted = registry.counter(
            "llmd_latency_samples_total", "Samples that were posted to the latency predictor.")
        registry.counter(
            "llmd_latency_samples_dropped_total", "Samples that found no room in a post."
        ) { Double(producers.reduce(0) { $0 + $1.droppedSampleCount }) }
        let failures = registry.counter(
            "llmd_latency_training_failures_total",
            "Posts of samples that the latency predictor did not accept.")
        for producer in producers {
            // Its timer holds what it needs; it ends with the loop.
            _ = PeriodicPost(every: producer.trainingInterval, on: loop) {
                guard let (question, count) = producer.takeTraining() else { return nil }
                posted.increment(by: count)
                return question
            } ended: { outcome in
                if case .answered(200..<300, _) = outcome { return }
                failures.increment()
            }
        }
    }
}
