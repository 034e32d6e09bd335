import CHiredis

/// One reply of a server, in hiredis' memory: valid as long as the call that hands it over.
public struct RedisReply {
    private let reply: UnsafePointer<redisReply>

    init(_ reply: UnsafePointer<redisReply>) {
        self.reply = reply
    }

    /// The bytes of a string or status; empty otherwise.
    public var bytes: UnsafeRawBufferPointer {
        switch reply.pointee.type {
        case REDIS_REPLY_STRING, REDIS_REPLY_STATUS:
            UnsafeRawBufferPointer(start: reply.pointee.str, count: reply.pointee.len)
        default: UnsafeRawBufferPointer(start: nil, count: 0)
        }
    }

    /// A string or status as text; nil otherwise.
    public var text: String? {
        switch reply.pointee.type {
        case REDIS_REPLY_STRING, REDIS_REPLY_STATUS: String(decoding: bytes, as: UTF8.self)
        default: nil
        }
    }

    /// An integer, or a string that is one in decimal; nil otherwise.
    public var integer: Int? {
        reply.pointee.type == REDIS_REPLY_INTEGER
            ? Int(reply.pointee.integer) : text.flatMap { Int($0) }
    }

    /// Whether there is no value.
    public var isNil: Bool { reply.pointee.type == REDIS_REPLY_NIL }

    /// What the server refused, if it did.
    public var error: RedisServerError? {
        guard reply.pointee.type == REDIS_REPLY_ERROR else { return nil }
        let text = UnsafeRawBufferPointer(start: reply.pointee.str, count: reply.pointee.len)
        return RedisServerError(message: String(decoding: text, as: UTF8.self))
    }

    /// The number of elements of an array; 0 otherwise.
    public var count: Int {
        reply.pointee.type == REDIS_REPLY_ARRAY ? reply.pointee.elements : 0
    }

    /// An element of an array.
    public subscript(index: Int) -> RedisReply {
        precondition(index < count, "the reply has no element \(index)")
        guard let element = reply.pointee.element[index] else {
            preconditionFailure("hiredis leaves no element out")
        }
        return RedisReply(element)
    }
}

/// The replies of one pipeline in the order of its commands: valid as long as the call that hands
/// them over.
public struct RedisReplies {
    let replies: ArraySlice<UnsafeMutablePointer<redisReply>>

    /// The number of commands.
    public var count: Int { replies.count }

    /// The reply of a command.
    public subscript(index: Int) -> RedisReply {
        RedisReply(replies[replies.startIndex + index])
    }

    /// The first error among the replies.
    public var firstError: RedisServerError? {
        for reply in replies where reply.pointee.type == REDIS_REPLY_ERROR {
            return RedisReply(reply).error
        }
        return nil
    }
}

/// hiredis' parser, and the replies that came and are not handed over yet.
final class ReplyReader {
    private let reader: UnsafeMutablePointer<redisReader>
    private var replies: [UnsafeMutablePointer<redisReply>] = []

    init() {
        guard let reader = redisReaderCreate() else { preconditionFailure("no memory") }
        self.reader = reader
    }

    deinit {
        for reply in replies { freeReplyObject(reply) }
        redisReaderFree(reader)
    }

    var count: Int { replies.count }

    /// Parses what came, as far as it goes.
    func feed(_ bytes: UnsafeRawBufferPointer, maximumBytes: Int) throws(RedisError) {
        redisReaderFeed(reader, bytes.baseAddress, bytes.count)
        while true {
            var reply: UnsafeMutableRawPointer?
            guard redisReaderGetReply(reader, &reply) == REDIS_OK else {
                throw .malformedReply(problem)
            }
            guard let reply else { break }
            replies.append(reply.assumingMemoryBound(to: redisReply.self))
        }
        guard reader.pointee.len <= maximumBytes else {
            throw .malformedReply("more than \(maximumBytes) bytes")
        }
    }

    /// Hands the first `count` replies over and frees them.
    func take<Result>(_ count: Int, _ body: (RedisReplies) -> Result) -> Result {
        let taken = replies.prefix(count)
        replies.removeFirst(count)
        defer { for reply in taken { freeReplyObject(reply) } }
        return body(RedisReplies(replies: taken))
    }

    private var problem: String {
        withUnsafeBytes(of: reader.pointee.errstr) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
    }
}
