/// The `EndpointPickerConfig` that overloads are measured with unless another one is given: prompts
/// wait in the router and not behind each other in an engine, and one engine of the pool is left to
/// the highest band.
public enum OverloadConfiguration {
    /// The configuration for so many engines and these bands, the highest first.
    public static func text(engines: Int, bands: [OverloadBand]) -> String {
        let rest = engines > 1 ? Double(engines - 1) / Double(engines) : 1
        let ceilings = bands.enumerated().map { index, band in
            "\"\(band.priority)\": \(index == 0 ? 1 : rest)"
        }
        return """
            apiVersion: llm-d.ai/v1alpha1
            kind: EndpointPickerConfig
            featureGates: [flowControl]
            plugins:
            - type: prefix-cache-scorer
            - type: prefill-cost-scorer
            - type: concurrency-detector
              parameters: {concurrencyMode: hybrid, maxConcurrency: 256, maxTokenConcurrency: 512}
            - type: priority-holdback-policy
              parameters: {domain: explicit, ceilings: {\(ceilings.joined(separator: ", "))}}
            schedulingProfiles:
            - name: default
              plugins:
              - {pluginRef: prefix-cache-scorer, weight: 2}
              - {pluginRef: prefill-cost-scorer, weight: 3}
            flowControl:
              saturationDetector: {pluginRef: concurrency-detector}
              usageLimitPolicyPluginRef: priority-holdback-policy
              defaultRequestTTL: 30s
              priorityBands:
              - {priority: -1, maxRequests: 100}

            """
    }
}
