internal import CNet
internal import Core

/// The connections of one client to one address. Belongs to the client's loop.
final class ConnectionPool {
    let address: SocketAddress
    private unowned let client: HTTPClient
    private var connections: [ObjectIdentifier: ClientConnection] = [:]
    /// Connections that can take a request now; the last one was used last.
    private var available: [ClientConnection] = []
    private var connectingCount = 0
    private var waiting: [ClientExchange] = []

    init(to address: SocketAddress, client: HTTPClient) {
        self.address = address
        self.client = client
    }

    func start(_ exchange: ClientExchange) {
        if waiting.isEmpty, assign(exchange) { return }
        guard waiting.count < client.configuration.maximumWaitingPerHost else {
            return client.failLater([exchange], .poolExhausted)
        }
        wait(exchange)
    }

    /// Starts a request again whose connection turned out to be dead. Its idle sisters are most
    /// likely dead as well; on HTTP/2 one that is available may be busy with others.
    func retry(_ exchange: ClientExchange) {
        if !client.configuration.http2 {
            for connection in available { connection.close() }
            available = []
        }
        wait(exchange)
    }

    /// A waiting exchange was cancelled.
    func forget(_ exchange: ClientExchange) {
        waiting.removeAll { $0 === exchange }
        discardIfEmpty()
    }

    func shutdown() {
        available = []
        for connection in connections.values { connection.close() }
        failWaiting(.cancelled)
    }

    private func wait(_ exchange: ClientExchange) {
        waiting.append(exchange)
        exchange.waitLimit = client.loop.schedule(after: client.configuration.connectTimeout) {
            [weak self] in
            self?.forget(exchange)
            exchange.fail(.timeout(.connect))
        }
        connectAsNeeded()
    }

    /// One attempt per waiting request; on HTTP/2 one attempt serves them all.
    private func connectAsNeeded() {
        let wanted = client.configuration.http2 ? min(1, waiting.count) : waiting.count
        while connectingCount < wanted,
            connections.count < client.configuration.maximumConnectionsPerHost
        {
            let connection = ClientConnection(of: self)
            do throws(NetError) {
                try connection.connect(on: client)
            } catch {
                client.failLater(waiting, error)
                waiting = []
                return discardIfEmpty()
            }
            connections[ObjectIdentifier(connection)] = connection
            connectingCount += 1
        }
    }

    /// Starts the exchange on a connection that is ready.
    private func assign(_ exchange: ClientExchange) -> Bool {
        while let connection = available.last {
            guard let handle = connection.handle, cn_client_capacity(handle) > 0 else {
                available.removeLast()
                connection.isAvailable = false
                continue
            }
            do throws(NetError) {
                try exchange.start(on: handle, isReused: connection.wasUsed)
            } catch {
                client.failLater([exchange], error)
            }
            connection.wasUsed = true
            if cn_client_capacity(handle) == 0 {
                available.removeLast()
                connection.isAvailable = false
            }
            return true
        }
        return false
    }

    private func assignWaiting() {
        var started = 0
        while started < waiting.count, assign(waiting[started]) { started += 1 }
        waiting.removeFirst(started)
    }

    private func failWaiting(_ error: NetError) {
        let failed = waiting
        waiting = []
        for exchange in failed { exchange.fail(error) }
        discardIfEmpty()
    }

    private func discardIfEmpty() {
        if connections.isEmpty, waiting.isEmpty { client.discard(self) }
    }
}

extension ConnectionPool {
    fileprivate func connected(_ connection: ClientConnection) {
        connectingCount -= 1
        becameAvailable(connection)
    }

    fileprivate func becameAvailable(_ connection: ClientConnection) {
        if !connection.isAvailable {
            connection.isAvailable = true
            available.append(connection)
        }
        assignWaiting()
        connectAsNeeded()
        // On HTTP/2 a connection that is available may also be busy.
        let excess = available.count - client.configuration.maximumIdlePerHost
        guard excess > 0, !client.configuration.http2 else { return }
        // The ones at the front were not used for the longest time.
        for connection in available.prefix(excess) { connection.close() }
        available.removeFirst(excess)
    }

