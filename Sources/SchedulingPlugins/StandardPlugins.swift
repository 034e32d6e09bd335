public import Scheduling

extension PluginRegistry {
    /// The plugin types of this room that need nothing but their parameters.
    public static var standard: PluginRegistry {
        var registry = PluginRegistry()
        registry.registerFilters()
        registry.registerScorers()
        registry.registerDeciders()
        registry.registerProducers()
        registry.registerDataLayer()
        registry.registerParsers()
        DeprecatedHandlers.register(in: &registry)
        registry.refuseWhatIsNotHere()
        return registry
    }

    private mutating func registerFilters() {
        register(PrefillFilter.self)
        register(DecodeFilter.self)
        register(EncodeFilter.self)
        register(LabelSelectorFilter.self)
        register(PrefixCacheAffinityFilter.self)
        register(SessionAffinityFilter.self)
        register(SLOHeadroomTierFilter.self)
        register(UtilizationFilter.self)
        register(EndpointAttributeFilter.self)
        register(TopologyAffinityFilter.self)
        register(HeaderBasedTestingFilter.self)
        register(UtilizationDetectorPlugin.self)
        register(ConcurrencyDetectorPlugin.self)
    }

    private mutating func registerScorers() {
        register(QueueScorer.self)
        register(RunningRequestsScorer.self)
        register(KVCacheUtilizationScorer.self)
        register(PrefixCacheScorer.self)
        register(PrecisePrefixCacheScorer.self)
        register(LoadAwareScorer.self)
        register(ActiveRequestScorer.self)
        register(TokenLoadScorer.self)
        register(PrefillCostScorer.self)
        register(LoRAAffinityScorer.self)
        register(NoHitLRUScorer.self)
        register(SessionAffinityScorer.self)
        register(HeaderLabelAffinityScorer.self)
        register(ContextLengthAware.self)
        register(EndpointAttributeScorer.self)
        register(MMEmbeddingsCacheScorer.self)
        register(TopologyAffinityScorer.self)
        register(LatencyScorer.self)
        register(RemoteScorer.self)
    }

    private mutating func registerDeciders() {
        register(MaxScorePicker.self)
        register(RandomPicker.self)
        register(WeightedRandomPicker.self)
        register(RoundRobinPicker.self)
        register(SingleProfileHandler.self)
        register(DisaggProfileHandler.self)
        register(HeaderProfileHandler.self)
        register(PrefixBasedPDDecider.self)
        register(AlwaysDisaggPDDecider.self)
        register(AlwaysDisaggMultimodalDecider.self)
        register(LatencySLOAdmitter.self)
        register(ProbabilisticAdmitter.self)
    }

    private mutating func registerProducers() {
        register(ApproxPrefixCacheProducer.self)
        register(InflightLoadProducer.self)
        register(TokenProducer.self)
        register(SessionIDProducer.self)
        register(AgentIdentity.self)
        register(BurstPrefixCacheProducer.self)
        register(MMEmbeddingsCacheProducer.self)
        register(P2PSourceProducer.self)
        register(PredictedLatencyProducer.self)
        register(RequestAttributeReporter.self)
    }

    private mutating func registerParsers() {
        register(OpenAIParser.self)
        register(AnthropicParser.self)
        register(VLLMHTTPParser.self)
        register(PassthroughParser.self)
    }

    /// What upstream has and this does not, with the reason.
    private mutating func refuseWhatIsNotHere() {
        refuse("data-parallel-profile-handler", "is replaced by an endpoint for each rank")
        refuse("disaggregatedset-rollout-screener", "needs the DisaggregatedSet resource")
        refuse("vllmgrpc-parser", "parses vLLM's gRPC API")
        refuse("sglanghttp-parser", "parses SGLang's own API")
        refuse("vertexai-parser", "parses Vertex AI's gRPC API")
        refuse("dcgm-data-source", "scrapes GPU exporters")
        refuse("dcgm-extractor", "scrapes GPU exporters")
        refuse("file-discovery", "is the option --endpoints-file")
        for type in [
            "multicluster-file-discovery", "multicluster-metrics-data-source",
            "multicluster-metrics-extractor", "multicluster-topology-scorer",
            "multicluster-queue-scorer", "multicluster-kv-cache-utilization-scorer",
        ] {
            refuse(type, "picks clusters, not endpoints")
        }
    }
}
