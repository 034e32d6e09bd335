package import Core
package import Hashing

/// KV cache that another engine computed and keeps for this one, as `kv_transfer_params` name it.
package struct RemoteKV: Equatable, Sendable {
    /// The engine, by the identity of its transfer side.
    package var engineID: String
    /// The request there, which its blocks are kept for.
    package var requestID: String
    /// Where its transfer side listens.
    package var address: SocketAddress
    /// The blocks in the order of the prompt's tokens.
    package var blocks: [UInt32]
    /// Of the engine's pool when it named the blocks; 0 if it does not say.
    package var epoch: UInt64
    /// Prompt tokens that the engine had cached and did not compute; nil if it does not say.
    package var cachedTokenCount: Int?

    /// Names remote KV cache.
    package init(
        engineID: String, requestID: String, address: SocketAddress, blocks: [UInt32],
        epoch: UInt64 = 0, cachedTokenCount: Int? = nil
    ) {
        self.engineID = engineID
        self.requestID = requestID
        self.address = address
        self.blocks = blocks
        self.epoch = epoch
        self.cachedTokenCount = cachedTokenCount
    }
}

/// What the engine tells the owner of a request.
package protocol EngineRequestDelegate: AnyObject {
    /// More tokens are out: `request.generatedCount` of them so far. Tokens may be out before it
    /// is called for each.
    func requestProducedToken(_ request: EngineRequest)
    /// The request cannot be served; nothing follows.
    func request(_ request: EngineRequest, failed error: APIError)
}

/// One sequence in the engine: a prompt and the reply to it. Belongs to the engine's loop.
package final class EngineRequest {
    /// Where a request stands.
    package enum State: Equatable, Sendable {
        /// Waits for a place in the batch and for blocks.
        case waiting
        /// Waits for blocks to pull remote KV cache into.
        case waitingToPull
        /// Its blocks belong to a transfer.
        case pulling
        /// Aborted, but its blocks belong to a transfer still.
        case cancelling
        /// The bytes are here; the time that the transfer is modelled to take is not over.
        case arriving
        /// The remote KV cache is here; waits for the rest to be computed.
        case arrived
        case prefilling
        case decoding
        /// Done; its blocks are kept for another engine.
        case pinned
        case ended
    }

    /// When what happened to a request.
    package struct Timeline: Sendable {
        /// It came.
        package internal(set) var arrived = MonotonicTime(nanoseconds: 0)
        /// Its prefill began.
        package internal(set) var scheduled = MonotonicTime(nanoseconds: 0)
        /// Its first token was out.
        package internal(set) var firstToken = MonotonicTime(nanoseconds: 0)
        /// The last token so far was out.
        package internal(set) var lastToken = MonotonicTime(nanoseconds: 0)
    }

    /// Unique in the engine, and what another engine names it by.
    package let id: String
    /// Its place among the requests of one call of the API.
    package let index: Int
    /// The prompt's tokens, at least one.
    package let prompt: [UInt32]
    /// What will be said.
    package let reply: Reply
    /// Where the KV cache of the prompt can be had.
    package let remote: RemoteKV?
    /// Whether the blocks stay after the end, for another engine to pull.
    package let keepsBlocks: Bool
    /// The adapter to use; covered by the hashes of all blocks.
    package let adapter: LoRAAdapter?
    /// Covered by the hash of the first block.
    package let salt: String?
    /// Hears of tokens; not kept alive.
    package weak var delegate: (any EngineRequestDelegate)?

    /// Where it stands.
    package internal(set) var state = State.waiting
    /// The blocks it holds, in the order of its tokens.
    package internal(set) var blocks: [BlockID] = []
    /// The hashes of the full blocks of its tokens so far.
    package internal(set) var chain: [BlockHash] = []
    /// Places in ``blocks`` and ``chain`` of what is pulled from another engine. What precedes it
    /// was cached here, what follows it is computed here. After a preemption nothing is pulled.
    package internal(set) var pulled = 0..<0
    /// Tokens generated so far.
    package internal(set) var generatedCount = 0
    /// When what happened.
    package internal(set) var timeline = Timeline()

    /// Times that it lost its blocks to others.
    package internal(set) var preemptionCount = 0

    /// Prompt tokens whose KV cache was found here, at the first admission.
    package internal(set) var cachedTokenCount = 0
    /// Prompt tokens whose KV cache another engine computed.
    package internal(set) var pulledTokenCount = 0

    /// The first decode step that it is part of.
    var firstStep = 0
    /// When the transfer began, and when its modelled time is over.
    var pullBegan = MonotonicTime(nanoseconds: 0)
    var arrives = MonotonicTime(nanoseconds: 0)

    /// A request that has not been submitted yet.
    package init(
        id: String, index: Int = 0, prompt: [UInt32], reply: Reply, remote: RemoteKV? = nil,
        keepsBlocks: Bool = false, adapter: LoRAAdapter? = nil, salt: String? = nil
    ) {
        precondition(!prompt.isEmpty, "a prompt has a token at least")
        self.id = id
        self.index = index
        self.prompt = prompt
        self.reply = reply
        self.remote = remote
        self.keepsBlocks = keepsBlocks
        self.adapter = adapter
        self.salt = salt
    }

    /// Prompt tokens that no engine computed for this request. Of a prompt that another engine
    /// computed, that engine knows how many it had cached; it is believed as far as its blocks
    /// reach.
    package var reusedTokenCount: Int {
        guard let count = remote?.cachedTokenCount else { return cachedTokenCount }
        return min(count, cachedTokenCount + pulledTokenCount)
    }

    /// Tokens of the prompt and of the reply so far.
    var tokenCount: Int { prompt.count + generatedCount }

    /// Whether the last token is out.
    package var hasEnded: Bool { generatedCount == reply.tokenCount }

    /// The token at a place of the prompt and the reply after it.
    func token(at index: Int) -> UInt32 {
        index < prompt.count ? prompt[index] : reply.token(at: index - prompt.count)
    }
}
