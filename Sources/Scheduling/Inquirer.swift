public import Core

/// Goes by what a service outside says of endpoints. It is asked before the decision, while the
/// request waits and no thread does; deciding itself never waits. A plugin that is this and a
/// producer or a scorer finds what it made of the answer in the request's `findings`.
public protocol Inquirer: Plugin {
    /// The question about a request at `candidates`, which are indices into `context.endpoints`;
    /// nil if there is none to ask. The producers have run. ``finding(_:about:)`` must follow
    /// once.
    func question(about candidates: [Int], in context: SchedulingContext) -> ServiceQuestion?

    /// What the outcome of a question says about `endpoints`, in their order when it was asked;
    /// nil if nothing.
    func finding(_ outcome: ServiceOutcome, about endpoints: [UInt32]) -> (any Sendable)?
}

/// A question that is to be asked before a decision.
public struct Inquiry: Sendable {
    /// What to ask.
    public let question: ServiceQuestion
    private let inquirer: any Inquirer
    private let endpoints: [UInt32]

    init?(of inquirer: any Inquirer, about candidates: [Int], in context: SchedulingContext) {
        guard let question = inquirer.question(about: candidates, in: context) else { return nil }
        self.question = question
        self.inquirer = inquirer
        endpoints = candidates.map { context.endpoints[$0].id }
    }

    /// Ends the inquiry; the request is given what the plugin makes of the outcome. To be called
    /// once.
    public func end(_ outcome: ServiceOutcome, for request: inout SchedulingRequest) {
        request.findings[inquirer.name.name] = inquirer.finding(outcome, about: endpoints)
    }

    /// Ends an inquiry whose request is gone.
    public func abandon() {
        _ = inquirer.finding(.abandoned, about: endpoints)
    }
}