    fileprivate func closed(_ connection: ClientConnection, _ error: NetError) {
        // Who hears that a request failed may give the client up.
        let client = client
        defer { withExtendedLifetime(client) {} }
        connections[ObjectIdentifier(connection)] = nil
        if connection.isAvailable { available.removeAll { $0 === connection } }
        if !connection.wasConnected {
            connectingCount -= 1
            // The address is bad, or one attempt of several is.
            if connections.values.contains(where: \.wasConnected) {
                if !waiting.isEmpty { waiting.removeFirst().fail(error) }
            } else {
                return failWaiting(error)
            }
        }
        connectAsNeeded()
        discardIfEmpty()
    }

    fileprivate var owner: HTTPClient { client }
}

/// One connection of a pool.
private final class ClientConnection {
    private weak var pool: ConnectionPool?
    private(set) var handle: OpaquePointer?
    private(set) var wasConnected = false
    var wasUsed = false
    var isAvailable = false
    private let address: SocketAddress

    init(of pool: ConnectionPool) {
        self.pool = pool
        address = pool.address
    }

    /// The C side holds one reference from here to `closed`.
    func connect(on client: HTTPClient) throws(NetError) {
        let configuration = client.configuration
        var settings = cn_client_config()
        settings.connection.max_head_bytes = UInt32(clamping: configuration.maximumHeaderBytes)
        settings.connection.high_water_bytes = UInt32(clamping: configuration.highWaterBytes)
        settings.connection.low_water_bytes = UInt32(clamping: configuration.lowWaterBytes)
        settings.connection.idle_timeout_ms = configuration.idleTimeout?.wholeMilliseconds ?? 0
        settings.connection.h2_stream_window_bytes = UInt32(
            clamping: configuration.http2StreamWindow)
        settings.connection.tls = configuration.tls?.handle
        settings.connect_timeout_ms = configuration.connectTimeout.wholeMilliseconds
        settings.response_timeout_ms = configuration.responseHeadTimeout?.wholeMilliseconds ?? 0
        settings.keep_alive_ms = configuration.idleConnectionLifetime.wholeMilliseconds
        settings.codec = configuration.http2 ? CN_CODEC_HTTP2 : CN_CODEC_HTTP1
        var events = cn_client_events()
        events.connected = { user, _ in ClientConnection.from(user).connected() }
        events.available = { user in
            let connection = ClientConnection.from(user)
            connection.pool?.becameAvailable(connection)
        }
        events.closed = { user, status, detail in
            Unmanaged<ClientConnection>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue()
                .closed(status, detail)
        }
        var exchangeEvents = ClientExchange.events
        let user = Unmanaged.passRetained(self)
        let status = (configuration.tls?.serverName ?? address.host).withCString { name in
            settings.server_name = name
            return cn_client_connect(
                client.loop.handle, address.host, address.port, &settings, &events,
                &exchangeEvents, user.toOpaque(), &handle)
        }
        guard status == CN_OK else {
            user.release()
            throw NetError(status, subject: address)
        }
    }

    func close() {
        guard let handle else { return }
        isAvailable = false
        cn_client_close(handle)
    }

    private func connected() {
        wasConnected = true
        pool?.connected(self)
    }

    private func closed(_ status: cn_status, _ detail: UnsafePointer<CChar>?) {
        handle = nil
        var error = NetError(status, detail: detail, subject: address)
        switch error {
        case .closed, .reset,
            .protocolViolation where !wasConnected:
            error = .connectFailed("\(address): \(error)")
        // Of a Unix socket.
        case .notFound where !wasConnected, .accessDenied where !wasConnected:
            error = .connectFailed("\(error)")
        default: break
        }
        pool?.closed(self, error)
    }

    private static func from(_ user: UnsafeMutableRawPointer?) -> ClientConnection {
        Unmanaged<ClientConnection>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
    }
}
