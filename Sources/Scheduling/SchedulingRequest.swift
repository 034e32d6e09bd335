public import Core

/// What plugins want to know of prompts, beside their length and text.
public struct PromptNeeds: OptionSet, Sendable {
    /// The bits.
    public let rawValue: UInt8

    /// Makes a set from its bits.
    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// The engine's token ids: text prompts are tokenized.
    public static let tokens = PromptNeeds(rawValue: 1)
    /// The images, videos and audio clips.
    public static let media = PromptNeeds(rawValue: 2)
}

/// The text of a prompt as it stands in the request's body, escapes and all. Shares the storage
/// of the body.
public struct PromptText: Sendable {
    private let body: [UInt8]
    private let ranges: [Range<Int>]

    /// The texts at `ranges` of `body`, one behind the other.
    public init(body: [UInt8], ranges: [Range<Int>]) {
        self.body = body
        self.ranges = ranges.map { $0.clamped(to: body.indices) }
    }

    /// How long it is.
    public var byteCount: Int { ranges.reduce(0) { $0 + $1.count } }

    /// Calls `read` with the bytes of one place after the other.
    public func forEachPart(_ read: (Span<UInt8>) -> Void) {
        for range in ranges { read(body.span.extracting(range)) }
    }
}

/// An image, a video or an audio clip of a request.
public struct MediaItem: Hashable, Sendable {
    /// The kinds that chat messages have.
    public enum Kind: String, CaseIterable, Sendable {
        case image
        case video
        case audio
    }

    /// What it is.
    public var kind: Kind
    /// Names the content: a hash of the URL or of the data. Equal items have equal names.
    public var identifier: UInt64
    /// What it weighs against the other items of the request.
    public var size: Int

    /// Makes an item.
    public init(kind: Kind, identifier: UInt64, size: Int = 1) {
        self.kind = kind
        self.identifier = identifier
        self.size = size
    }
}

/// A request as plugins see it.
public struct SchedulingRequest {
    /// The flow of requests that name none.
    public static let defaultFairnessID = "default-flow"

    /// The request id.
    public var id: String
    /// The model that the client asked for.
    public var model: String
    /// The model that the endpoint is asked for; differs from `model` after a rewrite.
    public var targetModel: String
    /// The request's headers.
    public var headers: any HeaderLookup
    /// The token ids of the prompt; empty if they are not known.
    ///
    /// Of a prompt that was followed they are read from the body when they are asked for. Setting
    /// them forgets what was done on another prompt.
    public var tokens: [UInt32] {
        get { done?.readTokens() ?? knownTokens }
        set {
            knownTokens = newValue
            done = nil
        }
    }
    /// How many token ids ``tokens`` has; costs nothing.
    public var tokenCount: Int { done?.tokenCount ?? knownTokens.count }
    private var knownTokens: [UInt32]
    private var done: DoneOnPrompt?
    /// The tokens of the prompt, estimated if `tokens` is empty.
    public var promptTokenCount: Int
    /// What else tells prompts apart in the prefix cache (`cache_salt`).
    public var cacheSalt: String?
    /// The text of the prompt, if it came as text.
    public var promptText: PromptText?
    /// The media in the prompt; filled only where a plugin needs them.
    public var media: [MediaItem] = []
    /// What the body says beside the prompt.
    public var details = RequestDetails()
    /// Who is served first, by the request's objective; what is below 0 may be shed.
    public var priority = 0
    /// The agent's session, by headers that agents set; nil unless a plugin reads them.
    public var agentIdentity: String?
    /// The session that the client names; nil unless a plugin reads it.
    public var sessionID: String?
    /// When the first token is wanted; nil: whenever.
    public var ttftObjective: Duration?
    /// How far apart tokens may be; nil: as they come.
    public var tpotObjective: Duration?
    /// What plugins made of the answers of services, by their names, each for itself.
    public var findings: [String: any Sendable] = [:]

    /// Makes a request.
    public init(
        id: String, model: String, targetModel: String? = nil, headers: any HeaderLookup,
        tokens: [UInt32] = [], promptTokenCount: Int? = nil, cacheSalt: String? = nil,
        promptText: PromptText? = nil, media: [MediaItem] = []
    ) {
        self.id = id
        self.model = model
        self.targetModel = targetModel ?? model
        self.headers = headers
        knownTokens = tokens
        self.promptTokenCount = promptTokenCount ?? tokens.count
        self.cacheSalt = cacheSalt
        self.promptText = promptText
        self.media = media
    }

    /// What a producer did on the prompt while it came; nil if nothing, or it was another prompt.
    public func promptWork(of producer: String) -> (any PromptWork)? {
        done?.works.first { $0.producer == producer }?.work
    }

    /// Producers have dealt with the prompt while it came. It is a text, or has so many token ids,
    /// which `readTokens` reads.
    package mutating func setFollowed(
        _ works: [(producer: String, work: any PromptWork)], tokenCount: Int = 0,
        readTokens: @escaping () -> [UInt32] = { [] }
    ) {
        done = DoneOnPrompt(works: works, tokenCount: tokenCount, readTokens: readTokens)
    }

    /// The name of the request's objective, if it names one.
    public var objectiveName: String? { headers.value(ofEither: RoutingHeaders.objective) }

    /// Names the tenant, session or program that the request belongs to: what the client says,
    /// else the agent's session, else ``defaultFairnessID``.
    public var fairnessID: String {
        headers.value(ofEither: RoutingHeaders.fairnessID) ?? agentIdentity
            ?? Self.defaultFairnessID
    }

    /// Reads the objectives for latency.
    mutating func readLatencyObjectives() throws(SchedulingFailure) {
        ttftObjective = try milliseconds(RoutingHeaders.ttft)
        tpotObjective = try milliseconds(RoutingHeaders.tpot)
    }

    private func milliseconds(
        _ names: (String, String)
    ) throws(SchedulingFailure) -> Duration? {
        guard let text = headers.value(ofEither: names) else { return nil }
        guard let value = Double(text), value > 0, value < 1e12 else {
            throw .refused(
                by: "latency objectives",
                .badRequest("The header \(names.0) must be milliseconds above 0, not '\(text)'."))
        }
        return .nanoseconds(Int64(value * 1e6))
    }
}

/// What was done on a prompt while it came. An object, so that requests are copied quickly.
private final class DoneOnPrompt {
    let works: [(producer: String, work: any PromptWork)]
    let tokenCount: Int
    let readTokens: () -> [UInt32]

    init(
        works: [(producer: String, work: any PromptWork)], tokenCount: Int,
        readTokens: @escaping () -> [UInt32]
    ) {
        self.works = works
        self.tokenCount = tokenCount
        self.readTokens = readTokens
    }
}

/// Headers by which clients and data planes tell the router about a request, each with the name
/// that it had before. The new name wins.
public enum RoutingHeaders {
    /// The tenant, session or program.
    public static let fairnessID = (
        "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"
    )
    /// The name of an InferenceObjective.
    public static let objective = (
        "x-llm-d-inference-objective", "x-gateway-inference-objective"
    )
    /// The model to ask engines for.
    public static let targetModel = (
        "x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"
    )
    /// Milliseconds to the first token.
    public static let ttft = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
    /// Milliseconds from token to token.
    public static let tpot = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")
}

extension HeaderLookup {
    /// The value of the first of two names that has one; empty counts as none.
    public func value(ofEither names: (String, String)) -> String? {
        value(ofHeader: names.0).flatMap { $0.isEmpty ? nil : $0 }
            ?? value(ofHeader: names.1).flatMap { $0.isEmpty ? nil : $0 }
    }
}
