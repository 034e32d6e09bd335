/// What a decision came to. Candidates are indices into `SchedulingContext.endpoints`.
public struct SchedulingResult: Equatable, Sendable {
    /// Where the request goes: the best first, then the ones to fall back to. Not empty.
    public var primary: [ScoredCandidate]
    /// Who computes the prompt for `primary`, the best first; empty if `primary` does it itself.
    public var prefill: [ScoredCandidate]
    /// Who encodes the media for the others; empty if they do it themselves.
    public var encode: [ScoredCandidate]
    /// The name of the profile that picked `prefill`.
    public var prefillProfile: String
    /// The name of the profile that picked `encode`.
    public var encodeProfile: String

    /// Makes a result.
    public init(
        primary: [ScoredCandidate], prefill: [ScoredCandidate] = [],
        encode: [ScoredCandidate] = [], prefillProfile: String = "prefill",
        encodeProfile: String = "encode"
    ) {
        self.primary = primary
        self.prefill = prefill
        self.encode = encode
        self.prefillProfile = prefillProfile
        self.encodeProfile = encodeProfile
    }

    /// The best pick of a profile, or where the request goes if `profile` is nil.
    public func pick(of profile: String?) -> ScoredCandidate? {
        switch profile {
        case nil: primary.first
        case prefillProfile: prefill.first
        case encodeProfile: encode.first
        default: primary.first
        }
    }
}
