import Configuration
import Core
import Scheduling
import Testing

@Suite struct EndpointPickerConfigTests {
    private static let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

    private var registry: PluginRegistry {
        var registry = PluginRegistry()
        registry.register("keep-even") { _ in KeepEven() }
        registry.register("max-score-picker") { _ in Ranking() }
        registry.register("single-profile-handler") { _ in FirstProfile() }
        registry.register("table-scorer") { (source) throws(ConfigError) in
            var table: [Double] = []
            for entry in try source.parameters.optional("table")?.list() ?? [] {
                table.append(try entry.number())
            }
            return TableScorer(table, name: source.name.name)
        }
        registry.register("wrapper") { (source) throws(ConfigError) in
            let inner = try source.parameters.required("inner")
            return try source.plugin(inner, as: (any Plugin).self, called: "plugin")
        }
        return registry
    }

    private func load(_ body: String) throws(ConfigError) -> Scheduler {
        try EndpointPickerConfig.scheduler(
            parsing: Self.head + body, file: "r.yaml", registry: registry)
    }

    private func failure(_ body: String) -> String? {
        do {
            _ = try load(body)
            return nil
        } catch {
            return error.description
        }
    }

    @Test func loadsProfiles() throws {
        let scheduler = try load(
            """
            plugins:
            - type: table-scorer
              name: t
              parameters: {table: [0.1, 0.2]}
            - type: keep-even
            schedulingProfiles:
            - name: only
              plugins:
              - pluginRef: t
                weight: 2.5
              - pluginRef: keep-even
            """)
        let profile = try #require(scheduler.profiles.first)
        #expect(profile.name == "only")
        #expect(profile.filters.map(\.name.type) == ["keep-even"])
        #expect(profile.scorers.map(\.weight) == [2.5])
        #expect(profile.scorers.first?.scorer.name.description == "t/table-scorer")
        #expect(profile.picker.name.type == "max-score-picker")
    }

    @Test func withoutProfilesEveryPluginIsUsed() throws {
        let scheduler = try load("plugins:\n- type: keep-even\n- type: table-scorer\n")
        #expect(scheduler.profiles.map(\.name) == ["default"])
        #expect(scheduler.profiles[0].filters.count == 1)
        #expect(scheduler.profiles[0].scorers.map(\.weight) == [1])
    }

    @Test func takesTheLegacyGroupAndJSON() throws {
        let scheduler = try EndpointPickerConfig.scheduler(
            parsing: """
                {"apiVersion": "inference.networking.x-k8s.io/v1alpha1",
                 "kind": "EndpointPickerConfig", "plugins": [{"type": "keep-even"}]}
                """,
            file: "r.json", registry: registry)
        #expect(scheduler.profiles.count == 1)
    }

    @Test func aPluginMayReferToALaterOne() throws {
        _ = try load(
            "plugins:\n- {type: wrapper, parameters: {inner: keep-even}}\n- {type: keep-even}\n")
    }

    @Test(arguments: [
        (
            "plugins:\n- type: keep-evn\n",
            "r.yaml:4: plugins[0].type is no known plugin type: 'keep-evn'; "
                + "did you mean 'keep-even'?"
        ),
        (
            "plugins:\n- type: table-scorer\n  parameters:\n    tabel: []\n",
            "r.yaml:6: plugins[0].parameters.tabel is not known; did you mean 'table'?"
        ),
        (
            "plugins:\n- type: table-scorer\n  parameters:\n    table:\n    - x\n",
            "r.yaml:7: plugins[0].parameters.table[0] must be a number"
        ),
        (
            "plugins:\n- type: keep-even\n- type: keep-even\n",
            "r.yaml:5: plugins[1] declares 'keep-even' a second time"
        ),
        (
            "plugins: []\nschedulingProfiles:\n- name: a\n  plugins:\n  - pluginRef: x\n",
            "r.yaml:7: schedulingProfiles[0].plugins[0].pluginRef names no plugin: 'x'; "
                + "none is valid here"
        ),
        (
            "plugins:\n- type: keep-even\nschedulingProfiles:\n- name: a\n  plugins:\n"
                + "  - pluginRef: keep-even\n    weigth: 2\n",
            "r.yaml:9: schedulingProfiles[0].plugins[0].weigth is not known; "
                + "did you mean 'weight'?"
        ),
        (
            "plugins:\n- type: keep-even\nplugin: []\n",
            "r.yaml:5: plugin is not known; did you mean 'plugins'?"
        ),
        (
            "plugins:\n- {type: wrapper, name: a, parameters: {inner: b}}\n"
                + "- {type: wrapper, name: b, parameters: {inner: a}}\n",
            "r.yaml:4: plugins[0] refers to itself through other plugins"
        ),
        (
            "plugins:\n- type: keep-even\nschedulingProfiles:\n"
                + "- {name: a, plugins: []}\n- {name: b, plugins: []}\n",
            "r.yaml:1: the document is inconsistent: single-profile-handler runs one profile"
        ),
    ])
    func errorsSayWhatAndWhere(body: String, expected: String) {
        #expect(failure(body) == expected)
    }

    @Test func versionAndKindAreChecked() {
        #expect(throws: ConfigError.self) {
            try EndpointPickerConfig.scheduler(
                parsing: "apiVersion: v1\nkind: EndpointPickerConfig\nplugins: []\n",
                file: "r.yaml", registry: registry)
        }
        #expect(throws: ConfigError.self) {
            try EndpointPickerConfig.scheduler(
                parsing: "apiVersion: llm-d.ai/v1alpha1\nkind: Pod\nplugins: []\n",
                file: "r.yaml", registry: registry)
        }
    }
}
