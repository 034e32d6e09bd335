public import Core
public import Net

/// What a relay tells the one who runs it. Everything happens on the loop of the exchange.
public protocol RelayObserver: AnyObject {
    /// The upstream answered; `head` is what will go downstream and may still be changed.
    func relay(_ relay: Relay, willForward head: inout HTTPResponseHead)
    /// Bytes of the response body; the observer hands them on with ``Relay/forward(_:)``.
    /// The bytes are valid during the call only.
    func relay(_ relay: Relay, received body: UnsafeRawBufferPointer)
    /// The attempt ended, as the last event of it. On `.completed` the response is not finished
    /// yet, so that the observer may forward last bytes.
    func relay(_ relay: Relay, ended outcome: Relay.Outcome)
}

/// Carries the response of one upstream to one downstream exchange as it comes, and the request
/// body the other way if it is streamed.
///
/// Each side's reading pauses while the other's queue is long. What breaks midway is broken
/// visibly: the client never takes half a response for a whole one. Lives on the loop of its
/// exchange; the observer is held until the attempt ended or was cancelled.
public final class Relay {
    /// How an attempt ended.
    public enum Outcome {
        /// The whole response was handed on.
        case completed
        /// The upstream failed before its response, and nothing went downstream. Unless the
        /// upstream may have begun with the request, another one may be tried.
        case failed(NetError, wasSeen: Bool)
        /// The upstream failed amid its response; downstream was broken off.
        case broken(NetError)
    }

    private enum State {
        case idle
        case waiting
        case forwarding(isEventStream: Bool)
    }

    /// How an error is written into an event stream.
    public var errorShape = APIError.Shape.openAI

    private let downstream: ServerExchange
    private var observer: (any RelayObserver)?
    private var upstream: ClientExchange?
    private var state = State.idle
    private var hasLostRequest = false

    /// Makes a relay that has no upstream yet.
    public init(to downstream: ServerExchange) {
        self.downstream = downstream
    }

    /// Sends a request upstream. Called again only after an attempt ended with `.failed`.
    public func start(
        _ head: HTTPRequestHead, to address: SocketAddress, body: RequestBody,
        through client: HTTPClient, observer: any RelayObserver
    ) {
        state = .waiting
        self.observer = observer
        upstream = client.start(head, to: address, body: body, delegate: self)
    }

    /// A part of a streamed request body. What comes after the upstream has ended is dropped.
    public func send(_ body: UnsafeRawBufferPointer) {
        guard let upstream else { return }
        if !upstream.write(body) { downstream.pauseReading() }
    }

    /// The end of a streamed request body.
    public func sendEnd() {
        upstream?.finish()
    }

    /// Hands body bytes downstream.
    public func forward(_ body: UnsafeRawBufferPointer) {
        if !downstream.write(body) { upstream?.pauseReading() }
    }

    /// Downstream takes bytes again.
    public func downstreamIsWritable() {
        upstream?.resumeReading()
    }

    /// Drops the upstream. No event follows.
    public func cancel() {
        upstream?.cancel()
        upstream = nil
        observer = nil
        state = .idle
    }

    /// Ends the exchange with an error: as the response, or breaking off the one that has begun.
    public func reject(_ error: APIError, requestID: String) {
        let before = state
        cancel()
        if case .forwarding(let isEventStream) = before {
            breakOff(isEventStream: isEventStream, error)
        } else {
            downstream.respond(error, requestID: requestID)
        }
    }

    private func end(_ outcome: Outcome) {
        let observer = observer
        upstream = nil
        self.observer = nil
        state = .idle
        observer?.relay(self, ended: outcome)
    }

    /// Whether an upstream that failed may have begun with the request.
    private func hasSeenRequest(_ exchange: ClientExchange, _ error: NetError) -> Bool {
        guard exchange.requestWasSent, error != .refused else { return false }
        // The upstream closed an idle connection as the request came, and takes no new one. Once
        // that passes for the end of an idle server. The second time the request may be the cause.
        guard exchange.wasRetried, error.isConnectFailure, !hasLostRequest else { return true }
        hasLostRequest = true
        return false
    }

    /// Ends what downstream has of the response so that nobody takes it for whole: a client of an
    /// event stream is told why, then the connection or stream is reset.
    private func breakOff(isEventStream: Bool, _ error: APIError) {
        guard isEventStream else { return downstream.abort() }
        // The empty lines end an event that was cut in two.
        downstream.write(Array("\n\n\(error.shaped(as: errorShape).event)".utf8))
        // A reset overtakes what HTTP/2 has not sent yet, which it does when this turn ends.
        downstream.loop.schedule(after: .zero) { [downstream] in downstream.abort() }
    }
}

extension Relay: ClientExchangeDelegate {
    /// Starts the response downstream.
    public func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        var head = head
        head.headers.removeHopByHop()
        let isEventStream = head.headers[first: "content-type"]?.hasPrefix("text/event-stream")
        observer?.relay(self, willForward: &head)
        state = .forwarding(isEventStream: isEventStream == true)
        downstream.respond(head)
    }

    /// Hands body bytes to the observer.
    public func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        observer?.relay(self, received: body)
    }

    /// Finishes the response downstream.
    public func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        end(.completed)
        downstream.finish(trailers: trailers)
    }

    /// The upstream takes request bytes again.
    public func exchangeWritable(_ exchange: ClientExchange) {
        downstream.resumeReading()
    }

    /// Leaves the response open for another attempt, or breaks it off.
    public func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        if case .forwarding(let isEventStream) = state {
            breakOff(isEventStream: isEventStream, APIError(upstream: error))
            end(.broken(error))
        } else {
            end(.failed(error, wasSeen: hasSeenRequest(exchange, error)))
        }
    }
}
