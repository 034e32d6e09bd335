import Core
import Net

/// Gets one page after the other from one server, each with a deadline. Belongs to a loop.
final class PageReader: ClientExchangeDelegate {
    private let client: HTTPClient
    private let address: SocketAddress
    private let head: HTTPRequestHead
    private let maximumBytes: Int
    private let timeout: Duration
    /// What is told of the end of a fetch: the status, with the body in ``page``.
    private var done: ((Result<Int, NetError>) -> Void)?

    private var exchange: ClientExchange?
    private var deadline: Timer?
    private var status = 0
    private(set) var page: [UInt8] = []

    init(
        path: String, of address: SocketAddress, by client: HTTPClient, timeout: Duration,
        maximumBytes: Int
    ) {
        self.client = client
        self.address = address
        self.timeout = timeout
        self.maximumBytes = maximumBytes
        head = HTTPRequestHead(method: "GET", target: path, authority: address.description)
    }

    /// Fetches the page. `done` is called once, later, unless ``cancel()`` is.
    func fetch(_ done: @escaping (Result<Int, NetError>) -> Void) {
        self.done = done
        page.removeAll(keepingCapacity: true)
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
        guard page.count + body.count <= maximumBytes else {
            return abort(.bodyTooLarge(limit: maximumBytes))
        }
        page.append(contentsOf: body)
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
