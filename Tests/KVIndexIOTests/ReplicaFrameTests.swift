import Core
import KVIndexIO
import Testing

@Suite struct ReplicaFrameTests {
    private static let frames: [ReplicaFrame] = [
        .greeting(
            ReplicaGreeting(
                router: 7, epoch: 9, maximumFrameBytes: 65536,
                keys: ReplicaKeys(algorithm: "xxh64", blockSize: 16, seed: "s"))),
        .heartbeat,
        .follow(number: 3, endpoint: "decode-0", epoch: 9, position: 1 << 41),
        .unfollow(number: 3),
        .offer(endpoint: "decode-0", isOffered: true),
        .offer(endpoint: "", isOffered: false),
        .begin(number: 3, position: 5),
        .blocks(number: 3, blocks(0..<100) + blocks(7..<9, .remote)),
        .end(number: 3, position: 6),
        .changes(
            number: 3, position: 9,
            [.stored(blocks(1..<2)[0]), .cleared, .removed(blocks(2..<3, .disk)[0])]),
        .load(
            LoadReport(
                sequence: 7, floor: 3,
                endpoints: [
                    EndpointInFlight(
                        name: "decode-0",
                        load: InFlightLoad(requests: 3, prefillTokens: 70_000, outputTokens: 9)),
                    EndpointInFlight(name: "", load: .none),
                ],
                services: [
                    AttainedService(
                        flow: FlowID(fairnessID: "team", priority: -1), tokens: 0.75,
                        halfLifeSeconds: 60)
                ])),
    ]

    private func decode(_ bytes: [UInt8]) throws -> ReplicaFrame {
        try bytes.withUnsafeBytes { try ReplicaFrame(decoding: $0) }
    }

    @Test(arguments: frames) func comesBackAsItWas(_ frame: ReplicaFrame) throws {
        #expect(try decode(frame.encoded) == frame)
    }

    @Test(arguments: frames) func everyCutIsAnError(_ frame: ReplicaFrame) throws {
        let bytes = frame.encoded
        for count in 0..<bytes.count {
            let decoded = try? decode(Array(bytes[..<count]))
            // Blocks and changes may be any number.
            switch (frame, decoded) {
            case (_, nil), (.blocks, .blocks), (.changes, .changes), (.load, .load): break
            default: Issue.record("\(frame) cut to \(count) bytes")
            }
        }
    }

    private static func zeros(_ count: Int) -> [UInt8] { Array(repeating: 0, count: count) }

    @Test(arguments: [
        ([], "ends inside the kind"), ([99], "no kind 99"), ([2, 0], "1 bytes too many"),
        ([1, 0, 2, 0], "version 2"), ([4, 0, 0], "ends inside the number"),
        ([5, 2, 0, 0], "is offered: 2"), ([5, 1, 0, 1, 0xff], "not UTF-8"),
        ([5, 1, 0xff, 0xff], "has 65535 bytes"),
        ([7, 0, 0, 0, 1] + Array(repeating: 9, count: 17), "tier"),
        ([9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4], "no change 4"),
        ([10] + zeros(16) + [3], "no entry 3"),
        ([10] + zeros(16) + [1] + zeros(4) + [1] + zeros(17), "the prompt tokens are 72"),
        ([10] + zeros(16) + [2] + zeros(8) + [0xff, 0xf0] + zeros(16), "the service is -inf"),
        ([10] + zeros(16) + [2] + zeros(26), "the half-life is 0"),
    ])
    func tellsWhatIsWrong(_ bytes: [UInt8], _ part: String) {
        #expect {
            try decode(bytes)
        } throws: { error in
            "\(error)".contains(part)
        }
    }

    /// Whatever is decoded is no larger than what came, and encodes to the same bytes.
    @Test func hostileBytesDoNoHarm() {
        let seed = UInt64.random(in: 0 ... .max)
        var random = SeededGenerator(seed)
        var decodedCount = 0
        for _ in 0..<30_000 {
            var bytes: [UInt8]
            if Bool.random(using: &random) {
                bytes = Self.frames.randomElement(using: &random)?.encoded ?? []
                for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
                    let place = Int.random(in: 0..<bytes.count, using: &random)
                    switch Int.random(in: 0..<4, using: &random) {
                    case 0: bytes[place] = .random(in: 0 ... .max, using: &random)
                    case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
                    case 2: bytes.remove(at: place)
                    default: bytes.insert(.random(in: 0 ... .max, using: &random), at: place)
                    }
                }
            } else {
                bytes = (0..<Int.random(in: 0..<300, using: &random)).map { _ in
                    .random(in: 0 ... .max, using: &random)
                }
                if !bytes.isEmpty { bytes[0] %= 11 }
            }
            guard let frame = try? decode(bytes) else { continue }
            decodedCount += 1
            #expect(frame.encoded == bytes, "seed \(seed)")
        }
        #expect(decodedCount > 1000, "seed \(seed)")
    }
}
