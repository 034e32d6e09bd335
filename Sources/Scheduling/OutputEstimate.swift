/// A plugin that estimates the tokens that requests in flight are yet to be given, by the
/// endpoint's id. Any thread.
public protocol OutputEstimate: Sendable {
    /// Those of this router's requests; endpoints without any may be missing.
    var outputTokensInFlight: [UInt32: Int] { get }
    /// Takes those of other routers' requests together, in the place of what was taken before.
    func setOthersOutputTokens(_ tokens: [UInt32: Int])
}
