import Configuration
import Core
import FlowControl

/// A random source that a seed determines (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

func time(_ seconds: Double) -> MonotonicTime {
    MonotonicTime(nanoseconds: UInt64((1000 + seconds) * 1e9))
}

/// A pool of one endpoint that is `level` full.
func saturation(_ level: Double) -> PoolSaturation {
    var load = EndpointLoad(takesPrefill: false, takesDecode: true)
    load.inFlightCount = Int(level * 1000)
    var detector = ConcurrencyDetector()
    detector.maxConcurrency = 1000
    var pool = PoolSaturation()
    pool.add(load, by: detector, at: time(0))
    return pool
}

let open = saturation(0)
let full = saturation(1)
let empty = PoolSaturation()

extension FlowArrival {
    var id: FlowRequestID? {
        switch self {
        case .dispatched(let id), .queued(let id): id
        case .rejected: nil
        }
    }
    var isQueued: Bool { if case .queued = self { true } else { false } }
    var isDispatched: Bool { if case .dispatched = self { true } else { false } }
}

func request(
    _ fairnessID: String = "default-flow", priority: Int = 0, bytes: Int = 100, tokens: Int = 0,
    received: Double = 0, ttl: Duration? = nil, slo: Duration? = nil
) -> FlowRequest {
    FlowRequest(
        fairnessID: fairnessID, priority: priority, byteSize: bytes, promptTokenCount: tokens,
        receivedAt: time(received), timeToLive: ttl, ttftObjective: slo)
}

/// The policy of a type by its defaults, as if nothing was declared.
func standardPolicy(_ value: ConfigValue) throws(ConfigError) -> FlowPolicy {
    let type = try value.string()
    return try value.empty(path: type).section { (section) throws(ConfigError) in
        guard let policy = try FlowPolicy(type: type, parameters: &section) else {
            throw value.error(
                "names no plugin: '\(type)'; \(suggestion(for: type, among: FlowPolicy.types))")
        }
        return policy
    }
}

/// Queues behind a reference, whose mutating calls macros take.
final class Queues {
    private var queues: FlowQueues

    init(_ configuration: FlowControlConfiguration) {
        queues = FlowQueues(configuration, now: time(0))
    }

    var count: Int { queues.count }
    var byteCount: Int { queues.byteCount }
    var flowSizes: [(fairnessID: String, priority: Int, count: Int, byteCount: Int)] {
        queues.flowSizes
    }
    var priorities: [Int] { queues.bandUses.map(\.priority) }

    /// How many requests of a flow of priority 0 wait.
    func count(of fairnessID: String) -> Int {
        flowSizes.first { $0.fairnessID == fairnessID && $0.priority == 0 }?.count ?? 0
    }

    func fairnessID(of id: FlowRequestID) -> String { queues.flow(of: id).fairnessID }

    func enqueue(
        _ request: FlowRequest, _ saturation: PoolSaturation, at now: Double
    ) -> FlowArrival {
        queues.enqueue(request, saturation: saturation, now: time(now))
    }

    func dispatch(_ saturation: PoolSaturation, at now: Double) -> FlowRequestID? {
        queues.dispatch(saturation: saturation, now: time(now))
    }

    func expire(
        at now: Double, isPoolEmpty: Bool = false
    ) -> (id: FlowRequestID, rejection: FlowRejection)? {
        queues.expire(now: time(now), isPoolEmpty: isPoolEmpty)
    }

    func drain() -> FlowRequestID? { queues.drain() }

    @discardableResult
    func leave(_ id: FlowRequestID, service: Double? = nil, at now: Double) -> Bool {
        queues.leave(id, service: service, now: time(now))
    }

    func revoke(_ saturation: PoolSaturation, at now: Double) -> [FlowRequestID] {
        var ids: [FlowRequestID] = []
        queues.revoke(saturation: saturation, now: time(now), into: &ids)
        return ids
    }

    func attained(all: Bool, at now: Double) -> [AttainedService] {
        queues.takeAttainedServices(all: all, at: time(now))
    }

    func setOthers(_ services: [String: Double], at now: Double) {
        queues.setOthersService(
            Dictionary(
                uniqueKeysWithValues: services.map {
                    (FlowID(fairnessID: $0.key, priority: 0), $0.value)
                }), at: time(now))
    }

    func collectGarbage(at now: Double) { queues.collectGarbage(now: time(now)) }
}
