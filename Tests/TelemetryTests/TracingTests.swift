import Synchronization
import Telemetry
import Testing

@Suite struct RequestIDTests {
    @Test func newOnesAreVersion4UUIDs() {
        var seen = Set<RequestID>()
        for _ in 0..<200 {
            let id = RequestID()
            #expect(
                id.text.wholeMatch(
                    of: /[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/)
                    != nil, "\(id)")
            seen.insert(id)
        }
        #expect(seen.count == 200)
    }

    @Test(arguments: ["a", "req-1.2:3/4_5", String(repeating: "x", count: 128)])
    func clientsKeepTheirs(_ header: String) {
        #expect(RequestID(header: header).text == header)
    }

    @Test(arguments: [
        nil, "", "a b", "a\nb", "é", "\u{7f}", String(repeating: "x", count: 129),
    ])
    func othersAreReplaced(_ header: String?) {
        let id = RequestID(header: header)
        #expect(id.text != header && id.text.utf8.count == 36)
    }
}

@Suite struct TraceContextTests {
    private let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @Test func readsAndWrites() throws {
        let context = try #require(TraceContext(traceparent: header, tracestate: "a=1,b=2"))
        #expect(context.traceID == 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c)
        #expect(context.spanID == 0xb7ad_6b71_6920_3331)
        #expect(context.isSampled)
        #expect(context.state == "a=1,b=2")
        #expect(context.traceparent == header)
    }

    @Test func children() throws {
        let context = try #require(TraceContext(traceparent: header, tracestate: "a=1"))
        let child = context.child()
        #expect(child.traceID == context.traceID && child.spanID != context.spanID)
        #expect(child.isSampled && child.state == "a=1")
        #expect(child.traceparent.count == 55)
        #expect(TraceContext(traceparent: child.traceparent)?.spanID == child.spanID)
    }

    @Test func smallNumbersArePadded() throws {
        let header = "00-00000000000000000000000000000001-0000000000000002-00"
        let context = try #require(TraceContext(traceparent: header))
        #expect(!context.isSampled)
        #expect(context.traceparent == header)
    }

    @Test func newTraces() {
        let context = TraceContext(isSampled: true)
        #expect(TraceContext(traceparent: context.traceparent) == context)
        #expect(TraceContext(isSampled: false).traceID != context.traceID)
    }

    @Test(arguments: [
        "", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "0g-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
    ])
    func refuses(_ header: String) {
        #expect(TraceContext(traceparent: header) == nil)
    }

    @Test func laterVersionsMayBeLonger() {
        #expect(TraceContext(traceparent: "01" + header.dropFirst(2) + "-more") != nil)
    }

    @Test func longTraceStatesAreDropped() {
        func state(_ text: String) -> String? {
            TraceContext(traceparent: header, tracestate: text)?.state
        }
        #expect(state(String(repeating: "x", count: 512))?.count == 512)
        #expect(state(String(repeating: "x", count: 513)) == "")
        #expect(state(Array(repeating: "a=1", count: 32).joined(separator: ",")) != "")
        #expect(state(Array(repeating: "a=1", count: 33).joined(separator: ",")) == "")
        #expect(state("a=\n") == "")
    }
}

@Suite struct SpanTests {
    private final class Recorder: SpanHook {
        let isRecording = true
        let spans = Mutex<[Span]>([])
        func ended(_ span: Span) { spans.withLock { $0.append(span) } }
    }

    @Test func endsOnceWithItsAttributes() throws {
        let recorder = Recorder()
        let parent = TraceContext(isSampled: true)
        var span = recorder.begin("schedule", under: parent)
        span?.set("endpoint", .string("a"))
        span?.set("candidates", .int(3))
        span?.end()
        span?.end()
        let ended = recorder.spans.withLock { $0 }
        #expect(ended.count == 1)
        let first = try #require(ended.first)
        #expect("\(first.name)" == "schedule")
        #expect(first.parentSpanID == parent.spanID)
        #expect(first.context.traceID == parent.traceID)
        #expect(first.context.spanID != parent.spanID)
        #expect(first.attributes.map(\.value) == [.string("a"), .int(3)])
        #expect(try #require(first.ended) >= first.began)
    }

    @Test func nobodyListens() {
        #expect(NoSpans().begin("x", under: TraceContext(isSampled: true)) == nil)
        #expect(Recorder().begin("x", under: TraceContext(isSampled: false)) == nil)
    }
}
