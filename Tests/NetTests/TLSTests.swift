import Core
import Foundation
import Net
import Testing

@Suite(.serialized) final class TLSTests {
    let context: TLSServerContext
    let folder: URL

    init() throws {
        context = try TLSServerContext.selfSigned(names: ["localhost", "127.0.0.1", "::1"])
        folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(at: folder)
    }

    private func server() throws -> TestServer {
        try TestServer(HTTPServerConfiguration(tls: context)) { exchange in
            exchange.respond(HTTPResponseHead(status: 200), text: exchange.isHTTP2 ? "h2" : "h1")
            return nil
        }
    }

    private func file(_ name: String, _ text: String) throws -> String {
        let url = folder.appending(path: name)
        try text.write(to: url, atomically: true, encoding: .utf8)
        return url.path
    }

    @Test(arguments: [true, false]) func alpnChoosesTheVersion(http2: Bool) throws {
        let server = try server()
        let tls = try TLSClientContext(verify: .none)
        let client = try TestClient {
            $0.tls = tls
            $0.http2 = http2
        }
        for _ in 0..<3 {
            let response = try client.start(to: server.address).response()
            #expect(String(decoding: response.body, as: UTF8.self) == (http2 ? "h2" : "h1"))
        }
    }

    @Test func trustedCertificateIsChecked() throws {
        let server = try server()
        let ca = try file("ca.pem", context.certificatePEM())
        func body(_ verify: TLSClientContext.Verification, name: String? = nil) throws -> String {
            let tls = try TLSClientContext(verify: verify, serverName: name)
            let client = try TestClient { $0.tls = tls }
            return String(
                decoding: try client.start(to: server.address).response().body, as: UTF8.self)
        }
        #expect(try body(.ca(file: ca)) == "h1")
        #expect(try body(.ca(file: ca), name: "localhost") == "h1")
        for (verify, name) in [
            (TLSClientContext.Verification.ca(file: ca), "other.example"), (.system, "localhost"),
        ] {
            do {
                _ = try body(verify, name: name)
                #expect(Bool(false))
            } catch NetError.tls(let reason) {
                #expect(!reason.isEmpty)
            }
        }
    }

    @Test(arguments: [true, false]) func largeBodiesGoBothWays(http2: Bool) throws {
        let server = try TestServer(HTTPServerConfiguration(tls: context)) { Echo($0) }
        let tls = try TLSClientContext(verify: .none)
        let client = try TestClient {
            $0.tls = tls
            $0.http2 = http2
        }
        let body = (0..<(4 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 17) }
        let response = try client.start("POST", to: server.address, body: .bytes(body)).response()
        #expect(response.body == body)
    }

    @Test func plainClientIsTurnedAway() throws {
        let server = try server()
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(!(try socket.receiveAll()).contains("HTTP/1.1"))
        // And a TLS client by a plain server.
        let plain = try TestServer(handler: ServerTests.ok)
        let tls = try TLSClientContext(verify: .none)
        let client = try TestClient { $0.tls = tls }
        let inbox = client.start(to: plain.address)
        guard case .failed(.tls) = try inbox.next() else { return #expect(Bool(false)) }
    }

    @Test func silentHandshakeTimesOut() throws {
        var configuration = HTTPServerConfiguration(tls: context)
        configuration.headerTimeout = .milliseconds(100)
        let server = try TestServer(configuration, handler: ServerTests.ok)
        #expect(try RawSocket(to: server.address).receiveAll() == "")
        let silent = try RawServer()
        let tls = try TLSClientContext(verify: .none)
        let client = try TestClient {
            $0.tls = tls
            $0.connectTimeout = .milliseconds(100)
        }
        #expect(try client.start(to: silent.address).next() == .failed(.timeout(.connect)))
    }

    private static func fixture(_ name: String) -> String {
        URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures/\(name)")
            .path
    }

    @Test func clientCertificateIsDemanded() throws {
        let context = try TLSServerContext(
            certificatePEMFile: Self.fixture("server.pem"), keyPEMFile: Self.fixture("server.key"),
            clientCAFile: Self.fixture("ca.pem"))
        let server = try TestServer(
            HTTPServerConfiguration(tls: context), handler: ServerTests.ok)
        let stranger = try TLSClientContext(verify: .none)
        let anonymous = try TestClient { $0.tls = stranger }
        #expect(throws: NetError.self) { try anonymous.start(to: server.address).response() }
        let known = try TLSClientContext(
            verify: .ca(file: Self.fixture("ca.pem")), serverName: "server.test",
            certificatePEMFile: Self.fixture("client.pem"), keyPEMFile: Self.fixture("client.key"))
        let client = try TestClient { $0.tls = known }
        #expect(try client.start(to: server.address).response().status == 200)
    }

    @Test func reloadedCertificateIsUsed() throws {
        let server = try server()
        let tls = try TLSClientContext(
            verify: .ca(file: Self.fixture("ca.pem")), serverName: "server.test")
        let client = try TestClient { $0.tls = tls }
        #expect(throws: NetError.self) { try client.start(to: server.address).response() }
        try context.reload(
            certificatePEMFile: Self.fixture("server.pem"), keyPEMFile: Self.fixture("server.key"))
        #expect(try client.start(to: server.address).response().status == 200)
    }

    @Test func keyOfAnotherCertificateIsAnError() {
        #expect(throws: NetError.self) {
            try TLSServerContext(
                certificatePEMFile: Self.fixture("server.pem"),
                keyPEMFile: Self.fixture("client.key"))
        }
    }

    @Test func badFilesAreErrorsThatNameThem() throws {
        let bad = try file("bad.pem", "nonsense")
        do {
            _ = try TLSServerContext(certificatePEMFile: bad, keyPEMFile: bad)
            #expect(Bool(false))
        } catch {
            #expect(error.description.contains(bad))
        }
        do {
            _ = try TLSClientContext(verify: .ca(file: "/no/such/file"))
            #expect(Bool(false))
        } catch {
            #expect(error.description.contains("/no/such/file"))
        }
        // A reload that fails leaves the old certificate.
        #expect(throws: NetError.self) {
            try context.reload(certificatePEMFile: bad, keyPEMFile: bad)
        }
        let server = try server()
        let tls = try TLSClientContext(verify: .none)
        let client = try TestClient { $0.tls = tls }
        #expect(try client.start(to: server.address).response().status == 200)
    }
}
