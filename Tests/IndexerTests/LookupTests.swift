import Core
import Hashing
import Indexer
import KVIndex
import Testing

private let prompt: [UInt32] = Array(100..<124)

@Suite struct LookupTests {
    @Test func scoresAreSumsOfWeights() throws {
        let shelf = try Shelf("full", "mixed", "gap", "none")
        try shelf.store(prompt, at: "full")
        try shelf.store(prompt, blocks: 0..<2, at: "mixed")
        try shelf.store(prompt, blocks: 2..<3, in: .cpu, at: "mixed")
        try shelf.store(prompt, blocks: 3..<4, in: .disk, at: "mixed")
        try shelf.store(prompt, blocks: 0..<1, at: "gap")
        try shelf.store(prompt, blocks: 2..<6, at: "gap")

        // The tail of 3 tokens is no block.
        let scores = shelf.lookup().scores(of: prompt + [1, 2, 3], model: "m", pods: [])
        #expect(scores.map(\.pod) == ["full", "mixed", "gap"])
        #expect(scores.map(\.score) == [6, 2 + 0.8 + 0.6, 1])

        let weights = TierWeights(gpu: 1, cpu: 0.5, disk: 0.25, remote: 0)
        let weighted = shelf.lookup(weights).scores(of: prompt, model: "m", pods: ["mixed"])
        #expect(weighted.map(\.score) == [2.75])
        #expect(shelf.lookup().scores(of: prompt, model: "other", pods: []).isEmpty)
        #expect(shelf.lookup().scores(of: [], model: "m", pods: []).isEmpty)
    }

