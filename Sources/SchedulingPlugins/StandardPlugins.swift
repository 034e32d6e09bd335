public import Scheduling

extension PluginRegistry {
    /// The plugin types of this room that need nothing but their parameters.
    public static var standard: PluginRegistry {
        var registry = PluginRegistry()
        registry.register(PrefillFilter.self)
        registry.register(DecodeFilter.self)
        registry.register(LabelSelectorFilter.self)
        registry.register(QueueScorer.self)
        registry.register(RunningRequestsScorer.self)
        registry.register(KVCacheUtilizationScorer.self)
        registry.register(PrefixCacheScorer.self)
        registry.register(LoadAwareScorer.self)
        registry.register(ActiveRequestScorer.self)
        registry.register(TokenLoadScorer.self)
        registry.register(PrefillCostScorer.self)
        registry.register(MaxScorePicker.self)
        registry.register(RandomPicker.self)
        registry.register(WeightedRandomPicker.self)
        registry.register(RoundRobinPicker.self)
        registry.register(SingleProfileHandler.self)
        registry.register(DisaggProfileHandler.self)
        registry.register(PrefixBasedPDDecider.self)
        registry.register(AlwaysDisaggPDDecider.self)
        registry.register(OpenAIParser.self)
        registry.register(AnthropicParser.self)
        registry.register(VLLMHTTPParser.self)
        registry.register(PassthroughParser.self)
        return registry
    }
}
