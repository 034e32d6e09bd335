import Foundation
import Net
import Scan
import Stack

/// What `llmd up` prints: lines for people on a terminal, JSON objects elsewhere.
struct StackOutput: Sendable {
    let plan: StackPlan
    let model: String
    private let isTerminal = isatty(STDOUT_FILENO) == 1

    init(plan: StackPlan, model: String) {
        self.plan = plan
        self.model = model
    }

    /// Everything runs: the map, the URL and something to try.
    func showReady(_ pids: [String: Int32]) {
        guard isTerminal else {
            emit(readyJSON(pids))
            return
        }
        var lines = ["", "process             address                 pid"]
        for child in plan.children {
            let pid = pids[child.name].map { "\($0)" } ?? "-"
            lines.append(
                child.name.padding(toLength: 20, withPad: " ", startingAt: 0)
                    + "\(child.address)".padding(toLength: 24, withPad: " ", startingAt: 0) + pid)
        }
        lines += [
            "", "metrics             http://\(plan.metrics[0])/metrics",
            "OpenAI API          http://\(plan.gateway)/v1", "", "Try:", "",
            """
              curl -i http://\(plan.gateway)/v1/completions -H 'content-type: application/json' \\
                -d '{"model": "\(model)", "max_tokens": 64, "prompt": "'$(date +%s%N)' is a number \
            that nobody asked about before: one engine computes it, another one answers."}'
            """, "",
        ]
        emit(lines.joined(separator: "\n"))
    }

    /// The state, once a second. On a terminal the line replaces the one before; the end of a
    /// line that is wider than the terminal is not shown.
    func show(_ metrics: StackMetrics) {
        if isTerminal {
            write("\r\u{1b}[K\u{1b}[?7l\(metrics.line)\u{1b}[?7h")
        } else {
            emit(metrics.json)
        }
    }

    func show(_ event: StackSupervisor.Event) {
        switch event {
        case .exited(let name, let reason):
            tell("exited", name, "ended (\(reason)), starting again") { json in
                json.member("reason", reason)
            }
        case .restarted(let name, let pid):
            tell("restarted", name, "runs again, pid \(pid)") { json in
                json.member("pid", Int(pid))
            }
        case .said(let name, let line):
            FileHandle.standardError.write(Data("\(name): \(line)\n".utf8))
        }
    }

    func showStopping() {
        if isTerminal { emit("\nstopping") }
    }

    private func tell(
        _ event: String, _ name: String, _ text: String, _ more: (inout JSONWriter) -> Void
    ) {
        if isTerminal {
            emit("\r\u{1b}[K\(name) \(text)")
            return
        }
        var json = JSONWriter()
        json.beginObject()
        json.member("event", event)
        json.member("name", name)
        more(&json)
        json.endObject()
        emit(String(decoding: json.bytes, as: UTF8.self))
    }

    private func readyJSON(_ pids: [String: Int32]) -> String {
        var json = JSONWriter(capacity: 1024)
        json.beginObject()
        json.member("event", "ready")
        json.member("url", "http://\(plan.gateway)/v1")
        json.key("children")
        json.beginArray()
        for child in plan.children {
            json.beginObject()
            json.member("name", child.name)
            json.member("kind", child.kind.rawValue)
            json.member("address", "\(child.address)")
            json.member("pid", Int(pids[child.name] ?? 0))
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return String(decoding: json.bytes, as: UTF8.self)
    }

    private func emit(_ line: String) {
        write(line + "\n")
    }

    private func write(_ text: String) {
        FileHandle.standardOutput.write(Data(text.utf8))
    }
}
