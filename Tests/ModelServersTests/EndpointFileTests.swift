import Configuration
import Core
import ModelServers
import Testing

@Suite struct EndpointFileTests {
    @Test func readsADiscoveryFile() throws {
        let contents = try EndpointFile.contents(
            parsing: """
                endpoints:
                - name: decode-0
                  namespace: prod
                  address: 10.0.0.7
                  port: "8000"
                  labels: {llm-d.ai/role: decode}
                  metricsPort: 8200
                  eventsEndpoint: tcp://10.0.0.7:5557
                  replayEndpoint: tcp://10.0.0.7:5558
                - {name: v6, address: 'fd00::7', port: 8001, dataParallelSize: 8}
                """, file: "e.yaml")
        let servers = contents.servers
        #expect(contents.rules == TrafficRules())
        #expect(
            servers == [
                ModelServer(
                    name: "prod/decode-0", address: SocketAddress(host: "10.0.0.7", port: 8000),
                    metricsAddress: SocketAddress(host: "10.0.0.7", port: 8200),
                    labels: ["llm-d.ai/role": "decode"], eventsEndpoint: "tcp://10.0.0.7:5557",
                    replayEndpoint: "tcp://10.0.0.7:5558"),
                ModelServer(
                    name: "v6", address: SocketAddress(host: "fd00::7", port: 8001),
                    dataParallelSize: 8),
            ])
        #expect(servers[1].address.description == "[fd00::7]:8001")
    }

    @Test func takesJSONAndAnEmptyList() throws {
        let contents = try EndpointFile.contents(parsing: #"{"endpoints": []}"#, file: "e.json")
        #expect(contents.servers.isEmpty)
    }

    @Test(arguments: [
        (
            "endpoints:\n- {name: a, adress: x, port: 1}",
            "e.yaml:2: endpoints[0] needs a 'address'"
        ),
        (
            "endpoints:\n- {name: a, address: x, port: 1, lables: {}}",
            "e.yaml:2: endpoints[0].lables is not known; did you mean 'labels'?"
        ),
        (
            "endpoints:\n- name: a\n  address: x\n  port: 70000",
            "e.yaml:4: endpoints[0].port must be from 1 to 65535, not 70000"
        ),
        (
            "endpoints:\n- {name: a, address: x, port: 1}\n- {name: b, address: x, port: 1}",
            "e.yaml:3: endpoints[1] has the name or the address of 'a'"
        ),
        (
            "endpoints:\n- {name: a, address: '[::1]', port: 1}",
            "e.yaml:2: endpoints[0].address must be an IP address or a host name"
        ),
        (
            "endpoints:\n- {name: a, address: x, port: 1, dataParallelSize: 65}",
            "e.yaml:2: endpoints[0].dataParallelSize must be from 1 to 64, not 65"
        ),
        (
            "endpoints:\n- {name: a@dp1, address: x, port: 1}\n"
                + "- {name: a, address: y, port: 1, dataParallelSize: 2}",
            "e.yaml:3: endpoints[1] has the name or the address of 'a@dp1'"
        ),
        (
            "endpoints:\n- {name: a, address: x, port: 1, dataParallelSize: 2, "
                + "eventsEndpoint: 'tcp://x:5557', replayEndpoint: 'tcp://x:5558'}",
            "e.yaml:2: endpoints[0] has two uses for 'tcp://x:5558': each rank takes the next port"
        ),
    ])
    func errorsSayWhatAndWhere(text: String, expected: String) {
        let message = #expect(throws: ConfigError.self) {
            try EndpointFile.contents(parsing: text, file: "e.yaml")
        }
        #expect(message?.description == expected)
    }

    @Test func readsObjectivesAndRewrites() throws {
        let contents = try EndpointFile.contents(
            parsing: """
                endpoints: []
                objectives:
                - {name: interactive, priority: 10}
                - {name: batch, priority: -1}
                - name: plain
                modelRewrites:
                - name: reviews
                  rules:
                  - matches:
                    - {model: {type: Exact, value: reviews}}
                    - {model: {value: food}}
                    targets:
                    - {modelRewrite: v1, weight: 90}
                    - {modelRewrite: v2, weight: 10}
                  - targets: [{modelRewrite: base}]
                - {name: second, rules: [{matches: [], targets: [{modelRewrite: x}]}]}
                """, file: "e.yaml")
        #expect(
            contents.rules
                == TrafficRules(
                    objectives: [
                        InferenceObjective(name: "interactive", priority: 10),
                        InferenceObjective(name: "batch", priority: -1),
                        InferenceObjective(name: "plain", priority: 0),
                    ],
                    rewrites: [
                        ModelRewrite(
                            name: "reviews", createdAt: 0,
                            rules: [
                                ModelRewrite.Rule(
                                    models: ["reviews", "food"],
                                    targets: [
                                        ModelRewrite.Target(model: "v1", weight: 90),
                                        ModelRewrite.Target(model: "v2", weight: 10),
                                    ]),
                                ModelRewrite.Rule(
                                    models: [], targets: [ModelRewrite.Target(model: "base")]),
                            ]),
                        ModelRewrite(
                            name: "second", createdAt: 1,
                            rules: [
                                ModelRewrite.Rule(
                                    models: [], targets: [ModelRewrite.Target(model: "x")])
                            ]),
                    ]))
    }

    @Test(arguments: [
        (
            "objectives:\n- {name: a, priority: high}",
            "e.yaml:3: objectives[0].priority must be a whole number"
        ),
        (
            "objectives:\n- {name: a}\n- {name: a}",
            "e.yaml:4: objectives[1] has the name of an objective before it"
        ),
        ("objective: []", "e.yaml:2: objective is not known; did you mean 'objectives'?"),
        (
            "modelRewrites:\n- name: r\n  rules: []",
            "e.yaml:4: modelRewrites[0].rules must have a rule"
        ),
        (
            "modelRewrites:\n- name: r\n  rules:\n  - targets: []",
            "e.yaml:5: modelRewrites[0].rules[0].targets must have a target"
        ),
        (
            "modelRewrites:\n- name: r\n  rules:\n  - targets:\n    - modelRewrite: m\n"
                + "      weight: 0",
            "e.yaml:7: modelRewrites[0].rules[0].targets[0].weight must be from 1 to 1000000, not 0"
        ),
        (
            "modelRewrites:\n- name: r\n  rules:\n  - matches:\n"
                + "    - model: {type: Prefix, value: x}\n    targets: [{modelRewrite: m}]",
            "e.yaml:6: modelRewrites[0].rules[0].matches[0].model.type must be Exact"
        ),
        (
            "modelRewrites:\n- {name: r, rules: [{targets: [{modelRewrite: ''}]}]}",
            "e.yaml:3: modelRewrites[0].rules[0].targets[0].modelRewrite must not be empty"
        ),
        (
            "modelRewrites:\n- {name: r, rules: [{targets: [{modelRewrite: x}]}]}\n"
                + "- {name: r, rules: [{targets: [{modelRewrite: x}]}]}",
            "e.yaml:4: modelRewrites[1] has the name of a rewrite before it"
        ),
    ])
    func errorsInRulesSayWhatAndWhere(text: String, expected: String) {
        let message = #expect(throws: ConfigError.self) {
            try EndpointFile.contents(parsing: "endpoints: []\n" + text, file: "e.yaml")
        }
        #expect(message?.description == expected)
    }

    @Test func readsTheArgumentOfAnOption() throws {
        #expect(
            try EndpointFile.servers(
                parsing: [
                    "name=d,address=127.0.0.1:1,metrics=127.0.0.1:2,role=decode,"
                        + "events=tcp://127.0.0.1:3,replay=tcp://127.0.0.1:5,dp=2",
                    "[::1]:80", "address=x:1,engine=trtllm-serve",
                ], option: "--endpoint")
                == [
                    ModelServer(
                        name: "d", address: SocketAddress(host: "127.0.0.1", port: 1),
                        metricsAddress: SocketAddress(host: "127.0.0.1", port: 2),
                        labels: ["llm-d.ai/role": "decode"],
                        eventsEndpoint: "tcp://127.0.0.1:3",
                        replayEndpoint: "tcp://127.0.0.1:5", dataParallelSize: 2),
                    ModelServer(name: "[::1]:80", address: SocketAddress(host: "::1", port: 80)),
                    ModelServer(
                        name: "x:1", address: SocketAddress(host: "x", port: 1),
                        labels: ["llm-d.ai/engine-type": "trtllm-serve"]),
                ])
    }

    @Test(arguments: [
        ("name=a", "--endpoint: 'name=a' needs an 'address'"),
        ("address=x", "--endpoint: 'address=x' has a wrong address: address 'x' has no port"),
        (
            "address=x:1,rol=y",
            "--endpoint: 'address=x:1,rol=y' has an unknown key 'rol'; did you mean 'role'?"
        ),
        (
            "address=x:1,role=decod",
            "--endpoint: 'address=x:1,role=decod' has an unknown role; did you mean 'decode'?"
        ),
        ("address=x:1,address=x:2", "--endpoint: 'address=x:1,address=x:2' has 'address' twice"),
        (
            "name=a,address=y:1",
            "--endpoint: 'name=a,address=y:1' has the name or the address of 'a'"
        ),
        ("address=x:1,engine=", "--endpoint: 'address=x:1,engine=' is no list of key=value"),
        ("address=x:1,dp=0", "--endpoint: 'address=x:1,dp=0' needs a 'dp' from 1 to 64"),
        ("address=x:1,dp=two", "--endpoint: 'address=x:1,dp=two' needs a 'dp' from 1 to 64"),
        (
            "address=x:1,dp=2,events=tcp://x:*",
            "--endpoint: 'address=x:1,dp=2,events=tcp://x:*' needs ports for the KV events of "
                + "2 ranks"
        ),
        ("z:1", "--endpoint: 'z:1' has the name or the address of 'a'"),
    ])
    func refusesArguments(argument: String, expected: String) {
        let error = #expect(throws: ConfigError.self) {
            try EndpointFile.servers(
                parsing: ["name=a,address=z:1", argument], option: "--endpoint")
        }
        #expect(error?.description == expected)
    }
}
