import Core
import Foundation
import Logging
import ModelServers
import Testing

@Suite struct EndpointFileWatcherTests {
    private let folder = FileManager.default.temporaryDirectory
        .appending(path: "endpoints-\(UUID().uuidString)")
    private let pool = EndpointPool()
    private var names: [String] { pool.snapshot.endpoints.map(\.server.name) }

    private func list(_ names: String...) -> String {
        let entries = names.map { #"{"name":"\#($0)","address":"\#($0).example","port":80}"# }
        return #"{"endpoints":[\#(entries.joined(separator: ","))]}"#
    }

    @Test func followsTheFile() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let file = folder.appending(path: "e.json")
        let watcher = EndpointFileWatcher(
            path: file.path, pool: pool,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })

        watcher.poll()
        #expect(names.isEmpty)
        try list("a").write(to: file, atomically: false, encoding: .utf8)
        watcher.poll()
        #expect(names == ["a"])
        let generation = pool.snapshot.generation
        watcher.poll()
        #expect(pool.snapshot.generation == generation)

        // `atomically` writes another file and renames it.
        try list("a", "b").write(to: file, atomically: true, encoding: .utf8)
        watcher.poll()
        #expect(names == ["a", "b"])

        try "endpoints: [".write(to: file, atomically: true, encoding: .utf8)
        watcher.poll()
        #expect(names == ["a", "b"])
        try FileManager.default.removeItem(at: file)
        watcher.poll()
        #expect(names == ["a", "b"])

        try list("c").write(to: file, atomically: true, encoding: .utf8)
        watcher.poll()
        #expect(names == ["c"])

        // Servers and rules change in one step, or not at all.
        let before = pool.snapshot
        let entry = #"{"name":"d","address":"d.example","port":80}"#
        let objectives = #""objectives":[{"name":"gold","priority":5}]"#
        try #"{"endpoints":[\#(entry)],\#(objectives)}"#
            .write(to: file, atomically: true, encoding: .utf8)
        watcher.poll()
        #expect(names == ["d"])
        #expect(
            pool.snapshot.rules.objectives == [InferenceObjective(name: "gold", priority: 5)])
        #expect(pool.snapshot.generation == before.generation + 1)
        try #"{"endpoints":[],"objectives":[{"name":"gold","priority":"x"}]}"#
            .write(to: file, atomically: true, encoding: .utf8)
        watcher.poll()
        #expect(names == ["d"])
        #expect(pool.snapshot.rules.objectives.count == 1)
    }
}
