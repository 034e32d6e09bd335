public import Core

/// The type of a plugin and the name of one instance in a configuration.
public struct PluginName: Hashable, Sendable, CustomStringConvertible {
    /// The registered type, such as `queue-scorer`.
    public let type: String
    /// The name that references use; the type unless the configuration gave another.
    public let name: String

    /// Makes a name.
    public init(type: String, name: String? = nil) {
        self.type = type
        self.name = name ?? type
    }

    /// `name/type`, as upstream prints it.
    public var description: String { "\(name)/\(type)" }
}

/// Something that takes part in scheduling. All requests share one instance; what it remembers
/// between requests it must guard itself.
public protocol Plugin: AnyObject, Sendable {
    /// Its type and name.
    var name: PluginName { get }
    /// What it wants to know of prompts; nothing unless it says so.
    var promptNeeds: PromptNeeds { get }
    /// What it goes by that the record of a decision does not hold, such as headers and what it
    /// remembers of other requests, as a noun; nil unless it says so. Producers need not: what
    /// they find out is recorded.
    var unrecordedInput: String? { get }
}

extension Plugin {
    /// Nothing.
    public var promptNeeds: PromptNeeds { [] }
    /// Nothing.
    public var unrecordedInput: String? { nil }
}

/// Goes by a figure of endpoints that is scraped only where a configuration asks for it.
public protocol AttributeReader: Plugin {
    /// The name of the attribute; nil if it is one that every engine tells.
    var scrapedAttribute: String? { get }
}

/// Finds out from a request's headers what other plugins and flow control go by. Runs first,
/// before the request waits for its turn.
public protocol RequestProcessor: Plugin {
    /// Sets fields of `request`.
    func process(_ request: inout SchedulingRequest) throws(SchedulingFailure)
}

/// Rules endpoints out for all profiles, before anything is found out about the request.
public protocol Screener: Plugin {
    /// Keeps of `candidates`, which are indices into `context.endpoints`, those that pass. If none
    /// is left the request fails as if the pool were empty.
    func screen(
        _ candidates: inout [Int], in context: SchedulingContext
    ) throws(SchedulingFailure)
}

/// Finds out something about a request for the plugins that follow, such as its cached prefix.
public protocol DataProducer: Plugin {
    /// Writes what it found out into `context`. What it cannot find out it leaves as it is.
    func produce(into context: inout SchedulingContext)
}

/// Lets requests through to the profiles, or refuses them.
public protocol Admitter: Plugin {
    /// `candidates` are indices into `context.endpoints`. Throws
    /// ``SchedulingFailure/refused(by:_:)`` with what the client is to be told.
    func admit(
        _ candidates: [Int], in context: SchedulingContext
    ) throws(SchedulingFailure)
}

/// Rules endpoints out.
public protocol Filter: Plugin {
    /// Keeps of `candidates`, which are indices into `context.endpoints`, those that pass.
    func filter(_ candidates: inout [Int], in context: SchedulingContext)
}

/// Rates endpoints.
public protocol Scorer: Plugin {
    /// Writes to `scores[i]` the score of `candidates[i]`, which is an index into
    /// `context.endpoints`. 0 is worst, 1 is best; other values are clamped.
    func score(
        _ candidates: [Int], in context: SchedulingContext, into scores: inout MutableSpan<Double>)
}

/// A candidate and the weighted sum of its scores.
public struct ScoredCandidate: Equatable, Sendable {
    /// An index into `SchedulingContext.endpoints`.
    public var index: Int
    /// The weighted sum.
    public var score: Double

    /// Makes a candidate.
    public init(index: Int, score: Double) {
        self.index = index
        self.score = score
    }
}

/// Chooses among scored candidates.
public protocol Picker: Plugin {
    /// Leaves in `candidates`, which is not empty, those chosen: the best first, then the ones to
    /// fall back to.
    func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource)
}

/// Decides which profiles a request runs through and what their picks are for.
public protocol ProfileHandler: Plugin {
    /// Called once at load with the names of the configured profiles. Returns what is wrong with
    /// them, as the end of a sentence that starts with the handler's name; nil if nothing is.
    func problem(withProfiles names: [String]) -> String?

    /// Runs profiles in `cycle` and makes a result of their picks.
    func schedule(_ cycle: inout SchedulingCycle) throws(SchedulingFailure) -> SchedulingResult
}

/// Acts on a decision before the request is sent.
public protocol PreRequest: Plugin {
    /// Sees the result and may change the headers that go to the endpoint.
    func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation])
}

/// Follows a request after ``PreRequest``, whatever becomes of it.
public protocol ResponseObserver: Plugin {
    /// The head of the response came. May change the headers that go to the client.
    func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation])

    /// The request is at its endpoint no more. Called once for each decision that was prepared,
    /// also if the endpoint could not be reached and another decision follows. `usage` is what
    /// the response said; nil if it did not, or there was none.
    func requestEnded(_ request: RoutedRequest, usage: TokenUsage?)
}

extension ResponseObserver {
    /// Changes nothing.
    public func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {}

    /// Does nothing.
    public func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {}
}
