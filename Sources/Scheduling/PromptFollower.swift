/// What is known of a prompt when its first bytes have come.
public struct PromptBeginning: Sendable {
    /// How a prompt comes.
    public enum Form: Sendable {
        /// As token ids.
        case tokens
        /// As text.
        case text
    }

    /// How it comes.
    public var form: Form
    /// About how many bytes it has, of text or of token ids in decimal.
    public var expectedBytes: Int
    /// The model that the endpoint will be asked for, unless the rest of the body says otherwise;
    /// nil if that is not known yet.
    public var targetModel: String?
    /// The cache salt; nil: none, unless the rest of the body has one.
    public var cacheSalt: String?

    /// Makes a beginning.
    public init(
        form: Form, expectedBytes: Int, targetModel: String? = nil, cacheSalt: String? = nil
    ) {
        self.form = form
        self.expectedBytes = expectedBytes
        self.targetModel = targetModel
        self.cacheSalt = cacheSalt
    }
}

/// A producer that can do a part of its work on a prompt while the request's body comes, so that
/// little is left to do at its end.
public protocol PromptFollower: DataProducer {
    /// Starts on a prompt; nil if nothing can be done before all of the request is known.
    ///
    /// What is returned is in the request's ``SchedulingRequest/promptWork(of:)`` once it was given
    /// the whole prompt. It is for the producer to see whether what it went by is still so.
    func follow(_ beginning: PromptBeginning) -> (any PromptWork)?
}

/// What a producer does on one prompt while it comes. Belongs to one thread.
public protocol PromptWork: AnyObject {
    /// Token ids go on.
    func append(_ tokens: Span<UInt32>)
    /// Text goes on, as it stands in the body; cut anywhere.
    func append(text: Span<UInt8>)
}