    @Test func lookupsAreToldToWhoAsksOthers() throws {
        let shelf = try Shelf("a")
        shelf.index.recentLookups.open {}
        _ = shelf.lookup().scores(of: prompt, model: "m", pods: [])
        #expect(
            shelf.index.recentLookups.take()
                == [shelf.index.hasher(model: "m").keys(of: prompt.span)])
    }

    @Test func podsAreFoundByNameAndAddress() throws {
        let shelf = try Shelf("a", "b@dp0", "b@dp1")
        for name in ["a", "b@dp0", "b@dp1"] { try shelf.store(prompt, at: name) }
        func pods(_ names: String...) -> [String] {
            shelf.lookup().scores(of: prompt, model: "m", pods: names).map {
                $0.pod + ($0.rank.map { " \($0)" } ?? "")
            }
        }
        #expect(pods() == ["a", "b 0", "b 1"])
        #expect(pods("a") == ["a"])
        #expect(pods("10.0.0.1:8000") == ["10.0.0.1:8000"])
        #expect(pods("b") == ["b 0", "b 1"])
        #expect(pods("b@dp1", "nobody") == ["b@dp1 1"])
        #expect(pods("nobody", "10.0.0.9:8000") == [])
    }

    @Test func ranksBehindOneAddressAreRanksOfOneInstance() throws {
        let shelf = try Shelf()
        shelf.engines.setPool([
            ModelServer(
                name: "b", address: SocketAddress(host: "10.0.0.2", port: 8000),
                dataParallelSize: 2)
        ])
        try shelf.store(prompt, blocks: 0..<2, at: "b")
        _ = try shelf.index.register("b@dp1", rank: 1, of: "b")
        try shelf.store(prompt, blocks: 0..<3, at: "b@dp1")
        func pods(_ names: String...) -> [String] {
            shelf.lookup().scores(of: prompt, model: "m", pods: names).map {
                "\($0.pod) \($0.rank ?? -1) \($0.score)"
            }
        }
        #expect(pods() == ["b 1 3.0", "b 0 2.0"])
        #expect(pods("b@dp0") == ["b@dp0 0 2.0"])
        #expect(pods("b@dp1") == ["b@dp1 1 3.0"])
        #expect(pods("10.0.0.2:8000") == ["10.0.0.2:8000 1 3.0", "10.0.0.2:8000 0 2.0"])
        // One that nobody declared.
        _ = try shelf.index.register("b@dp7", rank: 7, of: "b")
        let matches = shelf.lookup().matches(
            for: try query(#"{"model":"m","block_size":4,"token_ids":\#(prompt)}"#))
        #expect(matches.map(\.instance) == ["b"])
        #expect(matches[0].ranks.map(\.rank) == [0, 1, 7])
        #expect(matches[0].ranks.map(\.gpuTokens) == [8, 12, 0])
        #expect(matches[0].tokens == 12)
    }

    @Test func queriesCountTokensByMedium() throws {
        let shelf = try Shelf("a@dp0", "a@dp1", "b")
        try shelf.store(prompt, blocks: 0..<2, at: "a@dp0")
        try shelf.store(prompt, blocks: 2..<5, in: .cpu, at: "a@dp0")
        try shelf.store(prompt, blocks: 0..<3, at: "a@dp1")
        try shelf.store(prompt, blocks: 3..<6, in: .remote, at: "a@dp1")
        let matches = shelf.lookup().matches(
            for: try query(#"{"model":"m","block_size":4,"token_ids":\#(prompt)}"#))
        #expect(matches.map(\.instance) == ["a", "b"])
        #expect(matches[0].ranks.map(\.rank) == [0, 1])
        #expect(matches[0].ranks.map(\.gpuTokens) == [8, 12])
        #expect([matches[0].gpuTokens, matches[0].cpuTokens, matches[0].tokens] == [12, 20, 24])
        #expect(matches[1].ranks.map(\.gpuTokens) == [0])
        #expect([matches[1].gpuTokens, matches[1].cpuTokens, matches[1].tokens] == [0, 0, 0])
    }

    @Test func adapterAndSaltArePartOfTheKeys() throws {
        let shelf = try Shelf("a")
        try shelf.store(prompt, blocks: 0..<1, at: "a")
        try shelf.store(prompt, blocks: 0..<2, at: "a", model: "adapter")
        try shelf.store(prompt, blocks: 0..<3, at: "a", salt: "s")
        func matched(_ members: String) throws -> [Int] {
            shelf.lookup().matches(
                for: try query(
                    #"{"model":"m","block_size":4,"token_ids":\#(prompt)\#(members)}"#)
            ).map(\.tokens)
        }
        #expect(try matched("") == [4])
        #expect(try matched(#","lora_name":"adapter""#) == [8])
        #expect(try matched(#","cache_salt":"s""#) == [12])
        #expect(try matched(#","cache_salt":"other""#) == [0])
    }

    @Test func queriesSeeTheirTenantsEngines() throws {
        let shelf = try Shelf("pooled")
        try shelf.engines.register(try registration("mine", tenant: "t", model: "m"))
        try shelf.engines.register(try registration("other", tenant: "t", model: "n"))
        try shelf.store(prompt, at: "mine@dp0")
        func instances(_ members: String) throws -> [String] {
            shelf.lookup().matches(
                for: try query(
                    #"{"model":"m","block_size":4,"token_ids":\#(prompt)\#(members)}"#)
            ).map { "\($0.instance) \($0.tokens)" }
        }
        #expect(try instances("") == ["pooled 0"])
        #expect(try instances(#","tenant_id":"t""#) == ["mine 24"])
        #expect(try instances(#","tenant_id":"t","instance_id":"mine""#) == ["mine 24"])
        #expect(try instances(#","tenant_id":"t","instance_id":"pooled""#) == [])
        #expect(try instances(#","tenant_id":"u""#) == [])
    }

    @Test func anEngineThatComesBackIsFoundUnderItsNewHandle() throws {
        let shelf = try Shelf("a", "b")
        let lookup = shelf.lookup()
        func scores() -> [String] { lookup.scores(of: prompt, model: "m", pods: []).map(\.pod) }
        try shelf.store(prompt, at: "a")
        #expect(scores() == ["a"])
        // As an event source does when an engine moved: the directory does not change.
        shelf.index.remove(try #require(shelf.index.endpoint(named: "a")))
        #expect(scores() == [])
        _ = try shelf.index.register("x")
        try shelf.store(prompt, at: "x")
        #expect(scores() == [])
        _ = try shelf.index.register("a")
        try shelf.store(prompt, at: "a")
        #expect(scores() == ["a"])
    }
}

@Suite struct DirectoryTests {
    @Test func enginesComeAndGo() throws {
        let shelf = try Shelf("pooled")
        let first = try registration("i", rank: 0)
        try shelf.engines.register(first)
        try shelf.engines.register(try registration("i", rank: 1))
        try shelf.engines.register(first)
        #expect(shelf.published.list.map(\.name) == ["pooled", "i@dp0", "i@dp1"])
        let server = shelf.published.list[1]
        #expect(server.eventsEndpoint == "tcp://10.9.9.9:5557")
        #expect(server.eventsModel == "m")

        #expect(try shelf.engines.unregister(try unregistration("i", rank: 1)) == ["i|default|1"])
        #expect(shelf.published.list.map(\.name) == ["pooled", "i@dp0"])
        try shelf.engines.register(try registration("i", rank: 1))
        #expect(
            try shelf.engines.unregister(try unregistration("i")) == ["i|default|0", "i|default|1"])
        #expect(shelf.published.list.map(\.name) == ["pooled"])
    }

    @Test func wrongRegistrationsAreRefused() throws {
        let shelf = try Shelf("pooled", "pool@dp0", maximumRegistrations: 2)
        try shelf.engines.register(try registration("i"))
        func reason(_ body: () throws -> Void) -> String? {
            #expect(throws: IndexerError.self, performing: body)?.reason.rawValue
        }
        #expect(
            reason { try shelf.engines.register(try registration("i", model: "n")) }
                == "invalid_registration")
        #expect(
            reason { try shelf.engines.register(try registration("i", rank: 1, tenant: "t")) }
                == "invalid_registration")
        for name in ["pooled", "pool"] {
            #expect(
                reason { try shelf.engines.register(try registration(name)) }
                    == "invalid_registration")
        }
        try shelf.engines.register(try registration("j"))
        #expect(
            reason { try shelf.engines.register(try registration("k")) } == "too_many_registrations"
        )
        for request in try [
            unregistration("k"), unregistration("i", rank: 1), unregistration("i", tenant: "t"),
            unregistration("pooled"),
        ] {
            #expect(reason { _ = try shelf.engines.unregister(request) } == "not_found")
        }
        #expect(shelf.published.list.count == 4)
    }

    @Test func aPoolKeepsRegisteredEngines() throws {
        let shelf = try Shelf()
        try shelf.engines.register(try registration("i"))
        let address = SocketAddress(host: "10.0.0.1", port: 1)
        shelf.engines.setPool([ModelServer(name: "a", address: address)])
        #expect(shelf.published.list.map(\.name) == ["a", "i@dp0"])
        // What is configured later has the name.
        shelf.engines.setPool([ModelServer(name: "i", address: address)])
        #expect(shelf.published.list.map(\.name) == ["i"])
        shelf.engines.setPool([])
        #expect(shelf.published.list.map(\.name) == ["i@dp0"])
    }
}

private func registration(
    _ instance: String, rank: Int = 0, tenant: String = "default", model: String = "m"
) throws -> EngineRegistration {
    try EngineRegistration(
        document(
            """
            {"endpoint": "tcp://10.9.9.9:5557", "modelname": "\(model)", "block_size": 4,
             "instance_id": "\(instance)", "dp_rank": \(rank), "tenant_id": "\(tenant)"}
            """), blockSize: 4)
}

private func unregistration(
    _ instance: String, rank: Int? = nil, tenant: String = "default"
) throws -> EngineUnregistration {
    let rank = rank.map { "\($0)" } ?? "null"
    return try EngineUnregistration(
        document(
            #"{"instance_id":"\#(instance)","dp_rank":\#(rank),"tenant_id":"\#(tenant)"}"#))
}
