public import Transfer

/// Every figure that the simulated engine's time is made of, each with the place that published
/// it. They stand for Llama 3.1 8B on one H100 with one network card of its own.
///
/// The same figures hold for every routing policy under test: reports print ``table``, and no goal
/// is met by changing them.
public enum LatencyConstants {
    /// One published figure.
    public struct Constant: Sendable {
        /// What it is.
        public let name: String
        /// The figure, in `unit`.
        public let value: Double
        /// Its unit.
        public let unit: String
        /// Who published it and where.
        public let source: String
    }

    /// Prompt tokens that an engine computes in a second.
    public static let prefillTokensPerSecond = Constant(
        name: "prefill throughput", value: 34_590, unit: "tokens/s",
        source: "NVIDIA TensorRT-LLM 1.0, Performance Overview, Llama 3.1 8B FP8 on one H100, "
            + "5000/500: 3,459 output tokens/s are 6.918 prompts/s, while it decodes as well")

    /// Time from one token of a sequence to the next while nothing else runs.
    public static let interTokenLatency = Constant(
        name: "inter-token latency, 1 running", value: 4.63e-3, unit: "s",
        source: "NVIDIA NIM LLM benchmarking guide, Performance, Llama-3.1-8b-instruct 1.8.0: "
            + "ITL at concurrency 1")

    /// The same in a full batch.
    public static let interTokenLatencyUnderLoad = Constant(
        name: "inter-token latency, 250 running", value: 16.14e-3, unit: "s",
        source: "the same table: ITL at concurrency 250")

    /// Bytes of KV cache of one token.
    public static let kvBytesPerToken = Constant(
        name: "KV cache", value: 131_072, unit: "bytes/token",
        source: "Llama-3.1-8B config.json: K and V of 32 layers, 8 KV heads, 128 values of bf16")

    /// KV transfer between engines of one host through shared memory.
    public static let sharedMemoryBandwidth = Constant(
        name: "KV transfer, shared memory", value: 64e9, unit: "bytes/s",
        source: "NVIDIA H100 data sheet: PCIe Gen5, 128 GB/s in both directions together")

    /// KV transfer over TCP.
    public static let tcpBandwidth = Constant(
        name: "KV transfer, TCP", value: 9.06e9, unit: "bytes/s",
        source:
            "Mooncake, Transfer Engine README: TCP at 1/2.4 of 87 GB/s over 4 x 200 Gb/s; one card")

    /// The bandwidth that a transfer is timed by.
    public static func bandwidth(of path: TransferPath) -> Constant {
        switch path {
        case .memfd, .cma: sharedMemoryBandwidth
        case .tcp: tcpBandwidth
        }
    }

    /// All of them, in the order in which reports print them.
    public static let all = [
        prefillTokensPerSecond, interTokenLatency, interTokenLatencyUnderLoad, kvBytesPerToken,
        sharedMemoryBandwidth, tcpBandwidth,
    ]

    /// One line for each figure: name, value, unit, source.
    public static var table: String {
        all.map { "\($0.name): \($0.value.formatted) \($0.unit) (\($0.source))" }
            .joined(separator: "\n")
    }
}

extension Double {
    /// Whole numbers without a fraction.
    fileprivate var formatted: String {
        self == rounded() ? String(Int64(self)) : String(self)
    }
}
