import Net
import Testing

struct HTTPHeadersTests {
    @Test func namesCompareWithoutCaseAndOrderIsKept() {
        var headers: HTTPHeaders = ["Content-Type": "a", "X": "1", "content-type": "b"]
        #expect(headers[first: "CONTENT-TYPE"] == "a")
        #expect(headers.values(of: "content-type") == ["a", "b"])
        #expect(headers.contains("x"))
        #expect(headers[first: "y"] == nil)
        headers.set("content-TYPE", "c")
        #expect(headers.map { $0.name } == ["X", "content-TYPE"])
        headers.remove("x")
        headers.append("Z", "")
        #expect(headers.map { $0.value } == ["c", ""])
        #expect(headers.count == 2)
    }

    @Test func equalityIgnoresHistoryAndCaseOfNames() {
        var one: HTTPHeaders = ["a": "1", "b": "2"]
        one.remove("a")
        #expect(one == ["B": "2"])
        #expect(one != ["B": "3"])
        #expect(one != [:])
        let other: HTTPHeaders = ["B": "2"]
        #expect(one.hashValue == other.hashValue)
    }

    @Test func bytesWithoutStrings() {
        let headers: HTTPHeaders = ["a": "1", "bc": "23"]
        var seen: [[UInt8]] = []
        headers.forEachBytes { name, value in
            seen.append(Array(name))
            seen.append(Array(value))
        }
        #expect(seen == [[97], [49], [98, 99], [50, 51]])
    }

    @Test func pathAndQuery() {
        let head = HTTPRequestHead(method: "GET", target: "/a/b?c=d?e")
        #expect(head.path == "/a/b")
        #expect(head.query == "c=d?e")
        #expect(HTTPRequestHead(method: "GET", target: "/").query == nil)
    }

    @Test func valuesCannotEndTheirLine() throws {
        let server = try TestServer { exchange in
            exchange.respond(
                HTTPResponseHead(
                    status: 200, headers: ["x": "a\r\nSet-Cookie: b", "bad name": "c"]),
                text: "")
            return nil
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        #expect(
            try socket.receiveAll().undated == """
                HTTP/1.1 200 OK\r\nx: a  Set-Cookie: b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n
                """)
    }
}
