import Configuration
import Core
import Foundation
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct PredictedLatencyTests {
    private func producer(_ parameters: String = "{}") throws -> PredictedLatencyProducer {
        try plugin("predicted-latency-producer", parameters, as: PredictedLatencyProducer.self)
    }

    /// Two endpoints that differ in everything that the predictor goes by.
    private var context: SchedulingContext {
        var context = SchedulingPluginsTests.context(
            count: 2, labels: [["llm-d.ai/role": "prefill"], ["llm-d.ai/role": "decode"]],
            loads: [load(waiting: 2, running: 9, kvUsage: 0.25), load(kvUsage: 1)],
            inFlight: [3, 0], prefillTokensInFlight: [512, 0], promptTokenCount: 100)
        context.match([3, 0], of: 4)
        return context
    }

    private func text(_ question: ServiceQuestion?) -> String {
        String(decoding: question?.body ?? [], as: UTF8.self)
    }

    private func answer(_ ttft: [Double], status: Int = 200) -> ServiceOutcome {
        let list = ttft.map { #"{"ttft_ms":\#($0),"tpot_ms":\#($0 / 10),"quantile":0.9}"# }
        let all = list.joined(separator: ",")
        let body = #"{"predictions":[\#(all)],"total_requests":9,"failed_predictions":0}"#
        return .answered(status: status, body: Array(body.utf8))
    }

    @Test func asksAsUpstreamDoes() throws {
        let producer = try producer("{endpointRoleLabel: llm-d.ai/role}")
        let question = try #require(producer.question(about: [0, 1], in: context))
        #expect(question.path == "/predict/bulk/strict")
        #expect(question.servers == [SocketAddress(host: "localhost", port: 8001)])
        #expect(question.timeout == .milliseconds(400))
        let expected: [String] = [
            #"{"requests":["#,
            #"{"kv_cache_percentage":0.25,"input_token_length":100,"num_request_waiting":2,"#,
            #""num_request_running":3,"num_tokens_generated":1,"prefix_cache_score":0.75,"#,
            #""encoder_input_size":0,"encoder_matched_size":0,"pod_type":"prefill","#,
            #""prefill_tokens_in_flight":512,"decode_tokens_in_flight":0},"#,
            #"{"kv_cache_percentage":1,"input_token_length":100,"num_request_waiting":0,"#,
            #""num_request_running":0,"num_tokens_generated":1,"prefix_cache_score":0,"#,
            #""encoder_input_size":0,"encoder_matched_size":0,"pod_type":"decode","#,
            #""prefill_tokens_in_flight":0,"decode_tokens_in_flight":0}]}"#,
        ]
        #expect(text(question) == expected.joined())
        // Without a label no role is told.
        #expect(
            try !text(self.producer().question(about: [0], in: context)).contains("pod_type"))
    }

    @Test func onlyCandidatesHavePredictions() throws {
        let producer = try producer("{streamingMode: true, sloBufferFactor: 0.5}")
        var context = context
        context.request.tpotObjective = .milliseconds(40)
        _ = try #require(producer.question(about: [1], in: context))
        let finding = producer.finding(answer([80]), about: [1])
        context.request.findings["subject"] = finding
        producer.produce(into: &context)
        #expect(
            context.predictions
                == [nil, LatencyPrediction(ttftMilliseconds: 80, tpotMilliseconds: 8)])
        #expect(context.request.tpotObjective == .milliseconds(20))
    }

    @Test func withoutStreamsFurtherTokensDoNotCount() throws {
        let producer = try producer()
        var context = context
        for (objective, told) in [(nil, 0), (Duration.milliseconds(30), 30.0)] {
            context.request.tpotObjective = objective
            _ = try #require(producer.question(about: [0, 1], in: context))
            context.request.findings["subject"] = producer.finding(
                answer([80, 20]), about: [0, 1])
            producer.produce(into: &context)
            #expect(context.predictions.map { $0?.ttftMilliseconds } == [80, 20])
            #expect(context.predictions.map { $0?.tpotMilliseconds } == [told, told])
        }
    }

    @Test func predictionsReachTheScorer() throws {
        let producer = try producer()
        let scorer = try plugin("latency-scorer", as: LatencyScorer.self)
        var context = context
        context.request.ttftObjective = .milliseconds(50)
        let before = scorer.scores(in: context)
        _ = producer.question(about: [0, 1], in: context)
        context.request.findings["subject"] = producer.finding(answer([10, 90]), about: [0, 1])
        producer.produce(into: &context)
        let after = scorer.scores(in: context)
        #expect(before != after)
        #expect(after[0] > 0 && after[1] == 0)
    }

    @Test(arguments: [
        "", "{}", "[]", #"{"predictions":[{"ttft_ms":1,"tpot_ms":1}]}"#,
        #"{"predictions":[{"ttft_ms":1,"tpot_ms":1},{"ttft_ms":"a","tpot_ms":1}]}"#,
        #"{"predictions":[{"ttft_ms":1,"tpot_ms":1},{"ttft_ms":1,"tpot_ms":1}],"#
            + #""failed_predictions":1}"#,
    ])
    func aBadAnswerIsNone(body: String) throws {
        let producer = try producer()
        #expect(producer.question(about: [0, 1], in: context) != nil)
        let outcome = ServiceOutcome.answered(status: 200, body: Array(body.utf8))
        #expect(producer.finding(outcome, about: [0, 1]) == nil)
        // And the next request is spared.
        #expect(producer.question(about: [0, 1], in: context) == nil)
    }

    @Test func whoIsDownIsNotAsked() throws {
        let producer = try producer()
        for _ in 0..<3 { #expect(producer.question(about: [0], in: context) != nil) }
        #expect(producer.finding(.failed, about: [0]) == nil)
        #expect(producer.question(about: [0], in: context) == nil)
        // What was on its way does not open it again.
        #expect(producer.finding(answer([1]), about: [0]) != nil)
        #expect(producer.finding(.abandoned, about: [0]) == nil)
        #expect(producer.question(about: [0], in: context) == nil)
    }

    @Test func whatItFindsWrongWithOneQuestionSparesNobody() throws {
        let producer = try producer()
        #expect(producer.question(about: [0], in: context) != nil)
        #expect(producer.finding(answer([1], status: 422), about: [0]) == nil)
        #expect(producer.question(about: [0], in: context) != nil)
        #expect(producer.finding(answer([1], status: 503), about: [0]) == nil)
        #expect(producer.question(about: [0], in: context) == nil)
    }

    @Test func onlySoManyAskAtOnce() throws {
        let producer = try producer()
        for _ in 0..<256 { #expect(producer.question(about: [0], in: context) != nil) }
        #expect(producer.question(about: [0], in: context) == nil)
        #expect(producer.finding(.abandoned, about: [0]) == nil)
        #expect(producer.question(about: [0], in: context) != nil)
    }

    @Test func itMayBeTrainedOnly() throws {
        #expect(
            try producer("{predictInProduce: false}").question(about: [0], in: context) == nil)
    }

    // MARK: - Samples

    private func end(
        _ producer: PredictedLatencyProducer, isStreaming: Bool = true, status: Int = 200,
        isComplete: Bool = true, server: Int = 1, tokens: Int? = 5
    ) {
        var context = context
        context.now = MonotonicTime(nanoseconds: 1_000_000_000)
        context.request.details.isStreaming = isStreaming
        let result = result(1, prefill: 0)
        _ = producer.headers(after: result, in: context)
        var routed = RoutedRequest(context.request, result, endpoints: context.endpoints)
        routed.status = status
        routed.firstByteAt = context.now + .milliseconds(50)
        if isComplete { routed.completedAt = context.now + .milliseconds(250) }
        var headers: [HeaderMutation] = []
        producer.responseStarted(
            ResponseHead(status: status, server: context.endpoints[server]), to: routed,
            headers: &headers)
        producer.requestEnded(
            routed,
            usage: TokenUsage(promptTokens: 100, completionTokens: tokens, cachedTokens: nil))
    }

    @Test func trainsAsUpstreamDoes() throws {
        let producer = try producer("{streamingMode: true, trainingURL: \"http://t:9/base/\"}")
        #expect(producer.takeTraining() == nil)
        end(producer)
        let (question, count) = try #require(producer.takeTraining())
        #expect(count == 2)
        #expect(question.path == "/base/add_training_data_bulk")
        #expect(question.servers == [SocketAddress(host: "t", port: 9)])
        let parts = text(question).components(separatedBy: #","timestamp":""#)
        #expect(parts.count == 3)
        // Of who computes the prompt.
        let prefill: [String] = [
            #"{"entries":[{"kv_cache_percentage":0.25,"input_token_length":100,"#,
            #""num_request_waiting":2,"num_request_running":3,"num_tokens_generated":0,"#,
            #""actual_ttft_ms":50,"actual_tpot_ms":0,"prefix_cache_score":0.75,"#,
            #""encoder_input_size":0,"encoder_matched_size":0,"#,
            #""prefill_tokens_in_flight":512,"decode_tokens_in_flight":0"#,
        ]
        #expect(parts[0] == prefill.joined())
        // Of who generates: 200 ms for four tokens more.
        let decode: [String] = [
            #"{"kv_cache_percentage":1,"input_token_length":100,"#,
            #""num_request_waiting":0,"num_request_running":0,"num_tokens_generated":0,"#,
            #""actual_ttft_ms":0,"actual_tpot_ms":50,"prefix_cache_score":0,"#,
            #""encoder_input_size":0,"encoder_matched_size":0,"#,
            #""prefill_tokens_in_flight":0,"decode_tokens_in_flight":0"#,
        ]
        #expect(String(parts[1].drop { $0 != "{" }) == decode.joined())
        #expect(parts[2].count == #"2026-01-01T00:00:00.000Z"}]}"#.count)
        #expect(producer.takeTraining() == nil)
    }

    @Test func withoutStreamsTheWholeTimeCounts() throws {
        let producer = try producer()
        end(producer, isStreaming: false)
        let (question, count) = try #require(producer.takeTraining())
        #expect(count == 1)
        #expect(text(question).contains(#""actual_ttft_ms":250,"actual_tpot_ms":0"#))
    }

    @Test func whatTellsNothingIsNotTold() throws {
        let producer = try producer("{streamingMode: true}")
        end(producer, isStreaming: false)
        end(producer, status: 500)
        end(producer, isComplete: false)
        end(producer, server: 0)
        #expect(producer.takeTraining() == nil)
        end(producer, tokens: 1)
        #expect(producer.takeTraining()?.count == 1)
        let short = try self.producer("{contextTTL: 100000000}")
        end(short)
        #expect(short.takeTraining() == nil)
    }

    @Test func samplesAreBoundedAndCounted() throws {
        let producer = try producer("{streamingMode: true, maxSampleSize: 10}")
        for _ in 0..<50 { end(producer) }
        #expect(producer.droppedSampleCount == 90)
        #expect(producer.takeTraining()?.count == 10)
        end(producer)
        #expect(producer.takeTraining()?.count == 2)
        #expect(producer.droppedSampleCount == 90)
    }

    /// Not yet trained, a predictor may have nothing better to say than 404.
    @Test(arguments: [(nil, 0), (404, 1)] as [(Int?, Int)])
    func oneThatNobodyDeclaredTrainsWhoHasAnswered(status: Int?, samples: Int) throws {
        let config = try EndpointPickerConfig(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins: [{type: latency-scorer}]
                """, file: "t.yaml", registry: .standard)
        let producer = try #require(config.plugins(as: PredictedLatencyProducer.self).first)
        end(producer)
        #expect(producer.takeTraining() == nil)
        _ = try #require(producer.question(about: [0, 1], in: context))
        let outcome = status.map { ServiceOutcome.answered(status: $0, body: []) } ?? .failed
        _ = producer.finding(outcome, about: [0, 1])
        end(producer)
        #expect((producer.takeTraining()?.count ?? 0) == samples)
    }

    // MARK: - Configuration

    @Test func theEnvironmentNamesTheServers() throws {
        var registry = PluginRegistry.standard
        PredictedLatencyProducer.register(
            in: &registry,
            environment: [
                "PREDICTION_SERVER_URL": "http://a:1, http://b:2",
                "TRAINING_SERVER_URL": "http://c",
            ])
        let config = try EndpointPickerConfig(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins: [{type: predicted-latency-producer}]
                """, file: "t.yaml", registry: registry)
        let producer = try #require(config.plugins(as: PredictedLatencyProducer.self).first)
        var servers: Set<[String]> = []
        for seed in 0..<2 {
            var context = context
            context.seed = UInt64(seed)
            let question = try #require(producer.question(about: [0], in: context))
            servers.insert(question.servers.map(\.description))
        }
        #expect(servers == [["a:1", "b:2"], ["b:2", "a:1"]])
    }

    @Test(arguments: [
        (
            "{predictionURLs: [\"https://a\"]}",
            "predictionURLs[0] is 'https://a', which has a scheme"
        ),
        ("{predictionURLs: []}", "must name a server"),
        ("{predictionURLs: [\"http://a/x\", \"http://b\"]}", "the same path"),
        ("{trainingURL: a:1}", "is no URL"),
        ("{trainingURL: \"http://a:99999\"}", "has no port"),
        ("{timeout: 0s}", "above"),
        ("{sloBufferFactor: 0}", "sloBufferFactor"),
        ("{samplingMean: 0}", "samplingMean"),
    ])
    func mistakesAreNamed(parameters: String, problem: String) {
        do {
            _ = try producer(parameters)
            Issue.record("\(parameters) loaded")
        } catch {
            #expect("\(error)".contains(problem), "\(error)")
        }
    }

    @Test func upstreamsParametersAreRead() throws {
        _ = try producer(
            "{samplingMean: 1000, maxDecodeTokenSamplesForPrediction: 0, sloBufferFactor: 1, "
                + "contextTTL: 300000000000, streamingMode: true, endpointRoleLabel: r, "
                + "predictInProduce: true, prefixMatchInfoProducerName: approx-prefix-cache-producer}"
        )
    }
}

@Suite struct RemoteScorerTests {
    @Test func scoresAreTheServices() throws {
        let scorer = try plugin(
            "remote-scorer", "{url: \"http://s:1/v1/score\", fallbackScore: 0.25}",
            as: RemoteScorer.self)
        var context = context(
            count: 3, labels: [["a": "b"], [:], [:]], loads: [load(waiting: 1), load(), load()],
            promptTokenCount: 40)
        context.match([0, 2, 0], of: 2)
        expect(scorer.scores(in: context), [0.25, 0.25, 0.25])
        let question = try #require(scorer.question(about: [0, 1], in: context))
        #expect(question.path == "/v1/score")
        let expected: [String] = [
            #"{"model":"m","target_model":"m","prompt_tokens":40,"priority":0,"endpoints":["#,
            #"{"name":"e0","address":"10.0.0.0:8000","labels":{"a":"b"},"waiting":1,"#,
            #""running":0,"kv_usage":0.0,"in_flight":0,"prefill_tokens_in_flight":0,"#,
            #""cached_tokens":0},"#,
            #"{"name":"e1","address":"10.0.0.1:8000","labels":{},"waiting":0,"running":0,"#,
            #""kv_usage":0.0,"in_flight":0,"prefill_tokens_in_flight":0,"cached_tokens":32}]}"#,
        ]
        #expect(String(decoding: question.body, as: UTF8.self) == expected.joined())
        context.request.findings["subject"] = scorer.finding(
            .answered(status: 200, body: Array(#"{"scores":[1,0.5]}"#.utf8)), about: [0, 1])
        expect(scorer.scores(in: context), [1, 0.5, 0.25])
    }

    @Test(arguments: ["unix:/run/s", "unix:///run/s"])
    func theServiceMayListenOnAUnixSocket(url: String) throws {
        let scorer = try plugin("remote-scorer", "{url: \"\(url)\"}", as: RemoteScorer.self)
        let question = try #require(scorer.question(about: [0], in: context(count: 1)))
        #expect(question.servers == [SocketAddress(unixSocket: "/run/s")])
        #expect(question.path == "/")
    }

    @Test(arguments: [
        ("unix:", "must be unix: and the absolute path of a socket"),
        ("unix:/", "must be unix: and the absolute path of a socket"),
        ("unix:run/s", "must be unix: and the absolute path of a socket"),
        ("unix://run/s", "must be unix: and the absolute path of a socket"),
        ("unix:/" + String(repeating: "s", count: 107), "has a path of more than 107 bytes"),
        ("https://s", "has a scheme that is not http"),
    ])
    func otherURLsAreRefused(url: String, problem: String) {
        let error = #expect(throws: ConfigError.self) {
            try plugin("remote-scorer", "{url: \"\(url)\"}", as: RemoteScorer.self)
        }
        #expect(error?.description.hasSuffix(problem) == true)
    }

    @Test(arguments: ["", #"{"scores":[1]}"#, #"{"scores":[1,"a"]}"#, #"{"scores":{}}"#])
    func aBadAnswerPausesIt(body: String) throws {
        let scorer = try plugin(
            "remote-scorer", "{url: \"http://s\"}", as: RemoteScorer.self)
        let context = context(count: 2)
        #expect(scorer.question(about: [0, 1], in: context)?.path == "/")
        let outcome = ServiceOutcome.answered(status: 200, body: Array(body.utf8))
        #expect(scorer.finding(outcome, about: [0, 1]) == nil)
        #expect(scorer.question(about: [0, 1], in: context) == nil)
        expect(scorer.scores(in: context), [0.5, 0.5])
    }
}
