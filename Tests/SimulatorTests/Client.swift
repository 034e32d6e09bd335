import Core
import Foundation
import LoopbackSupport
import Net
import Simulator
import Synchronization

/// Engines that run, and a client to talk to them.
final class Harness: Sendable {
    let group: EventLoopGroup
    let client: HTTPClient
    private let engines = Mutex<[SimulatorServer]>([])

    init() throws {
        group = try EventLoopGroup(count: 1, name: "client")
        client = HTTPClient(on: group.loops[0])
    }

    /// Starts an engine on free ports. Times are short, so that tests are.
    func start(
        _ change: (inout SimulatorConfiguration) -> Void = { _ in }
    ) async throws -> SimulatorServer {
        var configuration = SimulatorConfiguration()
        configuration.address.port = 0
        configuration.transferAddress = .ownLoopback()
        configuration.model = "tiny-llama"
        configuration.blockCount = 512
        configuration.blockByteCount = 16 << 10
        configuration.maximumModelLength = 4096
        configuration.latency.prefillTokensPerSecond = 1e6
        configuration.latency.prefillOverhead = .milliseconds(1)
        configuration.latency.interTokenLatency = .milliseconds(1)
        change(&configuration)
        let engine = try await SimulatorServer.start(configuration)
        engines.withLock { $0.append(engine) }
        return engine
    }

    func stop() async {
        for engine in engines.withLock({ $0 }) { await engine.drain(within: .milliseconds(200)) }
        group.shutdown()
    }

    func get(_ engine: SimulatorServer, _ path: String) async throws -> Answer {
        try await send(engine, HTTPRequestHead(method: "GET", target: path), nil)
    }

    func post(
        _ engine: SimulatorServer, _ path: String, _ body: [String: Any],
        headers: [String: String] = [:]
    ) async throws -> Answer {
        try await post(
            engine, path, Array(JSONSerialization.data(withJSONObject: body)), headers: headers)
    }

    func post(
        _ engine: SimulatorServer, _ path: String, _ body: [UInt8],
        headers: [String: String] = [:]
    ) async throws -> Answer {
        var head = HTTPRequestHead(
            method: "POST", target: path, headers: ["content-type": "application/json"])
        for (name, value) in headers { head.headers.append(name, value) }
        return try await send(engine, head, body)
    }

    private func send(
        _ engine: SimulatorServer, _ head: HTTPRequestHead, _ body: [UInt8]?
    ) async throws -> Answer {
        Answer(try await client.send(head, to: engine.address, body: body))
    }

    /// The value of a metric by its name and labels as they stand on the page.
    func metric(_ engine: SimulatorServer, _ series: String) async throws -> Double {
        let page = try await get(engine, "/metrics").text
        for line in page.split(separator: "\n") where line.hasPrefix(series + " ") {
            return Double(line.dropFirst(series.count + 1)) ?? .nan
        }
        return .nan
    }

    /// Asks for a metric until it has a value, for at most ten seconds.
    func wait(
        _ engine: SimulatorServer, _ series: String, _ isRight: (Double) -> Bool
    ) async throws -> Bool {
        let deadline = MonotonicTime.now + .seconds(10)
        while MonotonicTime.now < deadline {
            if isRight(try await metric(engine, series)) { return true }
        }
        return false
    }
}

/// A response, and what is in it.
struct Answer {
    let status: Int
    let headers: HTTPHeaders
    let body: [UInt8]

    init(_ response: HTTPResponse) {
        status = response.status
        headers = response.head.headers
        body = response.body
    }

    var text: String { String(decoding: body, as: UTF8.self) }

    func json() throws -> Any {
        try JSONSerialization.jsonObject(with: Data(body), options: .fragmentsAllowed)
    }

    /// The value at a path of keys and indices.
    func value(_ path: any Sendable...) throws -> Any? { try lookUp(json(), path) }

    /// The events of a stream, without their `data: `.
    var events: [String] {
        text.components(separatedBy: "\n\n").filter { !$0.isEmpty }
            .map { String($0.dropFirst("data: ".count)) }
    }

    /// The text of a whole stream of one choice.
    func streamedText() throws -> String {
        try events.dropLast().map { event in
            let object = try JSONSerialization.jsonObject(with: Data(event.utf8))
            let text =
                lookUp(object, ["choices", 0, "text"])
                ?? lookUp(object, ["choices", 0, "delta", "content"])
            return text as? String ?? ""
        }.joined()
    }
}

func lookUp(_ value: Any, _ path: [any Sendable]) -> Any? {
    path.reduce(value) { value, step in
        if let key = step as? String { return (value as? [String: Any])?[key] }
        guard let index = step as? Int, let array = value as? [Any], array.indices.contains(index)
        else { return nil }
        return array[index]
    }
}

/// What differs between two JSON values in keys and kinds, as paths; values may differ, and lists
/// are compared by their first elements. `exempt` paths are not looked into.
func shapeDifferences(
    _ ours: Any, _ theirs: Any, at path: String = "", exempt: Set<String> = []
) -> [String] {
    if exempt.contains(path) { return [] }
    switch (ours, theirs) {
    case (let ours as [String: Any], let theirs as [String: Any]):
        return Set(ours.keys).union(theirs.keys).sorted().flatMap { key -> [String] in
            let place = path.isEmpty ? key : "\(path).\(key)"
            if exempt.contains(place) { return [] }
            guard let our = ours[key] else { return ["\(place) is missing"] }
            guard let their = theirs[key] else { return ["\(place) is ours alone"] }
            return shapeDifferences(our, their, at: place, exempt: exempt)
        }
    case (let ours as [Any], let theirs as [Any]):
        guard let our = ours.first, let their = theirs.first else {
            return ours.isEmpty == theirs.isEmpty ? [] : ["\(path) is empty in one"]
        }
        return shapeDifferences(our, their, at: "\(path)[]", exempt: exempt)
    default:
        return kind(ours) == kind(theirs) ? [] : ["\(path): \(kind(ours)), not \(kind(theirs))"]
    }
}

private func kind(_ value: Any) -> String {
    switch value {
    case is NSNull: "null"
    case is String: "string"
    // Foundation's type of a boolean, and of no other number in JSON, is `char`.
    case let number as NSNumber: String(cString: number.objCType) == "c" ? "bool" : "number"
    case is [Any]: "array"
    default: "object"
    }
}

/// Counts what a streaming client gets, and lets it go after some of it.
final class LeavingClient: ClientExchangeDelegate, Sendable {
    private let received = Mutex(0)
    private let limit: Int

    init(leavingAfter limit: Int) { self.limit = limit }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {}

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        let total = received.withLock { count in
            count += body.count
            return count
        }
        if total >= limit { exchange.cancel() }
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {}

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {}
}
