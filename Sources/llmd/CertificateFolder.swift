import Logging
import Net

/// A folder with `tls.crt`, the chain, and `tls.key`, as a mounted secret has them.
struct CertificateFolder {
    let path: String

    private var certificate: String { "\(path)/tls.crt" }
    private var key: String { "\(path)/tls.key" }

    /// Reads the files.
    func context() throws(NetError) -> TLSServerContext {
        try TLSServerContext(certificatePEMFile: certificate, keyPEMFile: key)
    }

    /// Reads the files, now and whenever they have changed; those that do not fit change nothing.
    func context(followedOn loop: EventLoop) throws(NetError) -> TLSServerContext {
        let context = try context()
        loop.execute { follower(of: context).start(on: loop) }
        return context
    }

    /// Reads the files into a context again when they have changed.
    func follower(of context: TLSServerContext) -> FileFollower {
        let logger = Logger(label: "tls")
        return FileFollower([certificate, key]) {
            do {
                try context.reload(certificatePEMFile: certificate, keyPEMFile: key)
                logger.info("certificate read")
            } catch {
                logger.error("certificate kept: \(error)")
            }
        }
    }
}
