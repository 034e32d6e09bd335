import Core
import Scan
import Scheduling

/// A request's body while it comes. Belongs to its session.
struct BodyIntake {
    /// A body that is complete.
    enum Content {
        /// With the prompt as far as plugins have dealt with it.
        case json(JSONDocument, FollowedPrompt?)
        /// Of a request that is not looked into.
        case opaque([UInt8])
    }

    /// How much has come.
    private(set) var byteCount = 0

    private let maximumBytes: Int
    private let contentLength: Int?
    private let scanner: JSONScanner?
    private let api: RequestAPI?
    private let headers: any HeaderLookup
    private let router: Router
    private var following: PromptFollowing?
    private var unread: [UInt8] = []
    private var isLong = false

    /// Awaits the body of a request of `api`; nil: of one that will be refused.
    init(of api: RequestAPI?, headers: any HeaderLookup, router: Router) {
        contentLength = headers.value(ofHeader: "content-length").flatMap { Int($0) }
        maximumBytes = router.configuration.maximumBodyBytes
        let expected = min(max(contentLength ?? 0, 0), maximumBytes)
        self.api = api
        self.headers = headers
        self.router = router
        if api == .opaque {
            scanner = nil
            unread.reserveCapacity(expected)
        } else {
            scanner = JSONScanner(expectedBytes: expected)
        }
    }

    /// Throws 413 if the client has announced too much.
    func checkLength() throws(APIError) {
        try check(contentLength ?? 0)
    }

    /// Takes in a piece, of any length; copied.
    ///
    /// - Throws: 413 if it is too much, 400 if it is no JSON and should be.
    mutating func append(_ bytes: UnsafeRawBufferPointer) throws(APIError) {
        byteCount += bytes.count
        try check(byteCount)
        guard let scanner else { return unread.append(contentsOf: bytes) }
        do {
            try scanner.feed(bytes)
            follow(scanner)
        } catch {
            throw .malformedJSON(error)
        }
    }

    /// Gives producers what is there of the prompt, if it is long.
    private mutating func follow(_ scanner: JSONScanner) {
        guard byteCount >= PromptFollowing.minimumBytes else { return }
        // The first piece that makes it long.
        if !isLong {
            isLong = true
            following = PromptFollowing(
                of: api, headers: headers, expectedBytes: max(contentLength ?? 0, byteCount),
                router: router)
        }
        following?.advance(scanner)
    }

    /// The body is complete: hands it over.
    ///
    /// - Throws: 400 if it is no whole JSON text and should be.
    mutating func finish() throws(APIError) -> Content {
        guard let scanner else {
            defer { unread = [] }
            return .opaque(unread)
        }
        do {
            let followed = following?.finish()
            following = nil
            return .json(try scanner.finish(), followed)
        } catch {
            throw .malformedJSON(error)
        }
    }

    private func check(_ count: Int) throws(APIError) {
        if count > maximumBytes { throw .tooLarge(limitBytes: maximumBytes) }
    }
}
