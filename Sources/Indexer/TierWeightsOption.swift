internal import Core
public import KVIndex

extension TierWeights {
    /// Reads `gpu=1,cpu=0.8,disk=0.6,remote=0.4`. Tiers that are not named keep llm-d's weight.
    ///
    /// Nil if the text names another tier, one tier twice, or no number from 0 to 1.
    public init?(parsing text: String) {
        var weights: [Tier: Double] = [:]
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            let words = part.split(separator: "=", omittingEmptySubsequences: false)
            guard words.count == 2,
                let tier = Tier.allCases.first(where: { "\($0)" == words[0] }),
                let weight = Double(words[1]), (0...1).contains(weight),
                weights.updateValue(weight, forKey: tier) == nil
            else { return nil }
        }
        self.init(
            gpu: weights[.gpu] ?? Self.standard[.gpu], cpu: weights[.cpu] ?? Self.standard[.cpu],
            disk: weights[.disk] ?? Self.standard[.disk],
            remote: weights[.remote] ?? Self.standard[.remote])
    }
}
