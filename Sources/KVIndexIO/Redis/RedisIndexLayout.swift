import Core
import RedisClient

/// How the index lies in Redis. All keys begin with `llmd:{<namespace>}:` and so stay together in
/// proxies that shard by hash tag.
///
///     numbers       hash     endpoint name -> number
///     b:<key>       string   who holds a block: bit 4 * number + tier; key is 8 bytes, big-endian
///     e:<number>    set      what an endpoint holds, as `SharedBlock.encoded`
///     alive:<n>     string   expires when no router has spoken for the endpoint for long; empty
///                            until all that its writer knows is there, then a mark, another one
///                            each time
///     writer:<name> string   the router that writes the endpoint's blocks; a lease
///     feed          stream   changes, for routers that do not get the endpoint's events
///     next, free    number and set of numbers that may be given
///     retired       set      numbers whose blocks must still be taken away
///
/// An endpoint that loses everything gets a new number: one write, however much it held.
struct RedisIndexLayout: Sendable {
    /// Entries of the feed: 17 bytes for each of up to ``maximumBatchCount`` blocks.
    static let feedLength = 2000
    static let maximumBatchCount = 512
    /// Blocks that one command reads of an endpoint's set.
    static let readCount = 2000

    let prefix: String
    private let blockPrefix: [UInt8]

    init(namespace: String) {
        prefix = "llmd:{\(namespace)}:"
        blockPrefix = Array("\(prefix)b:".utf8)
    }

    // MARK: - Scripts

    enum Script: CaseIterable {
        case claim, renumber, mark, unset, housekeep

        /// KEYS: numbers, writer, free, next, feed; ARGV: prefix, name, router, and what follows.
        private static let names = """
            local numbers, writer, free, next, feed = unpack(KEYS)
            local prefix, name, router = ARGV[1], ARGV[2], ARGV[3]
            local function tell(name, number)
              redis.call('XADD', feed, 'MAXLEN', '~', \(RedisIndexLayout.feedLength), '*',
                'o', '=', 'e', name, 'n', number)
            end
            local function assign(lifetime)
              local number = redis.call('SPOP', free) or redis.call('INCR', next)
              redis.call('HSET', numbers, name, number)
              redis.call('SET', prefix .. 'alive:' .. number, '', 'PX', lifetime)
              tell(name, number)
              return number
            end

            """

        /// Takes the bit of a block back, and the block if that was the last one.
        private static let unsetBit = """
            local function unset(key, offset)
              redis.call('SETBIT', key, offset, 0)
              if redis.call('BITCOUNT', key) == 0 then redis.call('DEL', key) end
            end

            """

        var text: String {
            switch self {
            // ARGV: wants the lease, lease in ms, lifetime in ms. Who writes, the number, its mark
            // if it is alive.
            case .claim:
                Self.names + """
                    local number = redis.call('HGET', numbers, name)
                    local owner = redis.call('GET', writer)
                    local mine = ARGV[4] == '1' and (not owner or owner == router)
                    if mine then
                      redis.call('SET', writer, router, 'PX', ARGV[5])
                      number = number or assign(ARGV[6])
                      local alive = prefix .. 'alive:' .. number
                      redis.call('SET', alive, redis.call('GET', alive) or '', 'PX', ARGV[6])
                    end
                    local mark = number and redis.call('GET', prefix .. 'alive:' .. number)
                    return {mine and 1 or 0, tonumber(number or -1), mark}
                    """
            // ARGV: lifetime in ms. The new number; -1 if another router writes.
            case .renumber:
                Self.names + """
                    if redis.call('GET', writer) ~= router then return -1 end
                    local old = redis.call('HGET', numbers, name)
                    if old then redis.call('SADD', prefix .. 'retired', old) end
                    return tonumber(assign(ARGV[4]))
                    """
            // ARGV: lifetime in ms, number, mark. Whether the router writes that number.
            case .mark:
                Self.names + """
                    if redis.call('GET', writer) ~= router
                      or redis.call('HGET', numbers, name) ~= ARGV[5] then return 0 end
                    redis.call('SET', prefix .. 'alive:' .. ARGV[5], ARGV[6], 'PX', ARGV[4])
                    tell(name, ARGV[5])
                    return 1
                    """
            // KEYS: of blocks; ARGV: the bit of each.
            case .unset:
                Self.unsetBit + """
                    for i = 1, #KEYS do unset(KEYS[i], ARGV[i]) end
                    return #KEYS
                    """
            // Retires endpoints that nobody speaks for, and takes some blocks of retired ones
            // away. Whether there is more to do.
            case .housekeep:
                Self.names + Self.unsetBit + """
                    local known = redis.call('HGETALL', numbers)
                    for i = 1, #known, 2 do
                      if redis.call('EXISTS', prefix .. 'alive:' .. known[i + 1]) == 0 then
                        redis.call('HDEL', numbers, known[i])
                        redis.call('SADD', prefix .. 'retired', known[i + 1])
                        tell(known[i], -1)
                      end
                    end
                    local number = redis.call('SRANDMEMBER', prefix .. 'retired')
                    if not number then return 0 end
                    local held = redis.call('SPOP', prefix .. 'e:' .. number, 256)
                    for _, block in ipairs(held) do
                      unset(prefix .. 'b:' .. string.sub(block, 9, 16),
                        number * 4 + string.byte(block, 17))
                    end
                    if #held == 0 then
                      redis.call('SREM', prefix .. 'retired', number)
                      redis.call('DEL', prefix .. 'alive:' .. number)
                      redis.call('SADD', free, number)
                    end
                    return 1
                    """
            }
        }
    }

