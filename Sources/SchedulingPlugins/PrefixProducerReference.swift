import Configuration
import Scheduling

extension PluginSource {
    /// The name of the producer of prefix matches that `prefixMatchInfoProducerName` asks for;
    /// the approximate one unless it is given.
    mutating func prefixProducer() throws(ConfigError) -> String {
        try plugin(
            "prefixMatchInfoProducerName", default: PrefixCacheScorer.standardProducer,
            as: (any DataProducer).self, called: "data producer"
        ).name.name
    }
}
