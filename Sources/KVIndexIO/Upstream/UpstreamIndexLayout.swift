import Core
import RedisClient

/// llm-d's index as it lies in Redis, without a namespace:
///
///     <request key>          hash         who holds the block: a field per `PodEntry`, value ""
///     engine:<engine hash>   sorted set   the request keys of an engine's block, by their place
///
/// All numbers are unsigned and decimal.
enum UpstreamIndexLayout {
    private static let enginePrefix = Array("engine:".utf8)

    /// Takes fields away, then the engine keys of which no request key is left: an empty hash is
    /// gone by itself. KEYS: engine keys; ARGV: for each a request key, or nothing for those of the
    /// engine key, and a field, or nothing for none. The request keys that were found for each. Keys of another type are
    /// foreign and left alone.
    private static let removeScript = """
        local problem
        local function try(...)
          local reply = redis.pcall(...)
          if type(reply) ~= 'table' or not reply.err then return reply end
          if string.sub(reply.err, 1, 9) ~= 'WRONGTYPE' then problem = problem or reply end
        end
        local found = {}
        for i, engine in ipairs(KEYS) do
          local block, field = ARGV[2 * i - 1], ARGV[2 * i]
          local blocks = try('ZRANGE', engine, 0, -1) or {}
          found[i] = block == '' and blocks or {}
          for _, key in ipairs(found[i]) do try('HDEL', key, field) end
          if block ~= '' and field ~= '' then try('HDEL', block, field) end
          local left = block ~= '' and redis.call('EXISTS', block) or 0
          for _, key in ipairs(blocks) do left = left + redis.call('EXISTS', key) end
          if left == 0 and #blocks > 0 then try('DEL', engine) end
        end
        return problem or found
        """

    /// Tells of a pod's blocks: a command or two for each that is stored, then, if any is taken
    /// away, one, whose reply has for each the request keys that were found.
    static func tell(
        _ work: UpstreamEndpoint.Work, of pod: String, group: Int?, in pipeline: inout RedisPipeline
    ) {
        let fields = (0..<8).map { field in
            let tier = Tier(rawValue: UInt8(field / 2)) ?? .remote
            let group = field % 2 == 0 ? nil : group ?? 0
            return PodEntry(pod: pod, tier: tier, group: group).encoded
        }
        for block in work.stores {
            if let hash = block.hash {
                pipeline.begin("ZADD", argumentCount: 3)
                pipeline.add(enginePrefix, String(hash).utf8)
                pipeline.add(0)
                pipeline.add(block.key)
            }
            guard block.fields != 0 else { continue }
            pipeline.begin("HSET", argumentCount: 1 + 2 * block.fields.nonzeroBitCount)
            pipeline.add(block.key)
            for field in 0..<8 where block.fields >> field & 1 != 0 {
                pipeline.add(fields[field])
                pipeline.add("")
            }
        }
        guard !work.removals.isEmpty else { return }
        pipeline.begin("EVAL", argumentCount: 2 + 3 * work.removals.count)
        pipeline.add(removeScript)
        pipeline.add(work.removals.count)
        for block in work.removals {
            pipeline.add(enginePrefix, (block.hash.map { String($0) } ?? "").utf8)
        }
        for block in work.removals {
            pipeline.add(block.key.map { String($0) } ?? "")
            pipeline.add(block.field.map { fields[$0] } ?? [])
        }
    }

    /// Asks who holds blocks: a command for each.
    static func lookup(_ keys: [UInt64], in pipeline: inout RedisPipeline) {
        for key in keys {
            pipeline.begin("HKEYS", argumentCount: 1)
            pipeline.add(key)
        }
    }
}