    /// Sends a script's text: Redis itself keeps the compiled form, and an empty server needs no
    /// special case.
    private func begin(
        _ script: Script, endpoint: String, router: String, _ arguments: [String],
        in pipeline: inout RedisPipeline
    ) {
        pipeline.begin("EVAL", argumentCount: 2 + 5 + 3 + arguments.count)
        pipeline.add(script.text)
        pipeline.add(5)
        for key in ["numbers", "writer:\(endpoint)", "free", "next", "feed"] {
            pipeline.add(prefix + key)
        }
        pipeline.add(prefix)
        pipeline.add(endpoint)
        pipeline.add(router)
        for argument in arguments { pipeline.add(argument) }
    }

    // MARK: - Commands

    func claim(
        _ endpoint: String, for router: String, wantsLease: Bool, lease: Duration,
        lifetime: Duration, in pipeline: inout RedisPipeline
    ) {
        begin(
            .claim, endpoint: endpoint, router: router,
            [
                wantsLease ? "1" : "0", "\(lease.nanoseconds / 1_000_000)",
                "\(lifetime.nanoseconds / 1_000_000)",
            ], in: &pipeline)
    }

    func renumber(
        _ endpoint: String, for router: String, lifetime: Duration,
        in pipeline: inout RedisPipeline
    ) {
        begin(
            .renumber, endpoint: endpoint, router: router,
            ["\(lifetime.nanoseconds / 1_000_000)"], in: &pipeline)
    }

    /// Everything that the router knows is in Redis under the number.
    func mark(
        _ endpoint: String, _ number: Int, _ mark: String, for router: String, lifetime: Duration,
        in pipeline: inout RedisPipeline
    ) {
        begin(
            .mark, endpoint: endpoint, router: router,
            ["\(lifetime.nanoseconds / 1_000_000)", "\(number)", mark], in: &pipeline)
    }

    func housekeep(in pipeline: inout RedisPipeline) {
        begin(.housekeep, endpoint: "", router: "", [], in: &pipeline)
    }

    func store(_ blocks: [SharedBlock], of number: Int, in pipeline: inout RedisPipeline) {
        for block in blocks {
            pipeline.begin("SETBIT", argumentCount: 3)
            addKey(of: block.key, in: &pipeline)
            pipeline.add(Self.bit(number, block.tier))
            pipeline.add(1)
        }
        changeSet("SADD", blocks, of: number, in: &pipeline)
        tell("+", blocks, of: number, in: &pipeline)
    }

    func remove(_ blocks: [SharedBlock], of number: Int, in pipeline: inout RedisPipeline) {
        changeSet("SREM", blocks, of: number, in: &pipeline)
        pipeline.begin("EVAL", argumentCount: 2 + 2 * blocks.count)
        pipeline.add(Script.unset.text)
        pipeline.add(blocks.count)
        for block in blocks { addKey(of: block.key, in: &pipeline) }
        for block in blocks { pipeline.add(Self.bit(number, block.tier)) }
        tell("-", blocks, of: number, in: &pipeline)
    }

    /// Some blocks of the number, and then its mark: whoever empties Redis in between is seen.
    func read(_ number: Int, from cursor: String, in pipeline: inout RedisPipeline) {
        pipeline.append("SSCAN", "\(prefix)e:\(number)", cursor, "COUNT", "\(Self.readCount)")
        pipeline.append("GET", "\(prefix)alive:\(number)")
    }

