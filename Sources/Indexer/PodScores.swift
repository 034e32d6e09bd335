public import Net

/// `indexer.v1.GetPodScoresRequest`, of llm-d's `api/indexerpb/indexer.proto`.
public struct PodScoresRequest: Equatable, Sendable {
    /// The text that a completion would be asked for.
    public var prompt = ""
    /// The model, or the adapter.
    public var model = ""
    /// Who is asked about; empty: all.
    public var pods: [String] = []

    /// Reads a message: prompt=1, model_name=2, pod_identifiers=3. Fields that it does not know
    /// are passed over.
    public init(decoding bytes: UnsafeRawBufferPointer) throws(ProtobufError) {
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let text)): prompt = try Self.string(text, "prompt")
            case (2, .bytes(let text)): model = try Self.string(text, "model_name")
            case (3, .bytes(let text)): pods.append(try Self.string(text, "pod_identifiers"))
            case (1...3, _): throw ProtobufError(problem: "has no string in field \(field.number)")
            default: break
            }
        }
    }

    private static func string(
        _ bytes: UnsafeRawBufferPointer, _ name: String
    ) throws(ProtobufError) -> String {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ProtobufError(problem: "has a \(name) that is not UTF-8")
        }
        return text
    }
}

/// `indexer.v1.PodScore`.
public struct PodScore: Equatable, Sendable {
    /// The name that the caller gave, or the engine's.
    public var pod: String
    /// The blocks of the prefix, each by the weight of its tier.
    public var score: Double
    /// The data-parallel rank, if the engine has one.
    public var rank: Int?
}

extension ProtobufWriter {
    /// GetPodScoresResponse{scores=1{pod=1, score=2, data_parallel_rank=3}}.
    mutating func scores(_ scores: [PodScore]) {
        for score in scores {
            message(1) { message in
                message.string(1, score.pod)
                message.double(2, score.score)
                if let rank = score.rank { message.unsigned(3, UInt64(rank)) }
            }
        }
    }
}
