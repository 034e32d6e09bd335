import Core

/// How long the simulated accelerator takes: prefill, decode steps and KV transfers.
///
/// The formulas are those of llm-d-inference-sim: a prefill takes an overhead and a time for each
/// uncached token; a step takes the inter-token latency times the load factor
/// `1 + (factor - 1) * (running - 1) / (maximum - 1)`. Times vary by `jitter`, a standard deviation
/// as a share of the mean, never by more than 70 %. All is determined by the seed and the order of
/// calls.
public struct LatencyModel: Sendable {
    /// The figures; by default those of ``LatencyConstants``.
    public struct Parameters: Equatable, Sendable {
        /// Prompt tokens computed in a second.
        public var prefillTokensPerSecond = LatencyConstants.prefillTokensPerSecond.value
        /// What a prefill takes beside its tokens: a pass of the model reads every weight once, as
        /// a decode step of one sequence does.
        public var prefillOverhead = Duration(seconds: LatencyConstants.interTokenLatency.value)
        /// Time between two tokens of a sequence that runs alone.
        public var interTokenLatency = Duration(seconds: LatencyConstants.interTokenLatency.value)
        /// How many times as long a step takes with every place of the batch taken.
        public var timeFactorUnderLoad =
            LatencyConstants.interTokenLatencyUnderLoad.value
            / LatencyConstants.interTokenLatency.value
        /// The time to read an adapter's weights into host memory. Nobody published one, so none
        /// is reckoned with unless it is given.
        public var adapterLoad = Duration.zero
        /// Standard deviation as a share of the mean, 0 to 0.3.
        public var jitter = 0.0
        /// Bytes of KV cache for each token, as a transfer is timed by; the pool's blocks are
        /// smaller stand-ins.
        public var kvBytesPerToken = LatencyConstants.kvBytesPerToken.value

        /// The published figures.
        public init() {}
    }

    private let parameters: Parameters
    private let maxRunning: Int
    private var generator: SeededGenerator

    /// Makes a model for a batch of at most `maxRunning` sequences.
    public init(_ parameters: Parameters, maxRunning: Int, seed: UInt64) {
        self.parameters = parameters
        self.maxRunning = maxRunning
        generator = SeededGenerator(seed: seed)
    }

    /// How many times as long a decode step takes with `running` sequences in the batch.
    public func loadFactor(running: Int) -> Double {
        guard maxRunning > 1, running > 1 else { return 1 }
        return 1 + (parameters.timeFactorUnderLoad - 1) * Double(running - 1)
            / Double(maxRunning - 1)
    }

    /// The time to compute `tokens` prompt tokens.
    public mutating func prefill(tokens: Int) -> Duration {
        varied(
            parameters.prefillOverhead.seconds
                + Double(tokens) / parameters.prefillTokensPerSecond)
    }

    /// The time of a decode step with `running` sequences in the batch.
    public mutating func step(running: Int) -> Duration {
        varied(parameters.interTokenLatency.seconds * loadFactor(running: running))
    }

    /// The time to read an adapter's weights into host memory.
    public var adapterLoad: Duration { parameters.adapterLoad }

    /// The time to move the KV cache of `tokens` tokens at `bandwidth` bytes per second.
    public func transfer(tokens: Int, bandwidth: Double) -> Duration {
        Duration(seconds: Double(tokens) * parameters.kvBytesPerToken / bandwidth)
    }

    private mutating func varied(_ mean: Double) -> Duration {
        guard parameters.jitter > 0 else { return Duration(seconds: mean) }
        let deviation = min(max(generator.nextNormal() * parameters.jitter, -0.7), 0.7)
        return Duration(seconds: mean * (1 + deviation))
    }
}
