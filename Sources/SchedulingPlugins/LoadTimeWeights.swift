import Configuration
import Core
import KVIndex

/// What a block in a tier is worth by the time that loading it takes, against the time in which it
/// would be computed anew:
///
///     weight(tier) = max(0, 1 - loadTime / recomputeTime)
///     loadTime      = tokens per block * kvBytesPerToken / bytesPerSecond(tier)
///     recomputeTime = tokens per block / prefillTokensPerSecond
///
/// so that a block that loads no sooner than it is computed is worth nothing. The size of a block
/// cancels out: a tier has one weight, known before the first request. Blocks on the GPU are not
/// loaded and have 1. A tier whose speed is not told has 0.
enum LoadTimeWeights {
    /// Parameters: `kvBytesPerToken`, `prefillTokensPerSecond`, `bytesPerSecond` with `cpu`,
    /// `disk` (or `storage`) and `remote`, each of which may be left out.
    static func weights(_ value: ConfigValue) throws(ConfigError) -> TierWeights {
        try value.section { (section) throws(ConfigError) in
            let bytesPerToken = try section.required("kvBytesPerToken").number(in: 1...1e9)
            let tokensPerSecond = try section.required("prefillTokensPerSecond")
                .number(in: 1...1e12)
            var weights = TierWeights(gpu: 1, cpu: 0, disk: 0, remote: 0)
            var named: Set<Tier> = []
            try section.required("bytesPerSecond").section { (section) throws(ConfigError) in
                for (key, tier) in [
                    ("cpu", Tier.cpu), ("disk", .disk), ("storage", .disk), ("remote", .remote),
                ] {
                    guard let speed = section.optional(key) else { continue }
                    guard named.insert(tier).inserted else {
                        throw speed.error("names a tier a second time")
                    }
                    weights[tier] = weight(
                        bytesPerToken: bytesPerToken, tokensPerSecond: tokensPerSecond,
                        bytesPerSecond: try speed.number(in: 1...1e15))
                }
            }
            return weights
        }
    }

    private static func weight(
        bytesPerToken: Double, tokensPerSecond: Double, bytesPerSecond: Double
    ) -> Double {
        let loadTime = bytesPerToken / bytesPerSecond
        let recomputeTime = 1 / tokensPerSecond
        return max(0, 1 - loadTime / recomputeTime)
    }
}
