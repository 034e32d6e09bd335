import Core
import Stack
import Testing

@Suite struct StackPlanTests {
    @Test func defaultStackDisaggregatesTwoAndTwo() throws {
        let plan = try StackPlan(StackConfiguration())
        #expect(
            plan.children.map(\.name) == [
                "prefill-0", "prefill-1", "decode-0", "decode-1", "decode-0-sidecar",
                "decode-1-sidecar", "gateway",
            ])
        #expect(plan.engines.map(\.address.port) == [18000, 18010, 18020, 18030])
        #expect(plan.gateway == SocketAddress(host: "127.0.0.1", port: 8000))
        let gateway = try #require(plan.children.last)
        #expect(
            gateway.arguments.contains(
                "name=decode-1,address=127.0.0.1:18035,metrics=127.0.0.1:18030,role=decode,"
                    + "events=ipc://@llmd-18030-events,replay=ipc://@llmd-18030-replay"))
        #expect(gateway.arguments.contains("precise"))
    }

    @Test func aggregatedStackHasNoSidecar() throws {
        let plan = try StackPlan(StackConfiguration(engines: .aggregated(count: 3)))
        #expect(plan.children.map(\.name) == ["engine-0", "engine-1", "engine-2", "gateway"])
        // Labelled `both`, an engine would be asked to compute prompts for others.
        #expect(plan.children.last?.arguments.contains { $0.contains("role=") } == false)
    }

    @Test func eachRouterHasAGatewayOfItsOwn() throws {
        let plan = try StackPlan(
            StackConfiguration(
                engines: .aggregated(count: 1), configTexts: ["a", "b"], port: 8000,
                metricsPort: 9090))
        #expect(plan.children.map(\.name) == ["engine-0", "gateway", "gateway-1"])
        #expect(plan.gateways.map(\.port) == [8000, 8001])
        #expect(plan.metrics.map(\.port) == [9090, 9091])
        for (child, text) in zip(plan.children.dropFirst(), ["a", "b"]) {
            let option = try #require(child.arguments.firstIndex(of: "--config-text"))
            #expect(child.arguments[option + 1] == text)
            #expect(!child.arguments.contains("--policy"))
        }
        #expect(throws: StackError.self) {
            try StackPlan(StackConfiguration(configTexts: ["a", "b"], port: .max))
        }
    }

    @Test func gatewaysMayBeToldByAFile() throws {
        let plan = try StackPlan(
            StackConfiguration(
                engines: .disaggregated(prefill: 1, decode: 1), endpointsFile: "/tmp/endpoints"))
        let arguments = try #require(plan.children.last).arguments
        #expect(arguments.suffix(2) == ["--endpoints-file", "/tmp/endpoints"])
        #expect(!arguments.contains("--endpoint"))
        #expect(
            plan.endpointsText == """
                endpoints:
                - {name: prefill-0, address: "127.0.0.1", port: 18000, metricsPort: 18000, \
                eventsEndpoint: "ipc://@llmd-18000-events", \
                replayEndpoint: "ipc://@llmd-18000-replay", labels: {llm-d.ai/role: prefill}}
                - {name: decode-0, address: "127.0.0.1", port: 18015, metricsPort: 18010, \
                eventsEndpoint: "ipc://@llmd-18010-events", \
                replayEndpoint: "ipc://@llmd-18010-replay", labels: {llm-d.ai/role: decode}}

                """)
    }

    @Test func furtherArgumentsGoToTheirProcesses() throws {
        let plan = try StackPlan(
            StackConfiguration(
                engineArguments: ["--enable-lora"], gatewayArguments: ["--access-log", "-"]))
        for child in plan.children {
            #expect(child.arguments.contains("--enable-lora") == (child.kind == .engine))
            #expect(
                (child.arguments.suffix(2) == ["--access-log", "-"]) == (child.kind == .gateway))
        }
    }

    @Test func portsAreDistinct() throws {
        let plan = try StackPlan(
            StackConfiguration(engines: .disaggregated(prefill: 20, decode: 20)))
        #expect(Set(plan.children.map(\.address)).count == plan.children.count)
    }

    @Test(arguments: [
        StackConfiguration.Engines.aggregated(count: 0),
        .disaggregated(prefill: 0, decode: 2), .disaggregated(prefill: 2, decode: 0),
        .aggregated(count: 5000), .disaggregated(prefill: 3000, decode: 2000),
        .disaggregated(prefill: .max, decode: .max),
    ])
    func impossibleStacksAreRefused(engines: StackConfiguration.Engines) {
        #expect(throws: StackError.self) {
            try StackPlan(StackConfiguration(engines: engines))
        }
    }
}
