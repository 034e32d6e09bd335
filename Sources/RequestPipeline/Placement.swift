import ModelServers

/// A request at its endpoints: counted in where it is, until ``end()``. Belongs to its session.
struct Placement {
    /// Who answers.
    private(set) var target: PoolMember
    /// Who computes the prompt for the target; nil: the target does, or it is computed.
    private(set) var prefill: PoolMember?

    /// Nil once they are computed.
    private var prefillTokens: Int?
    /// Whether the request is the probe of an open circuit there.
    private var isProbe: Bool
    private var isPrefillProbe: Bool

    /// Counts a request in, and the tokens of its prompt that are yet to be computed.
    init(at target: PoolMember, prefill: PoolMember?, uncachedTokens: Int) {
        self.target = target
        self.prefill = prefill
        prefillTokens = uncachedTokens
        isProbe = target.requestStarted()
        isPrefillProbe = prefill?.requestStarted() ?? false
        (prefill ?? target).prefillStarted(tokenCount: uncachedTokens)
    }

    /// The head of the response came; whether that says that the prompt is computed. It does if
    /// another endpoint was to compute it, for the target is asked after that. An engine that
    /// does both sends the head of a stream before it begins: only its first token tells.
    mutating func responseStarted() -> Bool {
        guard prefill != nil else { return false }
        endPrefill()
        return true
    }

    /// The prompt is computed, or nobody will wait for it.
    mutating func endPrefill() {
        guard let tokens = prefillTokens.take() else { return }
        (prefill ?? target).prefillEnded(tokenCount: tokens)
        prefill?.requestEnded(wasProbe: isPrefillProbe)
        prefill = nil
    }

    /// The data plane went on to another endpoint.
    mutating func move(to fallback: PoolMember) {
        endPrefill()
        target.requestEnded(wasProbe: isProbe)
        target = fallback
        isProbe = fallback.requestStarted()
    }

    /// Counts the request out.
    mutating func end() {
        endPrefill()
        target.requestEnded(wasProbe: isProbe)
    }
}
