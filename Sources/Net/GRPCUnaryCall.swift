/// A gRPC call at a server that takes one message and gives one. Belongs to the loop of its
/// exchange.
///
/// The handler is called when the request is complete. It must answer by ``respond(_:)`` or
/// ``fail(_:)``, then or later; what comes after the end of the call does nothing.
public final class GRPCUnaryCall: ServerExchangeDelegate {
    /// Answers a request. `message` is valid only during the call.
    public typealias Handler = (_ call: GRPCUnaryCall, _ message: UnsafeRawBufferPointer) -> Void

    /// Called once, when the call has its status or the client is gone.
    public var whenEnded: ((GRPCStatus) -> Void)?
    /// Called if the client is gone before it has its answer.
    public var whenCancelled: (() -> Void)?

    /// The request, and the loop on which everything happens.
    public let exchange: ServerExchange

    private var reader: GRPCFrameReader
    private var messages: [[UInt8]] = []
    private var handler: Handler?
    private var status: GRPCStatus?

    /// Takes over an exchange of which nothing was read yet.
    ///
    /// - Parameter maximumMessageBytes: A longer request is refused before it is read.
    public init(
        _ exchange: ServerExchange, maximumMessageBytes: Int, handler: @escaping Handler
    ) {
        self.exchange = exchange
        self.handler = handler
        reader = GRPCFrameReader(maximumMessageBytes: maximumMessageBytes)
    }

    /// Ends the call with the message that `body` writes.
    public func respond(_ body: (inout ProtobufWriter) -> Void) {
        guard status == nil else { return }
        var writer = ProtobufWriter()
        writer.frame(body)
        exchange.respondGRPC()
        exchange.write(writer.bytes)
        exchange.finishGRPC(.ok)
        end(.ok)
    }

    /// Ends the call without a message.
    public func fail(_ status: GRPCStatus) {
        guard self.status == nil else { return }
        exchange.refuseGRPC(status)
        end(status)
    }

    private func end(_ status: GRPCStatus) {
        self.status = status
        handler = nil
        messages = []
        let whenEnded = whenEnded
        self.whenEnded = nil
        whenCancelled = nil
        whenEnded?(status)
    }

    /// Takes the request in.
    public func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        guard status == nil else { return }
        do {
            try reader.feed(body) { message in
                // A second one is too many, whatever it says.
                if messages.count < 2 { messages.append(Array(message)) }
            }
        } catch .bodyTooLarge(let limit) {
            fail(.resourceExhausted("the message is longer than \(limit) bytes"))
        } catch {
            fail(.invalidArgument(error.description))
        }
    }

    /// Has the request answered.
    public func exchangeReceivedEnd(_ exchange: ServerExchange) {
        guard status == nil, let handler else { return }
        do {
            try reader.finish()
        } catch {
            return fail(.invalidArgument(error.description))
        }
        guard messages.count == 1 else {
            return fail(
                .invalidArgument("a unary call has one message, not \(messages.count)"))
        }
        self.handler = nil
        let message = messages.removeLast()
        message.withUnsafeBytes { handler(self, $0) }
    }

    /// Tells of a client that is gone.
    public func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        guard status == nil else { return }
        whenCancelled?()
        end(.cancelled("the client is gone"))
    }
}
