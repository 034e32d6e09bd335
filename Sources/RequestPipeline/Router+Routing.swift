import Core
import ModelServers
import Scheduling
import Telemetry

/// A request that was decided about.
struct Routing {
    /// What the data plane is told.
    var decision: Decision
    /// The request is counted in there.
    var placement: Placement
    /// What plugins are told at the end; nil if none asks.
    var routed: RoutedRequest?
}

extension Router {
    /// Decides where a request goes and counts it in there. `rewritesResponse`: the response must
    /// be readable.
    func route(
        _ request: SchedulingRequest, within limits: EndpointLimits, rewritesResponse: Bool,
        metrics: ModelMetrics?
    ) throws(SchedulingFailure) -> Routing {
        let began = MonotonicTime.now
        return try withDesk { (desk) throws(SchedulingFailure) in
            desk.lay(request, within: limits, at: began)
            defer { desk.clear() }
            var span = trace(of: request).flatMap { spans.begin("llm_d.epp.schedule", under: $0) }
            defer { span?.end() }
            return try route(
                request, over: desk.snapshot.members, in: &desk.cycle, since: began,
                rewritesResponse: rewritesResponse, metrics: metrics)
        }
    }

    // Of the cycle, not of the desk: what belongs to an object is copied to be looked at.
    private func route(
        _ request: SchedulingRequest, over members: [PoolMember],
        in cycle: inout SchedulingCycle, since began: MonotonicTime, rewritesResponse: Bool,
        metrics: ModelMetrics?
    ) throws(SchedulingFailure) -> Routing {
        let result = try schedule(&cycle)
        var headers = scheduler.prepare(result, in: cycle.context)
        addOwnHeaders(of: request, rewritesResponse: rewritesResponse, to: &headers)
        let routing = place(request, result, over: members, in: &cycle, headers: headers)
        metrics?.running.increment()
        self.metrics.decided(
            result, in: cycle.context, model: metrics, took: MonotonicTime.now - began)
        return routing
    }

    private func addOwnHeaders(
        of request: SchedulingRequest, rewritesResponse: Bool, to headers: inout [HeaderMutation]
    ) {
        if request.headers.value(ofHeader: "x-request-id") != request.id {
            headers.append(.set(name: "x-request-id", value: request.id))
        }
        // What is compressed cannot be looked into.
        if rewritesResponse, request.headers.value(ofHeader: "accept-encoding") != nil {
            headers.append(.set(name: "accept-encoding", value: "identity"))
        }
    }

    private func place(
        _ request: SchedulingRequest, _ result: SchedulingResult, over members: [PoolMember],
        in cycle: inout SchedulingCycle, headers: [HeaderMutation]
    ) -> Routing {
        let picks = result.primary.map { members[$0.index] }
        let computing = result.prefill.first ?? result.primary[0]
        let placement = Placement(
            at: picks[0], prefill: result.prefill.first.map { members[$0.index] },
            uncachedTokens: cycle.context.uncachedTokenCount(at: computing.index))
        let decision = Decision(
            endpoint: picks[0].endpoint, fallbacks: picks.dropFirst().map(\.endpoint),
            prefill: placement.prefill?.endpoint, headers: headers, model: request.model,
            targetModel: request.targetModel, requestID: request.id,
            scores: configuration.recordsScores ? cycle.scoreRecords ?? [] : [])
        let routed =
            scheduler.observesResponses
            ? RoutedRequest(request, result, endpoints: cycle.context.endpoints) : nil
        return Routing(decision: decision, placement: placement, routed: routed)
    }

    /// The client's trace, if spans are wanted.
    private func trace(of request: SchedulingRequest) -> TraceContext? {
        guard spans.isRecording else { return nil }
        return request.headers.value(ofHeader: "traceparent").flatMap {
            TraceContext(
                traceparent: $0, tracestate: request.headers.value(ofHeader: "tracestate"))
        }
    }
}
