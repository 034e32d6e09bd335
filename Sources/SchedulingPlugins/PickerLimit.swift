import Configuration
import Scheduling

extension PluginSource {
    /// `maxNumOfEndpoints` (1): how many endpoints a picker leaves, the fallbacks among them.
    mutating func maxNumOfEndpoints() throws(ConfigError) -> Int {
        try parameters.optional("maxNumOfEndpoints")?.integer(in: 1...64) ?? 1
    }
}

extension [ScoredCandidate] {
    /// Drops what lies behind the first `count`.
    mutating func truncate(to count: Int) {
        if self.count > count { removeLast(self.count - count) }
    }
}
