import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct StageTests {
    private let roles = ["decode", "prefill", "encode", "prefill-decode"]

    private func cycle(_ request: (inout SchedulingRequest) -> Void = { _ in }) -> SchedulingCycle {
        let pool = context(
            count: roles.count,
            labels: roles.enumerated().map {
                ["llm-d.ai/role": $1, "kubernetes.io/hostname": $0 % 3 == 0 ? "h1" : "h2"]
            })
        var cycle = SchedulingCycle(request: pool.request, seed: 1)
        cycle.context = pool
        cycle.eligible = Array(pool.endpoints.indices)
        request(&cycle.context.request)
        return cycle
    }

    private func scheduler(_ handler: String, profiles: String) throws -> Scheduler {
        try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - {type: decode-filter}
                - {type: prefill-filter}
                - {type: encode-filter}
                - {type: topology-affinity-scorer}
                - {type: always-disagg-pd-decider}
                - {type: always-disagg-multimodal-decider}
                \(handler)
                schedulingProfiles:
                \(profiles)
                """,
            file: "t.yaml", registry: .standard)
    }

    private static let profiles = """
        - {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: topology-affinity-scorer}]}
        - {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: topology-affinity-scorer}]}
        - {name: encode, plugins: [{pluginRef: encode-filter}]}
        """

    @Test func mediaAreEncodedElsewhere() throws {
        let scheduler = try scheduler(
            "- {type: disagg-profile-handler, parameters: {deciders: "
                + "{encode: always-disagg-multimodal-decider, prefill: always-disagg-pd-decider}}}",
            profiles: Self.profiles)
        #expect(scheduler.promptNeeds == .media)
        var text = cycle()
        let plain = try scheduler.schedule(&text)
        #expect(plain.encode.isEmpty)
        #expect(
            scheduler.prepare(plain, in: text.context).contains(
                .remove(name: "x-encoder-hosts-ports")))

        var media = cycle { $0.media = [MediaItem(kind: .image, identifier: 1)] }
        let result = try scheduler.schedule(&media)
        #expect(result.encode.map(\.index) == [2])
        #expect(
            scheduler.prepare(result, in: media.context).contains(
                .set(name: "x-encoder-hosts-ports", value: "10.0.0.2:8000")))
    }

    @Test func prefillFirstDecodesNearBy() throws {
        let scheduler = try scheduler(
            "- {type: disagg-profile-handler, parameters: {stageOrder: prefill-first}}",
            profiles: Self.profiles)
        for seed in 0..<20 {
            var cycle = cycle()
            cycle = SchedulingCycle(request: cycle.context.request, seed: UInt64(seed))
            let model = self.cycle()
            cycle.context = model.context
            cycle.eligible = [0, 1, 2, 3]
            let result = try scheduler.schedule(&cycle)
            // 3 is on the host of 0, and of no other that decodes.
            let prefill = result.prefill.first?.index
            if let prefill { #expect(prefill == 1 || prefill == 3, "seed \(seed)") }
            if prefill == 3 { #expect(result.primary.first?.index == 0) }
        }
    }

    @Test func aHeaderNamesTheProfile() throws {
        let scheduler = try scheduler("- {type: header-profile-handler}", profiles: Self.profiles)
        func picked(_ value: String?) throws -> Int? {
            var cycle = cycle {
                $0.headers = Headers(values: value.map { ["epp-profile": $0] } ?? [:])
            }
            return try scheduler.schedule(&cycle).primary.first?.index
        }
        #expect(try picked("encode") == 2)
        #expect(try [1, 3].contains(picked("prefill")))
        #expect(try [0, 3].contains(picked(nil)))
        #expect(try [0, 3].contains(picked(" ")))
        // Upstream answers 429.
        do {
            _ = try picked("decod")
            Issue.record("a profile that there is not was found")
        } catch let failure as SchedulingFailure {
            #expect(failure.apiError.status == 400)
        }
        #expect(throws: ConfigError.self) {
            try self.scheduler(
                "- {type: header-profile-handler, parameters: {defaultProfile: x}}",
                profiles: Self.profiles)
        }
    }
}
