internal import CNet

/// A server's certificate and key, and whose client certificates it wants. TLS 1.2 or newer;
/// offers `h2` and `http/1.1` by ALPN. Any thread.
public final class TLSServerContext: Sendable {
    // Proof for the annotation: never changed, and the C context guards itself.
    nonisolated(unsafe) let handle: OpaquePointer

    /// Reads PEM files: the certificate chain, leaf first, and its key.
    ///
    /// - Parameter clientCAFile: Clients must show a certificate that this file's CAs signed.
    public init(certificatePEMFile: String, keyPEMFile: String, clientCAFile: String? = nil)
        throws(NetError)
    {
        handle = try makeTLSContext { problem, count, handle in
            cn_tls_context_create_server(
                certificatePEMFile, keyPEMFile, clientCAFile, problem, count, handle)
        }
    }

    private init(_ handle: OpaquePointer) {
        self.handle = handle
    }

    deinit {
        cn_tls_context_release(handle)
    }

    /// A fresh P-256 key with a certificate for DNS names and IP literals, signed by itself and
    /// valid for a year.
    public static func selfSigned(names: [String]) throws(NetError) -> TLSServerContext {
        TLSServerContext(
            try makeTLSContext { problem, count, handle in
                withCStrings(names) {
                    cn_tls_context_create_self_signed($0, names.count, problem, count, handle)
                }
            })
    }

    /// Uses another certificate for handshakes from now on. On an error the old one stays.
    public func reload(certificatePEMFile: String, keyPEMFile: String) throws(NetError) {
        try checkTLS { problem, count in
            cn_tls_context_reload(handle, certificatePEMFile, keyPEMFile, problem, count)
        }
    }

    /// The certificate as PEM text, for clients that are to trust it.
    public func certificatePEM() throws(NetError) -> String {
        var text: UnsafeMutablePointer<CChar>?
        let status = cn_tls_context_certificate(handle, &text)
        guard status == CN_OK, let text else { throw NetError(status) }
        defer { cn_free(text) }
        return String(cString: text)
    }
}

/// Whom a client trusts and how it shows itself. TLS 1.2 or newer. Any thread.
public final class TLSClientContext: Sendable {
    /// How the server's certificate is checked.
    public enum Verification: Hashable, Sendable {
        /// Not at all.
        case none
        /// Against the system's CAs, and for the server's name.
        case system
        /// Against the CAs of a PEM file, and for the server's name.
        case ca(file: String)
    }

    // Proof for the annotation: never changed, and the C context guards itself.
    nonisolated(unsafe) let handle: OpaquePointer
    let serverName: String?

    /// - Parameters:
    ///   - serverName: The name sent to the server and checked in its certificate; nil: the host
    ///     of the address.
    ///   - certificatePEMFile: The client's own certificate; given together with its key.
    public init(
        verify: Verification, serverName: String? = nil, certificatePEMFile: String? = nil,
        keyPEMFile: String? = nil
    ) throws(NetError) {
        self.serverName = serverName
        let (kind, file): (cn_tls_verify, String?) =
            switch verify {
            case .none: (CN_TLS_VERIFY_NONE, nil)
            case .system: (CN_TLS_VERIFY_SYSTEM, nil)
            case .ca(let file): (CN_TLS_VERIFY_FILE, file)
            }
        handle = try makeTLSContext { problem, count, handle in
            cn_tls_context_create_client(
                kind, file, certificatePEMFile, keyPEMFile, problem, count, handle)
        }
    }

    deinit {
        cn_tls_context_release(handle)
    }
}

private func makeTLSContext(
    _ make: (UnsafeMutablePointer<CChar>, Int, UnsafeMutablePointer<OpaquePointer?>) -> cn_status
) throws(NetError) -> OpaquePointer {
    var handle: OpaquePointer?
    try checkTLS { make($0, $1, &handle) }
    guard let handle else { throw .tls("no context") }
    return handle
}

private func checkTLS(_ body: (UnsafeMutablePointer<CChar>, Int) -> cn_status) throws(NetError) {
    let error = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) {
        problem -> NetError? in
        problem.initialize(repeating: 0)
        guard let text = problem.baseAddress else { return nil }
        let status = body(text, problem.count)
        return status == CN_OK ? nil : NetError(status, detail: text.pointee == 0 ? nil : text)
    }
    if let error { throw error }
}
