import Core
import Hashing
import KVIndex
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry
import Testing

/// What comes of a prompt must not depend on how its body came.
@Suite struct PromptFollowingTests {
    private static let blockSize = 16
    private static let approximate = "approx-prefix-cache-producer"
    private static let precise = "precise-prefix-cache-producer"

    private func router(_ witness: Witness, _ producers: [String]) throws -> Router {
        let pool = EndpointPool()
        pool.update([server("a", 1, role: .both), server("b", 2, role: .both)])
        var registry = PluginRegistry.standard
        registry.register("witness") { _ in witness }
        PrecisePrefixCacheProducer.register(in: &registry) {
            (configuration) throws(KVIndexError) in try KVIndex(configuration: configuration)
        }
        return Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins:
                    - {type: random-picker}
                    \(producers.map { "- {type: \($0)}" }.joined(separator: "\n"))
                    - {type: witness}
                    """, file: "t.yaml", registry: registry),
            metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "t"))
    }

    /// A body in pieces; the last step.
    private func send(
        _ body: String, to router: Router, path: String, target: String? = nil,
        pieces nextPiece: () -> Int
    ) -> Step {
        let session = RequestSession(
            router: router, method: "POST", path: path[...],
            headers: Headers(values: target.map { ["x-llm-d-model-name-rewrite": $0] } ?? [:]))
        _ = session.begin(endOfBody: false)
        var rest = Array(body.utf8)[...]
        while !rest.isEmpty {
            let piece = rest.prefix(nextPiece())
            rest = rest.dropFirst(piece.count)
            let step = piece.withUnsafeBytes { session.received($0) }
            if case .more = step { continue }
            return step
        }
        return session.receivedEnd()
    }

    @Test(arguments: [[approximate, "burst-prefix-cache-producer"], [approximate, precise]])
    func keysAreThoseOfTheWholePrompt(_ producers: [String]) throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("PromptFollowingTests seed \(seed)")
        var random = RandomSource(seed: seed)
        let witness = Witness()
        let router = try router(witness, producers)
        var counts: [String: Int] = [:]
        // The first request tells what the size of blocks is.
        _ = send(#"{"model":"m","prompt":[1]}"#, to: router, path: "/v1/completions") { 8 }
        for _ in 0..<120 {
            let body = Body(withText: !producers.contains(Self.precise), from: &random)
            let limit = [40, 3000, 20_000, 100_000].randomElement(using: &random) ?? 1
            let step = send(body.text, to: router, path: body.path, target: body.header) {
                Int.random(in: 1...limit, using: &random)
            }
            _ = try #require(step.decision, "seed \(seed)")
            let seen = try #require(witness.take(), "seed \(seed)")
            #expect(seen.tokens == body.tokens, "seed \(seed)")
            #expect(seen.text == body.promptText, "seed \(seed)")
            #expect(seen.promptTokenCount == body.promptTokenCount, "seed \(seed)")

            var prefix = try ApproximatePrefix(blockSize: 64, maximumBlocks: 2048)
            prefix.append(body.tokens.span)
            prefix.append(text: Array((body.promptText ?? "").utf8).span)
            let approximate = prefix.keys(model: body.target, cacheSalt: body.salt ?? "")
            #expect(seen.keys[Self.approximate] == approximate, "seed \(seed)")
            if let burst = seen.keys["burst-prefix-cache-producer"] {
                #expect(burst == approximate, "seed \(seed)")
            }
            if let precise = seen.keys[Self.precise] {
                let hasher = try RequestKeyHasher(
                    algorithm: .xxh64, model: body.target, blockSize: Self.blockSize)
                let salted = hasher.extraKeys(body.salt.map { [$0] } ?? [])
                let expected = hasher.keys(of: body.tokens.span) {
                    $0 == 0 && body.salt != nil ? salted : .none
                }
                #expect(precise == expected, "seed \(seed)")
            }
            let wasFollowed = seen.followed.contains(producers[1])
            #expect(!wasFollowed || seen.followed.contains(Self.approximate), "seed \(seed)")
            #expect(!body.isInOrder || wasFollowed, "seed \(seed): \(body.text.prefix(200))")
            counts[wasFollowed ? "followed" : "not", default: 0] += 1
        }
        #expect(counts.count == 2, "\(counts), seed \(seed)")
    }

    /// Keys of blocks of another size are of no use.
    @Test func aChangeOfBlockSizeIsSeen() throws {
        let witness = Witness()
        let router = try router(witness, [Self.approximate])
        let ids = Array(0..<8000 as Range<UInt32>)
        let body = #"{"model":"m","prompt":[\#(ids.map(String.init).joined(separator: ","))]}"#
        for blockSize in [nil, 128, 128, 256] {
            var load = ServerLoad()
            load.blockSize = blockSize
            for member in router.pool.snapshot.members {
                member.scraped(.load(load), at: .now)
            }
            let step = send(body, to: router, path: "/v1/completions") { 1000 }
            _ = try #require(step.decision)
            let seen = try #require(witness.take())
            var prefix = try ApproximatePrefix(blockSize: blockSize ?? 64, maximumBlocks: 2048)
            prefix.append(ids.span)
            #expect(seen.keys[Self.approximate] == prefix.keys(model: "m"))
        }
    }

    @Test(arguments: ["-1", "4294967296", "1.5", "[2]", "\"a\"", "null"])
    func whatIsNoTokenIDIsRefusedAsEver(_ last: String) throws {
        let witness = Witness()
        let router = try router(witness, [Self.approximate, Self.precise])
        let ids = (0..<8000).map(String.init).joined(separator: ",")
        let body = #"{"model":"m","prompt":[\#(ids),"#
        let step = send(body + last + "]}", to: router, path: "/v1/completions") { 5000 }
        let error = try #require(step.error)
        #expect(error.status == 400)
        #expect(
            error.message == "The prompt is no list of token ids: expected an integer between 0 "
                + "and 4294967295 at byte \(body.utf8.count).")
    }

    /// Another decision about a prompt that was followed.
    @Test func keysCanBeAskedForAgain() throws {
        let witness = Witness()
        let router = try router(witness, [Self.approximate, Self.precise])
        _ = send(#"{"model":"m","prompt":[1]}"#, to: router, path: "/v1/completions") { 8 }
        let ids = (0..<8000).map(String.init).joined(separator: ",")
        let session = RequestSession(
            router: router, method: "POST", path: "/v1/completions", headers: Headers())
        _ = session.begin(endOfBody: false)
        _ = session.feed(#"{"model":"m","prompt":[\#(ids)]}"#)
        _ = try #require(session.receivedEnd().decision)
        let first = try #require(witness.take())
        _ = try #require(session.endpointFailed().decision)
        #expect(try #require(witness.take()).keys == first.keys)
        #expect(first.keys.count == 2 && first.followed.count == 2)
    }
}

/// A body whose members stand in any order.
private struct Body {
    let path: String
    let text: String
    /// The header that names the target, if one does.
    let header: String?
    let target: String
    let salt: String?
    var tokens: [UInt32] = []
    var promptText: String?
    /// Whether all that keys depend on comes in the order in which it is needed.
    let isInOrder: Bool

    var promptTokenCount: Int {
        promptText.map { $0.utf8.count / 4 } ?? tokens.count
    }

    init(withText: Bool, from random: inout RandomSource) {
        var members: [(key: String, value: String)] = [
            ("max_tokens", "5"), ("temperature", " 0.5"), ("stop", "null"),
            ("x", #"{"prompt":"no","messages":[[1,2,3]],"model":"no","cache_salt":"no"}"#),
        ]
        func isLucky(_ part: Double) -> Bool { Double.random(in: 0..<1, using: &random) < part }
        members.append(("model", #""m""#))
        if isLucky(0.1) { members.insert(("model", #""other""#), at: 0) }
        salt = isLucky(0.4) ? "salt é" : nil
        if salt != nil { members.append(("cache_salt", #""salt \u00e9""#)) }
        let isChat = withText && isLucky(0.5)
        path = isChat ? "/v1/chat/completions" : "/v1/completions"
        var names = ["prompt"]
        var texts: [String: String] = [:]
        if isChat {
            names = ["tools", "messages"]
            texts["messages"] = Self.words(20_000, &random)
            if isLucky(0.5) { texts["tools"] = Self.words(3000, &random) }
            for (name, text) in texts {
                members.append((name, #"[{"role":"user","content":"\#(text)"}]"#))
            }
        } else if withText, isLucky(0.5) {
            texts["prompt"] = Self.words(20_000, &random)
            let isList = isLucky(0.3)
            let string = "\"\(texts["prompt"] ?? "")\""
            members.append(("prompt", isList ? "[ \(string), \"b\"]" : string))
        } else {
            tokens = (0..<Int.random(in: 8000...16_000, using: &random)).map { _ in
                UInt32.random(in: 0 ... .max, using: &random)
                    >> UInt32.random(in: 0..<32, using: &random)
            }
            let comma = [",", ", ", " ,\n "].randomElement(using: &random) ?? ","
            let ids = "[" + tokens.map(String.init).joined(separator: comma) + "]"
            members.append(("prompt", isLucky(0.2) ? "[\(ids),[1]]" : ids))
        }
        members.shuffle(using: &random)
        let order = members.map(\.key)
        let model = members.last { $0.key == "model" }?.value == #""m""# ? "m" : "other"
        header = isLucky(0.2) ? "t" : nil
        target = header ?? model
        text =
            "{" + members.map { "\"\($0.key)\" : \($0.value)" }.joined(separator: ",") + "}"
        if !texts.isEmpty {
            let parts = names.compactMap { texts[$0] }
            promptText =
                isChat
                ? parts.map { #"{"role":"user","content":"\#($0)"}"# }.joined() : parts[0]
        }
        let prompt = order.filter(names.contains)
        let start = order.firstIndex(where: names.contains) ?? 0
        let isKnown = !order[start...].contains { ["model", "cache_salt"].contains($0) }
        isInOrder = prompt == names.filter(order.contains) && (!texts.isEmpty || isKnown)
    }

    private static func words(_ count: Int, _ random: inout RandomSource) -> String {
        let words = ["word ", "é", "\\n", "\\u00e9", "\\ud83d\\ude00", "\\\"", "[1,2],", "{", "😀"]
        var text = ""
        while text.utf8.count < count { text += words.randomElement(using: &random) ?? "" }
        return text
    }
}

/// Sees what the producers before it made of a request.
private final class Witness: DataProducer {
    struct Seen: Sendable {
        var tokens: [UInt32]
        var text: String?
        var promptTokenCount: Int
        var keys: [String: [UInt64]]
        /// The producers that did something while the body came.
        var followed: Set<String>
    }

    let name = PluginName(type: "witness")
    private let seen = Mutex<Seen?>(nil)

    func take() -> Seen? {
        seen.withLock { seen in
            defer { seen = nil }
            return seen
        }
    }

    func produce(into context: inout SchedulingContext) {
        let request = context.request
        let matches = context.prefixMatches.filter { $0.totalBlocks > 0 }
        let new = Seen(
            tokens: request.tokens, text: request.promptText?.string,
            promptTokenCount: request.promptTokenCount,
            keys: Dictionary(uniqueKeysWithValues: matches.map { ($0.producer, $0.requestKeys) }),
            followed: Set(
                ["approx", "burst", "precise"].map { "\($0)-prefix-cache-producer" }
                    .filter { request.promptWork(of: $0) != nil }))
        seen.withLock { $0 = new }
    }
}
