import Core
import Scheduling

/// What a session knows of the response while it passes by. Belongs to its session.
struct ResponseProgress {
    /// The status; nil before the head.
    var status: Int?
    /// Whether it comes token by token.
    let isStreaming: Bool
    /// When the first byte of the body came; nil before.
    private(set) var firstByteAt: MonotonicTime?
    /// Where its tokens are told; nil if nobody looks.
    private(set) var usage: UsageReader?

    private var model: ResponseModelRewriter?

    /// Awaits the response to a request that is not looked into.
    init() {
        isStreaming = false
    }

    /// Awaits the response to a request of `api`. `model` gives the client's name of the model
    /// back.
    init(of api: RequestAPI, isStreaming: Bool, model: ResponseModelRewriter?) {
        self.isStreaming = isStreaming
        self.model = model
        usage = UsageReader(keepsHead: api == .messages && isStreaming)
    }

    /// A piece of the body passes by. Whether it is the first.
    mutating func append(
        _ bytes: UnsafeRawBufferPointer, at now: @autoclosure () -> MonotonicTime
    ) -> Bool {
        let isFirst = firstByteAt == nil
        if isFirst { firstByteAt = now() }
        usage?.append(bytes)
        return isFirst
    }

    /// What it says of its tokens so far; nil if nothing.
    var tokenUsage: TokenUsage? {
        usage?.usage().map {
            TokenUsage(
                promptTokens: $0.promptTokens, completionTokens: $0.completionTokens,
                cachedTokens: $0.cachedTokens)
        }
    }

    /// Whether its body is changed.
    var isRewritten: Bool { model != nil }

    /// Hands a piece of the body to `emit` as the client is to have it.
    mutating func rewrite(
        _ bytes: UnsafeRawBufferPointer, emit: (UnsafeRawBufferPointer) -> Void
    ) {
        if model?.rewrite(bytes, emit: emit) == nil { emit(bytes) }
    }

    /// Hands over what is held back of a body that is complete.
    mutating func finish(emit: (UnsafeRawBufferPointer) -> Void) {
        model?.finish(emit: emit)
    }
}
