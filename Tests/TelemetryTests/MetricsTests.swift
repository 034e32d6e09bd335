import Telemetry
import Testing

@Suite struct MetricsTests {
    private let registry = MetricsRegistry()

    private var page: String { String(decoding: registry.exposition(), as: UTF8.self) }

    @Test func pageOfEveryKind() {
        let requests = registry.counters("requests_total", "Requests.", labels: ["model", "code"])
        requests.child("b", "200").increment()
        requests.child("a", "500").increment(by: 41)
        requests.child("a", "500").increment()
        registry.gauge("depth", "Depth \\ of\nthe queue.").set(2.5)
        let seconds = registry.histogram("wait_seconds", "Wait.", bounds: [0.1, 1])
        for value in [0.05, 0.1, 0.5, 7] { seconds.observe(value) }
        registry.gauge("free", "Read late.") { 12 }
        registry.counter("read_total", "Read late.") { 3 }
        registry.gauges("queue", "Per endpoint.", labels: ["endpoint"]) {
            [(["z"], 1), (["q\"\\\n"], 2)]
        }
        let sizes = registry.histograms(
            "size_bytes", "Sizes.", labels: ["kind"], bounds: [10])
        sizes.child("x").observe(11)
        registry.gauges("level", "Levels.", labels: ["of"]).child("x").set(-0.25)
        #expect(
            page == #"""
                # HELP depth Depth \\ of\nthe queue.
                # TYPE depth gauge
                depth 2.5
                # HELP free Read late.
                # TYPE free gauge
                free 12
                # HELP level Levels.
                # TYPE level gauge
                level{of="x"} -0.25
                # HELP queue Per endpoint.
                # TYPE queue gauge
                queue{endpoint="q\"\\\n"} 2
                queue{endpoint="z"} 1
                # HELP read_total Read late.
                # TYPE read_total counter
                read_total 3
                # HELP requests_total Requests.
                # TYPE requests_total counter
                requests_total{model="a",code="500"} 42
                requests_total{model="b",code="200"} 1
                # HELP size_bytes Sizes.
                # TYPE size_bytes histogram
                size_bytes_bucket{kind="x",le="10"} 0
                size_bytes_bucket{kind="x",le="+Inf"} 1
                size_bytes_sum{kind="x"} 11
                size_bytes_count{kind="x"} 1
                # HELP wait_seconds Wait.
                # TYPE wait_seconds histogram
                wait_seconds_bucket{le="0.1"} 2
                wait_seconds_bucket{le="1"} 3
                wait_seconds_bucket{le="+Inf"} 4
                wait_seconds_sum 7.65
                wait_seconds_count 4

                """#)
    }

    @Test func gauges() {
        let gauge = registry.gauge("g", "")
        gauge.set(5)
        gauge.increment()
        gauge.decrement()
        gauge.add(-7.5)
        #expect(gauge.value == -2.5)
        gauge.set(.nan)
        #expect(page.contains("\ng NaN\n"))
        gauge.set(-.infinity)
        #expect(page.contains("\ng -Inf\n"))
    }

    @Test func everyValueFallsIntoTheBucketOfTheSlowModel() {
        let bounds = Buckets.requestSeconds
        let histogram = registry.histogram("h", "", bounds: bounds)
        var expected = [Int](repeating: 0, count: bounds.count + 1)
        let values = bounds + bounds.map { $0 * 1.0001 } + [0, -1, 1e9, .infinity]
        for value in values {
            histogram.observe(value)
            expected[bounds.firstIndex { value <= $0 } ?? bounds.count] += 1
        }
        #expect(histogram.bucketCounts == expected)
        #expect(histogram.count == values.count)
        histogram.observe(.nan)
        #expect(histogram.bucketCounts.last == (expected.last ?? 0) + 1)
    }

    @Test func histogramTakesDurations() {
        let histogram = registry.histogram("h", "", bounds: [1])
        histogram.observe(.milliseconds(1500))
        #expect(histogram.sum == 1.5)
        #expect(histogram.bucketCounts == [0, 1])
    }

    @Test func buckets() {
        #expect(Buckets.exponential(from: 2, factor: 4, count: 3) == [2, 8, 32])
        #expect(Buckets.requestSeconds.count == 35)
    }

    @Test func countsFromManyThreadsAddUp() async {
        let counter = registry.counter("c_total", "")
        let gauge = registry.gauge("g", "")
        let histogram = registry.histogram("h", "", bounds: [0.5])
        let family = registry.counters("f_total", "", labels: ["l"])
        await withTaskGroup(of: Void.self) { group in
            for task in 0..<4 {
                group.addTask {
                    for _ in 0..<5000 {
                        counter.increment()
                        gauge.increment()
                        histogram.observe(1)
                        family.child("\(task % 2)").increment()
                    }
                }
            }
        }
        #expect(counter.value == 20_000)
        #expect(gauge.value == 20_000)
        #expect(histogram.count == 20_000 && histogram.sum == 20_000)
        #expect(family.child("0").value == 10_000)
    }

    @Test func labelSetsAboveTheLimitShareOther() {
        let family = registry.counters("f_total", "", labels: ["a", "b"], limit: 2)
        family.child("1", "x").increment()
        family.child("2", "x").increment()
        family.child("3", "x").increment()
        family.child("4", "x").increment()
        family.child("1", "x").increment()
        #expect(page.contains(#"f_total{a="1",b="x"} 2"#))
        #expect(page.contains(#"f_total{a="other",b="other"} 2"#))
        #expect(!page.contains(#"a="3""#))
    }

    @Test func registeringTwiceEndsTheProcess() async {
        let result = await #expect(
            processExitsWith: .failure, observing: [\.standardErrorContent]
        ) {
            let registry = MetricsRegistry()
            _ = registry.counter("twice_total", "")
            _ = registry.gauge("twice_total", "")
        }
        let message = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
        #expect(message.contains("twice_total"))
    }

    @Test(arguments: ["", "1a", "a-b", "ä"])
    func badNamesEndTheProcess(_ name: String) async {
        await #expect(processExitsWith: .failure) { [name] in
            _ = MetricsRegistry().counter(name, "")
        }
    }

    @Test func processMetrics() throws {
        registry.registerProcessMetrics()
        let lines = page.split(separator: "\n").filter { !$0.hasPrefix("#") }
        var values: [Substring: Double] = [:]
        for line in lines {
            let parts = line.split(separator: " ")
            values[parts[0]] = Double(parts[1])
        }
        #expect(values.count == 6)
        #expect(try #require(values["process_cpu_seconds_total"]) > 0)
        #expect(try #require(values["process_resident_memory_bytes"]) > 1e6)
        #expect(
            try #require(values["process_virtual_memory_bytes"])
                >= #require(values["process_resident_memory_bytes"]))
        #expect(try #require(values["process_open_fds"]) >= 3)
        #expect(
            try #require(values["process_max_fds"]) >= #require(values["process_open_fds"]))
        // After 2020, and not in the future.
        #expect(try #require(values["process_start_time_seconds"]) > 1.577e9)
    }
}
