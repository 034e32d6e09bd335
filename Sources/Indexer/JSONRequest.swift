internal import Net
internal import Scan

/// A POST request with a JSON body and its JSON answer. Belongs to the loop of its exchange.
final class JSONRequest: ServerExchangeDelegate {
    /// Answers a body by writing JSON.
    typealias Answer = (JSONDocument, inout JSONWriter) throws(IndexerError) -> Void

    private let exchange: ServerExchange
    private let maximumBytes: Int
    private let answered: (Int) -> Void
    private let scanner: JSONScanner
    private var answer: Answer?

    /// - Parameter answered: Called once with the status, unless the client goes before.
    init(_ exchange: ServerExchange, maximumBytes: Int, answered: @escaping (Int) -> Void) {
        self.exchange = exchange
        self.maximumBytes = maximumBytes
        self.answered = answered
        scanner = JSONScanner()
    }

    /// Takes the body in, to be answered when it is complete.
    func begin(_ answer: @escaping Answer) {
        let headers = exchange.head.headers
        if exchange.head.method != "POST" {
            fail(IndexerError(.methodNotAllowed, "only POST is possible here"))
        } else if headers[first: "content-type"]?.contains("msgpack") == true {
            fail(IndexerError(.unsupportedMediaType, "the body must be JSON"))
        } else if let length = headers[first: "content-length"].flatMap({ Int($0) }),
            length > maximumBytes
        {
            failForLength()
        } else {
            self.answer = answer
        }
    }

    /// Refuses the request.
    func fail(_ error: IndexerError) {
        respond(error.status, error.body)
    }

    private func failForLength() {
        fail(IndexerError(.tooLarge, "the body is longer than \(maximumBytes) bytes"))
    }

    private func respond(_ status: Int, _ body: [UInt8]) {
        answer = nil
        var head = HTTPResponseHead(
            status: status, headers: ["content-type": "application/json"])
        if status == 405 { head.headers.append("allow", "POST") }
        exchange.respond(head, body: body)
        answered(status)
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        guard answer != nil else { return }
        guard scanner.bytes.count + body.count <= maximumBytes else { return failForLength() }
        do {
            try scanner.feed(body)
        } catch {
            fail(IndexerError(.invalidJSON, "the body is not JSON: \(error)"))
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        guard let answer else { return }
        do {
            let document = try scanner.finish()
            var json = JSONWriter()
            try answer(document, &json)
            respond(200, json.bytes)
        } catch let error as IndexerError {
            fail(error)
        } catch {
            fail(IndexerError(.invalidJSON, "the body is not JSON: \(error)"))
        }
    }
}

extension JSONWriter {
    /// Writes the answer to a registration, in the conductor's words.
    mutating func registered(_ instance: String) {
        beginObject()
        member("status", "registered successfully")
        member("instance_id", instance)
        endObject()
    }

    /// Writes the answer to the end of registrations, in the conductor's words.
    mutating func unregistered(_ removed: [String]) {
        beginObject()
        member("status", "unregistered successfully")
        key("removed_instances")
        beginArray()
        for name in removed { string(name) }
        endArray()
        endObject()
    }
}