    func endOfFeed(in pipeline: inout RedisPipeline) {
        pipeline.append("XREVRANGE", "\(prefix)feed", "+", "-", "COUNT", "1")
    }

    /// The oldest entry that is left, and those after `id`.
    func feed(after id: String, in pipeline: inout RedisPipeline) {
        pipeline.append("XRANGE", "\(prefix)feed", "-", "+", "COUNT", "1")
        pipeline.append("XREAD", "COUNT", "100", "STREAMS", "\(prefix)feed", id)
    }

    /// Asks who holds the blocks, and for the names of the numbers.
    func lookup(_ keys: [UInt64], in pipeline: inout RedisPipeline) {
        pipeline.append("HGETALL", "\(prefix)numbers")
        pipeline.begin("MGET", argumentCount: keys.count)
        for key in keys { addKey(of: key, in: &pipeline) }
    }

    private static func bit(_ number: Int, _ tier: Tier) -> Int { 4 * number + Int(tier.rawValue) }

    private func addKey(of key: UInt64, in pipeline: inout RedisPipeline) {
        withUnsafeBytes(of: key.bigEndian) { pipeline.add(blockPrefix, $0) }
    }

    private func changeSet(
        _ command: String, _ blocks: [SharedBlock], of number: Int,
        in pipeline: inout RedisPipeline
    ) {
        pipeline.begin(command, argumentCount: 1 + blocks.count)
        pipeline.add("\(prefix)e:\(number)")
        for block in blocks {
            let encoded = block.encoded
            withUnsafeBytes(of: encoded) { pipeline.add($0) }
        }
    }

    private func tell(
        _ sign: String, _ blocks: [SharedBlock], of number: Int,
        in pipeline: inout RedisPipeline
    ) {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(blocks.count * SharedBlock.encodedByteCount)
        for block in blocks {
            let encoded = block.encoded
            withUnsafeBytes(of: encoded) { bytes.append(contentsOf: $0) }
        }
        pipeline.begin("XADD", argumentCount: 11)
        for text in ["\(prefix)feed", "MAXLEN", "~", "\(Self.feedLength)", "*", "o", sign, "n"] {
            pipeline.add(text)
        }
        pipeline.add(number)
        pipeline.add("m")
        pipeline.add(bytes)
    }

    // MARK: - Replies

    static func blocks(of set: RedisReply) -> [SharedBlock] {
        (0..<set.count).compactMap { SharedBlock(encoded: set[$0].bytes) }
    }

    enum FeedEntry {
        case changed(number: Int, blocks: [SharedBlock], isStore: Bool)
        case renumbered(endpoint: String)

        /// Nil if the fields are none that this layout writes.
        init?(_ fields: RedisReply) {
            func value(_ name: String) -> RedisReply? {
                var index = 0
                while index + 1 < fields.count {
                    if fields[index].text == name { return fields[index + 1] }
                    index += 2
                }
                return nil
            }
            switch (value("o")?.text, value("n")?.integer) {
            case ("="?, _):
                guard let endpoint = value("e")?.text else { return nil }
                self = .renumbered(endpoint: endpoint)
            case (let sign?, let number?) where sign == "+" || sign == "-":
                guard let bytes = value("m")?.bytes else { return nil }
                let size = SharedBlock.encodedByteCount
                let blocks = stride(from: 0, to: bytes.count - bytes.count % size, by: size)
                    .compactMap { start in
                        SharedBlock(
                            encoded: UnsafeRawBufferPointer(
                                rebasing: bytes[start..<(start + size)]))
                    }
                self = .changed(number: number, blocks: blocks, isStore: sign == "+")
            default: return nil
            }
        }
    }

    /// For each endpoint, how many of the blocks it holds from the first on.
    static func matches(numbers: RedisReply, blocks: RedisReply) -> [String: Int] {
        var left: [(name: String, number: Int)] = []
        for index in stride(from: 0, to: numbers.count - 1, by: 2) {
            guard let name = numbers[index].text, let number = numbers[index + 1].integer else {
                continue
            }
            left.append((name, number))
        }
        var matches: [String: Int] = [:]
        for index in 0..<blocks.count where !left.isEmpty {
            let bits = blocks[index].bytes
            left.removeAll { endpoint in
                // Four bits, the first the highest of its byte.
                let byte = endpoint.number / 2
                let half = byte < bits.count ? bits[byte] : 0
                let isHeld = (endpoint.number % 2 == 0 ? half >> 4 : half & 15) != 0
                if isHeld { matches[endpoint.name] = index + 1 }
                return !isHeld
            }
        }
        return matches
    }
}
