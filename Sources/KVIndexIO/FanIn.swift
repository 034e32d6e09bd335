import Messaging
import Telemetry

/// The socket that engines connect to, and which of them a batch is from. Loop-bound.
final class FanIn {
    /// By what a topic may call an engine: the server's address or its name.
    var servers: [String: EngineRanks] = [:]

    private let metrics: KVIndexMetrics
    private var subscriber: KVEventSubscriber?

    init(metrics: KVIndexMetrics) {
        self.metrics = metrics
    }

    /// The endpoint as bound, once it is.
    var endpoint: String? { subscriber?.endpoint }

    func listen(at endpoint: String, _ environment: EngineStream.Environment) throws(MessagingError)
    {
        subscriber = try KVEventSubscriber(
            context: environment.context, on: environment.loop, mode: .bind(endpoint),
            configuration: environment.configuration.subscription
        ) { [weak self] event in self?.received(event) }
    }

    func close() {
        subscriber?.close()
        subscriber = nil
        servers = [:]
    }

    private func received(_ event: KVEventSubscriber.Event) {
        switch event {
        case .batch(let topic, let sequence, let payload):
            guard let engine = EventTopic(topic).engine, let ranks = servers[engine] else {
                metrics.unknownEngines.increment()
                return
            }
            ranks.received(topic: topic, sequence: sequence, payload: payload)
        case .connected, .disconnected: break
        case .malformed: metrics.zmqErrors.increment()
        }
    }
}
