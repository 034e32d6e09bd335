import Core
import Net

/// Takes a page as it comes.
protocol PageConsumer: AnyObject {
    /// A page begins; what came of one before it that did not end is void.
    func begin()
    /// The next piece.
    func receive(_ piece: UnsafeRawBufferPointer)
}

/// Gets one page after the other from one server, each with a deadline. Belongs to a loop.
final class PageReader: ClientExchangeDelegate {
    private let client: HTTPClient
    private let address: SocketAddress
    private let head: HTTPRequestHead
    private let maximumBytes: Int
    private let timeout: Duration
    private let consumer: any PageConsumer
    /// What is told of the end of a fetch: the status, and the consumer has the page.
    private var done: ((Result<Int, NetError>) -> Void)?

    private var exchange: ClientExchange?
    private var deadline: Timer?
    private var status = 0
    private var receivedBytes = 0

    init(
        path: String, of address: SocketAddress, by client: HTTPClient, timeout: Duration,
        maximumBytes: Int, into consumer: any PageConsumer
    ) {
        self.client = client
        self.address = address
        self.timeout = timeout
        self.maximumBytes = maximumBytes
        self.consumer = consumer
        head = HTTPRequestHead(method: "GET", target: path, authority: address.description)
    }

    /// Whether a page is on its way.
    var isFetching: Bool { exchange != nil }

    /// Fetches the page. `done` is called once, later, unless ``cancel()`` is.
    func fetch(_ done: @escaping (Result<Int, NetError>) -> Void) {
        self.done = done
        receivedBytes = 0
        consumer.begin()
        exchange = client.start(head, to: address, delegate: self)
        deadline = client.loop.schedule(after: timeout) { [weak self] in
            self?.abort(.timeout(.deadline))
        }
    }

    func cancel() {
        done = nil
        end()
    }

    private func abort(_ error: NetError) {
        let done = done
        cancel()
        done?(.failure(error))
    }

    private func end() {
        deadline?.cancel()
        deadline = nil
        exchange?.cancel()
        exchange = nil
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        status = head.status
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        receivedBytes += body.count
        guard receivedBytes <= maximumBytes else {
            return abort(.bodyTooLarge(limit: maximumBytes))
        }
        consumer.receive(body)
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        finish(.success(status))
    }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        finish(.failure(error))
    }

    private func finish(_ result: Result<Int, NetError>) {
        exchange = nil
        let done = done
        cancel()
        done?(result)
    }
}

/// Keeps a page.
final class PageBytes: PageConsumer {
    private(set) var bytes: [UInt8] = []

    func begin() {
        bytes.removeAll(keepingCapacity: true)
    }

    func receive(_ piece: UnsafeRawBufferPointer) {
        bytes.append(contentsOf: piece)
    }
}
