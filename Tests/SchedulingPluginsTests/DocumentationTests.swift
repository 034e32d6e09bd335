import Foundation
import Scheduling
import SchedulingPlugins
import Testing

/// What `docs/plugins.md` says is so.
@Suite struct DocumentationTests {
    private let page: String

    init() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        page = try String(contentsOf: root.appending(path: "docs/plugins.md"), encoding: .utf8)
    }

    @Test func everyTypeIsListed() {
        for type in PluginRegistry.standard.types {
            #expect(page.contains("`\(type)`"), "\(type)")
        }
    }

    @Test func theListingIsTheFileThatIsCompiled() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "SpareRoomScorer.swift")
        let source = try String(contentsOf: file, encoding: .utf8)
        #expect(page.contains("```swift\n\(source)```"))
        #expect(source.split(separator: "\n", omittingEmptySubsequences: false).count < 40)
    }

    @Test func theListingWorks() throws {
        var registry = PluginRegistry.standard
        registry.register(SpareRoomScorer.self)
        let scheduler = try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins: [{type: spare-room-scorer, parameters: {limit: 4}}]
                """, file: "t.yaml", registry: registry)
        let pool = context(count: 3, inFlight: [0, 4, 8])
        expect(scheduler.profiles[0].scorers[0].scorer.scores(in: pool), [1, 1, 0.5])
    }
}
