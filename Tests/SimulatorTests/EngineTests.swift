import Core
import Foundation
import Hashing
import Messaging
import Net
import Simulator
import Synchronization
import Testing
import Transfer

private let labels = #"{engine="0",model_name="tiny-llama"}"#
private let usage = "vllm:kv_cache_usage_perc" + labels
private let running = "vllm:num_requests_running" + labels

private func finished(_ reason: String) -> String {
    "vllm:request_success_total{engine=\"0\",finished_reason=\"\(reason)\","
        + "model_name=\"tiny-llama\"}"
}

/// Engines that run, from HTTP to memory.
@Suite(.timeLimit(.minutes(2))) struct EngineTests {
    private func withHarness(_ body: (Harness) async throws -> Void) async throws {
        let harness = try Harness()
        do {
            try await body(harness)
        } catch {
            await harness.stop()
            throw error
        }
        await harness.stop()
    }

    private func prompt(_ count: Int, _ first: Int = 0) -> [Int] {
        (0..<count).map { ($0 + first) % 100_000 }
    }

    @Test func aPrefixIsFoundAgain() async throws {
        try await withHarness { harness in
            let engine = try await harness.start()
            let body: [String: Any] = ["prompt": prompt(100), "max_tokens": 2]
            let first = try await harness.post(engine, "/v1/completions", body)
            #expect(
                try first.value("usage", "prompt_tokens_details", "cached_tokens") as? Int == 0)
            let second = try await harness.post(engine, "/v1/completions", body)
            #expect(
                try second.value("usage", "prompt_tokens_details", "cached_tokens") as? Int == 96)
            #expect(
                try await harness.metric(engine, "vllm:prefix_cache_hits_total" + labels) == 96)
            let reset = try await harness.post(engine, "/reset_prefix_cache", [:])
            #expect(reset.status == 200)
            let third = try await harness.post(engine, "/v1/completions", body)
            #expect(
                try third.value("usage", "prompt_tokens_details", "cached_tokens") as? Int == 0)
        }
    }

    @Test func aConversationFindsItsOwnReplies() async throws {
        try await withHarness { harness in
            let engine = try await harness.start()
            var messages = [["role": "user", "content": "Tell me of the sea, and slowly."]]
            let first = try await harness.post(
                engine, "/v1/chat/completions", ["messages": messages, "max_tokens": 60])
            let reply = try #require(
                try first.value("choices", 0, "message", "content") as? String)
            messages.append(["role": "assistant", "content": reply])
            messages.append(["role": "user", "content": "Go on."])
            let second = try await harness.post(
                engine, "/v1/chat/completions", ["messages": messages, "max_tokens": 1])
            let before = try #require(try first.value("usage", "total_tokens") as? Int)
            let cached = try #require(
                try second.value("usage", "prompt_tokens_details", "cached_tokens") as? Int)
            #expect(cached == (before - 1) / 16 * 16)
        }
    }

    @Test func streamsAndWholeRepliesAgree() async throws {
        try await withHarness { harness in
            let engine = try await harness.start()
            var body: [String: Any] = [
                "prompt": "Once upon a time", "max_tokens": 300, "temperature": 0,
            ]
            let whole = try await harness.post(engine, "/v1/completions", body)
            let text = try #require(try whole.value("choices", 0, "text") as? String)
            #expect(text.count >= 63 && text.split(separator: " ").count > 8)
            body["stream"] = true
            let stream = try await harness.post(engine, "/v1/completions", body)
            #expect(try stream.streamedText() == text)
            #expect(stream.events.last == "[DONE]")
            let word = text.split(separator: " ")[4]
            body["stop"] = [String(word)]
            let stopped = try await harness.post(engine, "/v1/completions", body)
            let before = try #require(text.range(of: word)).lowerBound
            #expect(try stopped.streamedText() == text[..<before])
            #expect(stopped.text.contains(#""finish_reason":"stop","stop_reason":"\#(word)""#))
        }
    }

    @Test func repliesDifferUnlessAskedNotTo() async throws {
        try await withHarness { harness in
            let engine = try await harness.start()
            func text(_ extra: [String: Any], choice: Int = 0) async throws -> String {
                let body = ["prompt": "a", "max_tokens": 40].merging(extra) { $1 }
                let answer = try await harness.post(engine, "/v1/completions", body)
                return try #require(try answer.value("choices", choice, "text") as? String)
            }
            #expect(try await text(["temperature": 0]) == text(["temperature": 0]))
            #expect(try await text(["seed": 5]) == text(["seed": 5]))
            #expect(try await text(["seed": 5]) != text(["seed": 6]))
            #expect(try await text([:]) != text([:]))
            let two = try await text(["seed": 5, "n": 2], choice: 1)
            #expect(try await two != text(["seed": 5]))
        }
    }

    @Test func aClientThatLeavesFreesEverything() async throws {
        try await withHarness { harness in
            let engine = try await harness.start { $0.latency.interTokenLatency = .milliseconds(5) }
            let body = try JSONSerialization.data(withJSONObject: [
                "prompt": prompt(1000), "max_tokens": 3000, "ignore_eos": true, "stream": true,
            ])
            let client = harness.client
            let address = engine.address
            harness.group.loops[0].execute {
                _ = client.start(
                    HTTPRequestHead(method: "POST", target: "/v1/completions"), to: address,
                    body: .bytes(Array(body)), delegate: LeavingClient(leavingAfter: 500))
            }
            #expect(try await harness.wait(engine, finished("abort")) { $0 == 1 })
            #expect(try await harness.metric(engine, usage) == 0)
            #expect(try await harness.metric(engine, running) == 0)
        }
    }

    @Test func aFullQueueIsRefused() async throws {
        try await withHarness { harness in
            let engine = try await harness.start {
                $0.maximumRunning = 1
                $0.maximumWaiting = 1
                $0.latency.interTokenLatency = .milliseconds(20)
            }
            let body: [String: Any] = ["prompt": "a", "max_tokens": 400, "ignore_eos": true]
            let bytes = try Array(JSONSerialization.data(withJSONObject: body))
            let client = harness.client
            let address = engine.address
            harness.group.loops[0].execute {
                for _ in 0..<2 {
                    _ = client.start(
                        HTTPRequestHead(method: "POST", target: "/v1/completions"), to: address,
                        body: .bytes(bytes), delegate: LeavingClient(leavingAfter: 1))
                }
            }
            #expect(
                try await harness.wait(engine, "vllm:num_requests_waiting" + labels) { $0 == 1 })
            let refused = try await harness.post(engine, "/v1/completions", body)
            #expect(refused.status == 429)
            #expect(try refused.value("error", "code") as? Int == 429)
            #expect(
                try await harness.metric(
                    engine,
                    #"vllm:admission_rejections_total{model_name="tiny-llama",reason="max_num_queued_reqs"}"#
                ) == 1)
        }
    }

    // MARK: - KV events

    @Test func eventsSayWhatIsCached() async throws {
        try await withHarness { harness in
            let engine = try await harness.start {
                $0.eventsEndpoint = "tcp://127.0.0.1:*"
                $0.replayEndpoint = "tcp://127.0.0.1:*"
                $0.hashSeed = "42"
            }
            let sources = try await harness.get(engine, "/kv_event_sources")
            let theirs = try JSONSerialization.jsonObject(with: fixture("kv_event_sources.json"))
            #expect(shapeDifferences(try sources.json(), theirs) == [])
            #expect(
                try sources.value("0", "topic") as? String == "kv@127.0.0.1:0@tiny-llama")

            let tokens = prompt(40)
            _ = try await harness.post(
                engine, "/v1/completions",
                ["prompt": tokens, "max_tokens": 1, "cache_salt": "tenant"])
            _ = try await harness.post(engine, "/reset_prefix_cache", [:])

            let payloads = try await replay(engine, harness)
            let ids = tokens.map { UInt32($0) }
            let hasher = try BlockHasher(seed: "42", blockSize: 16)
            var stored = KVEvent.Stored(parent: nil, salt: "tenant")
            stored.hashes = hasher.hashes(of: ids.span) {
                $0 == 0 ? BlockExtraKeys([.cacheSalt("tenant")]) : .none
            }
            stored.tokens = Array(ids.prefix(32))
            let expected: [[KVEvent]] = [[.stored(stored)], [.cleared]]
            #expect(payloads.count == 2)
            for (payload, events) in zip(payloads, expected) {
                let time = payload.withUnsafeBytes {
                    Double(
                        bitPattern: UInt64(
                            bigEndian: $0.loadUnaligned(fromByteOffset: 2, as: UInt64.self)))
                }
                #expect(abs(time - Date().timeIntervalSince1970) < 60)
                #expect(payload == KVEvent.encode(events, time: time, blockSize: 16))
            }
        }
    }

    /// Every batch that an engine has published.
    private func replay(_ engine: SimulatorServer, _ harness: Harness) async throws -> [[UInt8]] {
        let endpoint = try #require(engine.replayEndpoint)
        let context = try MessagingContext()
        let loop = harness.group.loops[0]
        let payloads = Mutex<[[UInt8]]>([])
        try await withCheckedThrowingContinuation {
            (continuation: CheckedContinuation<Void, any Error>) in
            loop.execute {
                do {
                    var client: KVReplayClient?
                    client = try KVReplayClient(
                        context: context, on: loop, endpoint: endpoint, from: 0,
                        idleTimeout: .seconds(10)
                    ) { event in
                        switch event {
                        case .batch(_, _, let payload):
                            payloads.withLock { $0.append(Array(payload)) }
                        case .finished:
                            continuation.resume()
                            client = nil
                        case .failed(let error):
                            continuation.resume(throwing: error)
                            client = nil
                        }
                    }
                    withExtendedLifetime(client) {}
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
        return payloads.withLock { $0 }
    }

    // MARK: - Prefill and decode on two engines

    private var prefillParameters: [String: Any] {
        [
            "do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": NSNull(),
            "remote_block_ids": NSNull(), "remote_host": NSNull(), "remote_port": NSNull(),
        ]
    }

    /// What a prefiller answers to a prompt, and the parameters to hand on.
    private func prefill(
        _ harness: Harness, _ engine: SimulatorServer, _ prompt: [Int]
    ) async throws -> [String: Any] {
        let answer = try await harness.post(
            engine, "/v1/completions",
            [
                "prompt": prompt, "max_tokens": 1, "kv_transfer_params": prefillParameters,
            ])
        #expect(answer.status == 200)
        return try #require(try answer.value("kv_transfer_params") as? [String: Any])
    }

    @Test(arguments: TransferPath.allCases)
    func decodePullsWhatPrefillComputed(path: TransferPath) async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start { $0.transferPaths = [path] }
            let tokens = prompt(330)
            let parameters = try await prefill(harness, prefiller, tokens)

            let capture = try fixtureObject("pd_nixl.json")
            let theirs = lookUp(capture, ["prefill", "body_json", "kv_transfer_params"])
            #expect(
                shapeDifferences(
                    parameters, try #require(theirs), exempt: ["llmd_pool_epoch"]) == [])
            #expect((parameters["remote_block_ids"] as? [[Int]])?.first?.count == 21)
            #expect(parameters["remote_num_tokens"] as? Int == 330)
            #expect(try await harness.metric(prefiller, usage) == 21.0 / 512)

            let body: [String: Any] = [
                "prompt": tokens, "max_tokens": 8, "temperature": 0,
                "kv_transfer_params": parameters,
            ]
            let decoded = try await harness.post(decoder, "/v1/completions", body)
            #expect(decoded.status == 200, "\(decoded.text)")
            #expect(
                shapeDifferences(
                    try decoded.json(),
                    try #require(lookUp(capture, ["decode", "body_json"])),
                    exempt: ["choices[].token_ids", "choices[].prompt_token_ids"]) == [])
            let local = try await harness.post(
                prefiller, "/v1/completions",
                ["prompt": tokens, "max_tokens": 8, "temperature": 0])
            #expect(
                try decoded.value("choices", 0, "text") as? String
                    == local.value("choices", 0, "text") as? String)

            // Twenty full blocks came over, the tail of ten tokens was computed.
            let series = "{path=\"\(path.rawValue)\"}"
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_blocks_total" + series)
                    == 20)
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_bytes_total" + series)
                    == 20 * 16384)
            let sources = "vllm:prompt_tokens_by_source_total"
            #expect(
                try await harness.metric(
                    decoder,
                    sources
                        + #"{engine="0",model_name="tiny-llama",source="external_kv_transfer"}"#)
                    == 320)
            #expect(
                try await harness.metric(
                    decoder,
                    sources + #"{engine="0",model_name="tiny-llama",source="local_compute"}"#)
                    == 10)
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_mismatches_total") == 0)

            // The prefiller hears of it and frees its blocks, long before the lease ends.
            #expect(try await harness.wait(prefiller, usage) { $0 == 0 })
            #expect(
                try await harness.metric(prefiller, "llmd_sim_kv_leases_expired_total") == 0)

            // What was pulled is cached: a second prefill is released unread.
            let again = try await prefill(harness, prefiller, tokens)
            let second = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 1, "kv_transfer_params": again])
            #expect(
                try second.value("usage", "prompt_tokens_details", "cached_tokens") as? Int
                    == 320)
            #expect(try await harness.wait(prefiller, usage) { $0 == 0 })
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_blocks_total" + series)
                    == 20)
        }
    }

    @Test func usageCountsWhatThePrefillerHadCached() async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start()
            let tokens = prompt(330)
            _ = try await harness.post(
                prefiller, "/v1/completions", ["prompt": prompt(170), "max_tokens": 1])
            var parameters = try await prefill(harness, prefiller, tokens)
            #expect(parameters["remote_prefill_cached_tokens"] as? Int == 160)
            func cached() async throws -> Int? {
                try await harness.post(
                    decoder, "/v1/completions",
                    ["prompt": tokens, "max_tokens": 1, "kv_transfer_params": parameters]
                ).value("usage", "prompt_tokens_details", "cached_tokens") as? Int
            }
            #expect(try await cached() == 160)
            // A client cannot claim more than there is.
            parameters["remote_prefill_cached_tokens"] = 9999
            #expect(try await cached() == 320)
            parameters["remote_prefill_cached_tokens"] = -5
            #expect(try await cached() == 0)
        }
    }

    @Test(arguments: TransferPath.allCases)
    func oneWrongByteFailsTheRequest(path: TransferPath) async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start { $0.transferPaths = [path] }
            let tokens = prompt(330)
            let parameters = try await prefill(harness, prefiller, tokens)
            let blocks = try #require((parameters["remote_block_ids"] as? [[Int]])?.first)
            await prefiller.withMemory(ofBlock: blocks[13]) { $0[16_000] ^= 1 }
            let failed = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 8, "kv_transfer_params": parameters])
            #expect(failed.status == 500)
            #expect(
                try failed.value("error", "message") as? String
                    == "1 of 20 KV blocks arrived with wrong bytes.")
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_mismatches_total") == 1)
            #expect(try await harness.metric(decoder, finished("error")) == 1)
            #expect(try await harness.metric(decoder, usage) == 0)
            let fresh = try await harness.post(
                decoder, "/v1/completions", ["prompt": tokens, "max_tokens": 1])
            #expect(
                try fresh.value("usage", "prompt_tokens_details", "cached_tokens") as? Int == 0)
        }
    }

    /// A decoder that comes after the lease must not take what lies in the blocks by then for the
    /// prompt, and not find it out by the bytes alone: an engine does not know what they should be.
    @Test(arguments: TransferPath.allCases)
    func aPullAfterTheLeaseIsStale(path: TransferPath) async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start {
                $0.blockCount = 21
                $0.maximumModelLength = 21 * 16
                $0.lease = .seconds(1)
            }
            let decoder = try await harness.start { $0.transferPaths = [path] }
            let tokens = prompt(330)
            let late = try await prefill(harness, prefiller, tokens)
            #expect(late["llmd_pool_epoch"] as? Int == 0)
            #expect(
                try await harness.wait(prefiller, "llmd_sim_kv_leases_expired_total") { $0 == 1 })

            // What is named anew, while it is there still, can be had.
            var renewed = late
            renewed["llmd_pool_epoch"] = 1
            let decoded = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 1, "kv_transfer_params": renewed])
            #expect(decoded.status == 200, "\(decoded.text)")
            _ = try await harness.post(decoder, "/reset_prefix_cache", [:])

            // Another prompt takes every block.
            let next = try await prefill(harness, prefiller, prompt(330, 1000))
            #expect(next["llmd_pool_epoch"] as? Int == 1)
            let failed = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 8, "kv_transfer_params": late])
            #expect(failed.status == 500)
            #expect(
                try failed.value("error", "message") as? String
                    == "The KV blocks could not be pulled: \(TransferError.stale).")
            #expect(try await harness.metric(decoder, "llmd_sim_kv_transfer_stale_total") == 1)
            #expect(try await harness.metric(decoder, "llmd_sim_kv_transfer_failures_total") == 1)
            #expect(
                try await harness.metric(decoder, "llmd_sim_kv_transfer_mismatches_total") == 0)
            #expect(try await harness.metric(decoder, usage) == 0)
        }
    }

    @Test func aPrefillerThatIsGoneFailsTheRequest() async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start()
            let tokens = prompt(100)
            let parameters = try await prefill(harness, prefiller, tokens)
            await prefiller.drain(within: .zero)
            let failed = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 8, "kv_transfer_params": parameters])
            #expect(failed.status == 500)
            #expect(try await harness.metric(decoder, "llmd_sim_kv_transfer_failures_total") == 1)
            #expect(try await harness.metric(decoder, usage) == 0)
        }
    }

    @Test func aRestartedPrefillerIsNotTakenForTheOldOne() async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start()
            let tokens = prompt(100)
            let parameters = try await prefill(harness, prefiller, tokens)
            let address = prefiller.transferAddress
            await prefiller.drain(within: .zero)
            _ = try await harness.start { $0.transferAddress = address }
            let failed = try await harness.post(
                decoder, "/v1/completions",
                ["prompt": tokens, "max_tokens": 8, "kv_transfer_params": parameters])
            #expect(failed.status == 500, "\(failed.text)")
        }
    }

    @Test func incompleteParametersMeanLocalCompute() async throws {
        try await withHarness { harness in
            let decoder = try await harness.start()
            let answer = try await harness.post(
                decoder, "/v1/completions",
                [
                    "prompt": prompt(100), "max_tokens": 8,
                    "kv_transfer_params": ["do_remote_prefill": true, "remote_host": "x"],
                ])
            #expect(answer.status == 200)
        }
    }

    @Test func manyPairsAtOnce() async throws {
        try await withHarness { harness in
            let prefiller = try await harness.start()
            let decoder = try await harness.start()
            try await withThrowingTaskGroup(of: Int.self) { group in
                for index in 0..<40 {
                    let tokens = prompt(200 + index, index * 1000)
                    group.addTask {
                        let parameters = try await prefill(harness, prefiller, tokens)
                        return try await harness.post(
                            decoder, "/v1/completions",
                            [
                                "prompt": tokens, "max_tokens": 20, "ignore_eos": true,
                                "kv_transfer_params": parameters,
                            ]
                        ).status
                    }
                }
                for try await status in group { #expect(status == 200) }
            }
            #expect(try await harness.wait(prefiller, usage) { $0 == 0 })
            #expect(try await harness.metric(decoder, usage) == 0)
            #expect(
                try await harness.metric(decoder, "vllm:generation_tokens_total" + labels) == 800)
        }
    }
}
