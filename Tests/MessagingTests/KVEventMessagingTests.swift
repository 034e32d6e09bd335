import Foundation
import Messaging
import Testing

@Suite(.timeLimit(.minutes(1)))
struct KVEventMessagingTests {
    @Test func liveBatchesArriveInOrderWithTopicAndSequence() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let publisher = try await harness.publisher("tcp://lo:*")
        try await harness.subscriber(.connect(publisher.endpoint), into: reports)
        try await harness.settle(&reports)
        try await harness.publish((0..<1000).map { [UInt8($0 & 255), UInt8($0 >> 8)] })
        var first: UInt64?
        for index in 0..<1000 {
            let payload = [UInt8(index & 255), UInt8(index >> 8)]
            let report = try #require(
                await reports.next { $0.payload != nil && $0.payload != Array("settle".utf8) })
            let sequence = try #require(report.sequence)
            let start = first ?? sequence
            first = start
            #expect(
                report
                    == .batch(topic: "kv@a@m", sequence: start + UInt64(index), payload: payload))
        }
        try await harness.finish()
    }

    @Test func lateReaderIsFilledInByReplay() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let publisher = try await harness.publisher("tcp://lo:*", replay: "tcp://lo:*")
        // More than one burst of the responder.
        try await harness.publish((0..<700).map { [UInt8($0 & 255)] })
        try await harness.replay(
            try #require(publisher.replayEndpoint), from: 3, into: reports)
        for sequence in 3..<700 {
            let report = await reports.next()
            #expect(
                report
                    == .batch(
                        topic: "kv@a@m", sequence: UInt64(sequence),
                        payload: [UInt8(sequence & 255)]))
        }
        #expect(await reports.next() == .finished)
        try await harness.finish()
    }

    @Test func replayHoldsOnlyTheLastBatches() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let publisher = try await harness.publisher(
            "tcp://lo:*", replay: "tcp://lo:*", bufferedBatchCount: 3)
        try await harness.publish((0..<5).map { [$0] })
        let endpoint = try #require(publisher.replayEndpoint)
        try await harness.replay(endpoint, from: 0, into: reports)
        for sequence: UInt8 in 2..<5 {
            #expect(
                await reports.next()
                    == .batch(topic: "kv@a@m", sequence: UInt64(sequence), payload: [sequence]))
        }
        #expect(await reports.next() == .finished)
        // Past the end there is nothing, which is not an error.
        try await harness.replay(endpoint, from: 5, into: reports)
        #expect(await reports.next() == .finished)
        try await harness.finish()
    }

    @Test func replayHoldsNoMoreBytesThanAllowed() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let publisher = try await harness.publisher(
            "tcp://lo:*", replay: "tcp://lo:*", bufferedBatchCount: 4, bufferedByteCount: 100)
        let endpoint = try #require(publisher.replayEndpoint)
        // Ten times round the ring; 100 bytes are what the last two batches take, and then less.
        let payloads = (0..<40).map { [UInt8](repeating: UInt8($0), count: 50) } + [[1], [2]]
        try await harness.publish(payloads)
        try await harness.replay(endpoint, from: 0, into: reports)
        for sequence in 39..<42 {
            #expect(
                await reports.next()
                    == .batch(
                        topic: "kv@a@m", sequence: UInt64(sequence), payload: payloads[sequence]))
        }
        #expect(await reports.next() == .finished)
        // A batch that is larger than all that may be kept is kept alone.
        try await harness.publish([[UInt8](repeating: 7, count: 200)])
        try await harness.replay(endpoint, from: 0, into: reports)
        #expect(await reports.next()?.sequence == 42)
        #expect(await reports.next() == .finished)
        try await harness.finish()
    }

    /// Frames captured from the publisher of vLLM 0.33.0 (reference vectors).
    @Test func replayFramesAreThoseOfVLLM() async throws {
        let topic = "kv@10.0.0.7:8000@m"
        let harness = try LoopHarness()
        var reports = Reports()
        let publisher = try await harness.publisher(
            "tcp://lo:*", replay: "tcp://lo:*", topic: topic)
        try await harness.publish([[0xa0], [0xa1], [0xa2]])
        try await harness.rawSocket(
            .dealer, connectTo: publisher.replayEndpoint, as: "dealer", into: reports)
        // A request with another number of frames is ignored.
        try await harness.send([[], [], hexBytes("0000000000000000")], on: "dealer")
        try await harness.send([[], hexBytes("0000000000000001")], on: "dealer")
        let topicBytes = hexBytes("6b764031302e302e302e373a38303030406d")
        #expect(
            await reports.next() == .frames([[], topicBytes, hexBytes("0000000000000001"), [0xa1]]))
        #expect(
            await reports.next() == .frames([[], topicBytes, hexBytes("0000000000000002"), [0xa2]]))
        #expect(await reports.next() == .frames([[], [], hexBytes("ffffffffffffffff"), []]))
        try await harness.finish()
    }

    /// Frames captured from the publisher of vLLM 0.23.0: no topic.
    @Test func oldReplayFramingIsUnderstood() async throws {
        let endpoint = ipcEndpoint()
        let harness = try LoopHarness()
        let requests = Reports()
        try await harness.rawSocket(.router, bindTo: endpoint, as: "router", into: requests) {
            request in
            [
                [request[0], [], hexBytes("0000000000000001"), [0xb1]],
                [request[0], [], hexBytes("0000000000000002"), [0xb2]],
                [request[0], [], hexBytes("ffffffffffffffff"), []],
            ]
        }
        var reports = Reports()
        try await harness.replay(endpoint, from: 1, into: reports)
        #expect(await reports.next() == .batch(topic: "", sequence: 1, payload: [0xb1]))
        #expect(await reports.next() == .batch(topic: "", sequence: 2, payload: [0xb2]))
        #expect(await reports.next() == .finished)
        try await harness.finish()
    }

    @Test func malformedReplyFailsTheReplay() async throws {
        let endpoint = ipcEndpoint()
        let harness = try LoopHarness()
        try await harness.rawSocket(.router, bindTo: endpoint, as: "router", into: Reports()) {
            [[$0[0], [], [1, 2, 3], [0xb1]]]
        }
        var reports = Reports()
        try await harness.replay(endpoint, from: 1, into: reports)
        #expect(
            await reports.next() == .failed(.malformedReply(endpoint: endpoint, frameCount: 3)))
        try await harness.finish()
    }

    @Test func silentReplayEndpointTimesOut() async throws {
        let endpoint = ipcEndpoint()
        let harness = try LoopHarness()
        var reports = Reports()
        try await harness.replay(
            endpoint, from: 0, idleTimeout: .milliseconds(30), into: reports)
        #expect(
            await reports.next() == .failed(.replayTimedOut(endpoint: endpoint, seconds: 0.03)))
        try await harness.finish()
    }

    @Test func enginesConnectToABoundSubscriber() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let endpoint = try await harness.subscriber(.bind("tcp://lo:*"), into: reports)
        for name in ["a", "b"] {
            // Without `*` the publisher connects.
            let publisher = try await harness.publisher(endpoint, topic: "kv@\(name)@m", as: name)
            #expect(publisher.endpoint == endpoint)
            try await harness.settle(&reports, publisher: name)
            try await harness.publish([Array(name.utf8)], on: name)
            let report = try #require(await reports.next { $0.payload == Array(name.utf8) })
            guard case .batch(let topic, _, _) = report else { continue }
            #expect(topic == "kv@\(name)@m")
        }
        try await harness.finish()
    }

    @Test func otherTopicsAreFilteredOut() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let endpoint = try await harness.subscriber(
            .bind("tcp://lo:*"), topicPrefix: "kv@", into: reports)
        _ = try await harness.publisher(endpoint, topic: "other", as: "other")
        _ = try await harness.publisher(endpoint, topic: "kv@a@m", as: "publisher")
        try await harness.settle(&reports)
        try await harness.publish([[1]], on: "other")
        try await harness.publish([[2]])
        let report = await reports.next { $0.payload != Array("settle".utf8) && $0.payload != nil }
        #expect(report?.payload == [2])
        try await harness.finish()
    }

    @Test func restartedPublisherIsFoundAgain() async throws {
        let endpoint = ipcEndpoint()
        let harness = try LoopHarness()
        var reports = Reports()
        _ = try await harness.publisher(endpoint)
        try await harness.subscriber(.connect(endpoint), into: reports)
        #expect(await reports.next { $0 == .connected } != nil)
        try await harness.settle(&reports)
        try await harness.stopPublisher()
        #expect(await reports.next { $0 == .disconnected } != nil)
        _ = try await harness.publisher(endpoint)
        #expect(await reports.next { $0 == .connected } != nil)
        try await harness.settle(&reports)
        try await harness.publish([[7]])
        let report = try #require(await reports.next { $0.payload == [7] })
        // Numbers start again from 0 in each process.
        #expect(try #require(report.sequence) < 1000)
        try await harness.finish()
    }

    @Test func messagesOfOtherShapesAreReported() async throws {
        let harness = try LoopHarness()
        var reports = Reports()
        let endpoint = try await harness.subscriber(.bind("tcp://lo:*"), into: reports)
        _ = try await harness.publisher(endpoint)
        try await harness.settle(&reports)
        try await harness.rawSocket(.pub, connectTo: endpoint, as: "raw", into: Reports())
        // Sent until the subscription has reached the socket.
        let ticker = Task {
            while !Task.isCancelled {
                try await harness.send([[1], [2, 3]], on: "raw")
                try await harness.send([[1], [2], [3], [4], [5], [6], [7]], on: "raw")
                try await Task.sleep(for: .milliseconds(5))
            }
        }
        #expect(await reports.next { $0 == .malformed(2) } != nil)
        #expect(await reports.next { $0 == .malformed(7) } != nil)
        ticker.cancel()
        _ = await ticker.result
        try await harness.publish([[9]])
        #expect(await reports.next { $0.payload == [9] } != nil)
        try await harness.finish()
    }

    @Test func badEndpointsAreTypedErrors() async throws {
        let harness = try LoopHarness()
        await #expect(
            throws: MessagingError.invalidEndpoint("nonsense", reason: "Invalid argument")
        ) {
            try await harness.subscriber(.connect("nonsense"), into: Reports())
        }
        let taken = ipcEndpoint()
        _ = try await harness.publisher("tcp://lo:*")
        try await harness.subscriber(.bind(taken), into: Reports())
        let bound = try await harness.subscriber(.bind("tcp://lo:*"), into: Reports(), as: "second")
        await #expect(throws: MessagingError.addressInUse(bound)) {
            try await harness.subscriber(.bind(bound), into: Reports())
        }
        try await harness.finish()
    }
}
