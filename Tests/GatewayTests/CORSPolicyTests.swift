import Gateway
import Net
import Testing

@Suite struct CORSPolicyTests {
    private let page = "https://chat.example"

    private func head(_ method: String, _ headers: HTTPHeaders) -> HTTPRequestHead {
        HTTPRequestHead(method: method, target: "/v1/chat/completions", headers: headers)
    }

    private func policy(_ origins: String...) throws -> CORSPolicy {
        try #require(CORSPolicy(origins: origins))
    }

    @Test(arguments: ["chat.example", "https://chat.example/", "https://", "://a", "https:/a", ""])
    func whatIsNoOriginIsRefused(text: String) {
        #expect(CORSPolicy(origins: [text]) == nil)
    }

    @Test func answersAPreflight() throws {
        let policy = try policy(page)
        let question = head(
            "OPTIONS",
            [
                "origin": page, "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,x-stainless-os",
            ])
        let answer = try #require(policy.preflight(question))
        #expect(answer.status == 204)
        #expect(answer.headers[first: "access-control-allow-methods"]?.contains("POST") == true)
        #expect(
            answer.headers[first: "access-control-allow-headers"] == "authorization,x-stainless-os")
    }

    @Test func anotherPageIsAllowedNothing() throws {
        let policy = try policy(page)
        let question = head(
            "OPTIONS", ["origin": "https://evil.example", "access-control-request-method": "POST"])
        let answer = try #require(policy.preflight(question))
        #expect(answer.status == 403 && answer.headers.isEmpty)
        var headers: HTTPHeaders = ["access-control-allow-origin": "*"]
        policy.apply(to: &headers, for: question)
        #expect(headers[first: "access-control-allow-origin"] == nil)
        #expect(headers[first: "vary"] == "origin")
    }

    @Test func otherRequestsAreNoPreflights() throws {
        let policy = try policy("*")
        #expect(policy.preflight(head("OPTIONS", ["origin": page])) == nil)
        #expect(
            policy.preflight(
                head("POST", ["origin": page, "access-control-request-method": "POST"])) == nil)
    }

    @Test func responsesSayWhoMayReadThem() throws {
        var headers: HTTPHeaders = [:]
        try policy(page, "http://localhost:3000").apply(
            to: &headers, for: head("POST", ["origin": "http://localhost:3000"]))
        #expect(headers[first: "access-control-allow-origin"] == "http://localhost:3000")
        #expect(headers[first: "access-control-expose-headers"] == "*")

        headers = [:]
        try policy("*").apply(to: &headers, for: head("POST", ["origin": page]))
        #expect(headers[first: "access-control-allow-origin"] == "*")
        #expect(headers[first: "vary"] == nil)

        headers = [:]
        try policy("*").apply(to: &headers, for: head("POST", [:]))
        #expect(headers[first: "access-control-allow-origin"] == nil)
    }
}
