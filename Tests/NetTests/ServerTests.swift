import Core
import Net
import Testing

struct ServerTests {
    @Test func answers() async throws {
        let group = try EventLoopGroup(count: 1, name: "test")
        defer { group.shutdown() }
        let server = try HTTPServer.listen(
            on: group, at: SocketAddress(host: "127.0.0.1", port: 0)
        ) { exchange in
            exchange.respond(HTTPResponseHead(status: 200), text: "hello \(exchange.head.target)")
            return nil
        }
        let client = HTTPClient(on: group.loops[0])
        let response = try await client.send(
            HTTPRequestHead(method: "GET", target: "/a?b=1"), to: server.address)
        #expect(response.status == 200)
        #expect(String(decoding: response.body, as: UTF8.self) == "hello /a?b=1")
    }
}
