internal import Dispatch
internal import Glibc

extension EventLoop {
    /// Looks a host name up, on another thread, by the system's resolver and within its time
    /// limits. On the loop; `body` is called there, unless the loop ends before.
    ///
    /// The result are the literals of all addresses, sorted and each once; or
    /// ``NetError/cannotResolve(_:)``.
    public func resolve(
        _ host: String, _ body: @escaping (Result<[String], NetError>) -> Void
    ) {
        preconditionInLoop()
        let answer = Answer(body)
        DispatchQueue.global().async {
            let result = Result { () throws(NetError) in try literals(of: host) }
            self.execute { answer.body(result) }
        }
    }
}

/// Carries the caller's body through another thread.
private final class Answer: @unchecked Sendable {
    // Proof for the annotation: the body is called on the loop alone; its last reference may be
    // given up elsewhere only when the loop has ended.
    let body: (Result<[String], NetError>) -> Void

    init(_ body: @escaping (Result<[String], NetError>) -> Void) {
        self.body = body
    }
}

private func literals(of host: String) throws(NetError) -> [String] {
    var hints = addrinfo()
    hints.ai_family = AF_UNSPEC
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    guard getaddrinfo(host, nil, &hints, &list) == 0 else { throw .cannotResolve(host) }
    defer { freeaddrinfo(list) }
    var literals: Set<String> = []
    var entry = list
    while let address = entry?.pointee {
        var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        let status = getnameinfo(
            address.ai_addr, address.ai_addrlen, &text, socklen_t(text.count), nil, 0,
            NI_NUMERICHOST)
        if status == 0 {
            let end = text.firstIndex(of: 0) ?? text.endIndex
            literals.insert(
                String(decoding: text[..<end].map(UInt8.init(bitPattern:)), as: UTF8.self))
        }
        entry = address.ai_next
    }
    return literals.sorted()
}
