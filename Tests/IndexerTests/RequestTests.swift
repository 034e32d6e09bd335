import Core
import Indexer
import KVIndex
import Net
import Scan
import Testing

@Suite struct RequestTests {
    @Test func readsAQuery() throws {
        let full = try query(
            """
            {"model": "base", "token_ids": [1, 4294967295], "block_size": 4, "tenant_id": "t",
             "instance_id": "i", "lora_name": "l", "cache_salt": "s"}
            """)
        #expect(full.model == "base")
        #expect(full.tokens == [1, 4_294_967_295])
        #expect(full.tenant == "t")
        #expect(full.instance == "i")
        #expect(full.adapter == "l")
        #expect(full.cacheSalt == "s")

        let short = try query(
            """
            {"model": "base", "token_ids": [], "block_size": 4, "tenant_id": "",
             "instance_id": null, "lora_name": "", "cache_salt": null}
            """)
        #expect(short.tokens.isEmpty)
        #expect(short.tenant == "default")
        #expect(short.instance == nil)
        #expect(short.adapter == nil)
        #expect(short.cacheSalt == nil)
    }

    @Test(
        arguments: [
            ("[]", "invalid_json", nil, nil),
            (
                #"{"model":"m","token_ids":[1],"block_size":4,"lora_id":1}"#, "unknown_field",
                "lora_id", nil
            ),
            (#"{"token_ids":[1],"block_size":4}"#, "missing", "model", nil),
            (#"{"model":"","token_ids":[1],"block_size":4}"#, "invalid_value", "model", nil),
            (#"{"model":7,"token_ids":[1],"block_size":4}"#, "invalid_type", "model", nil),
            (#"{"model":"m","block_size":4}"#, "missing", "token_ids", nil),
            (#"{"model":"m","token_ids":"1","block_size":4}"#, "invalid_type", "token_ids", nil),
            (#"{"model":"m","token_ids":[1,2,-3],"block_size":4}"#, "out_of_range", "token_ids", 2),
            (
                #"{"model":"m","token_ids":[4294967296],"block_size":4}"#, "out_of_range",
                "token_ids", 0
            ),
            (#"{"model":"m","token_ids":[1,1.5],"block_size":4}"#, "out_of_range", "token_ids", 1),
            (#"{"model":"m","token_ids":[1]}"#, "missing", "block_size", nil),
            (#"{"model":"m","token_ids":[1],"block_size":0}"#, "out_of_range", "block_size", nil),
            (#"{"model":"m","token_ids":[1],"block_size":"4"}"#, "invalid_type", "block_size", nil),
            (#"{"model":"m","token_ids":[1],"block_size":16}"#, "unsupported", "block_size", nil),
            (
                #"{"model":"m","token_ids":[1],"block_size":4,"cache_salt":1}"#, "invalid_type",
                "cache_salt", nil
            ),
            (
                #"{"model":"m","token_ids":[1],"block_size":4,"tenant_id":[]}"#, "invalid_type",
                "tenant_id", nil
            ),
        ] as [(String, String, String?, Int?)])
    func refusesAQuery(json: String, reason: String, field: String?, index: Int?) throws {
        let thrown = #expect(throws: IndexerError.self) { try query(json) }
        #expect(thrown?.reason.rawValue == reason)
        #expect(thrown?.field == field)
        #expect(thrown?.index == index)
        #expect(thrown?.status == 400)
        let body = try document(String(decoding: thrown?.body ?? [], as: UTF8.self))
        #expect(body["error"]?.string == thrown?.message)
        #expect(body["reason"]?.string == reason)
        #expect(body["field"]?.string == field)
        #expect(body["index"]?.int == index)
    }

    @Test func readsARegistration() throws {
        let registration = try EngineRegistration(
            try document(
                """
                {"endpoint": "tcp://10.1.2.3:5557", "replay_endpoint": "tcp://10.1.2.3:5558",
                 "type": "vLLM", "modelname": "base", "lora_name": "", "tenant_id": "t",
                 "instance_id": "i", "block_size": 4, "dp_rank": 3, "cache_group": null,
                 "additionalsalt": "", "hash_profile": {"strategy": "vllm_v1"}}
                """), blockSize: 4)
        #expect(registration.events == SocketAddress(host: "10.1.2.3", port: 5557))
        #expect(registration.replayEndpoint == "tcp://10.1.2.3:5558")
        #expect(registration.model == "base")
        #expect(registration.tenant == "t")
        #expect(registration.instance == "i")
        #expect(registration.rank == 3)
    }

    @Test(arguments: [
        ("\"endpoint\": \"ipc:///run/x\"", "invalid_value", "endpoint"),
        ("\"endpoint\": \"tcp://*:5557\"", "invalid_value", "endpoint"),
        ("\"endpoint\": \"tcp://a\"", "invalid_value", "endpoint"),
        ("\"replay_endpoint\": \"a:1\"", "invalid_value", "replay_endpoint"),
        ("\"type\": \"Mooncake\"", "unsupported", "type"),
        ("\"block_size\": 16", "unsupported", "block_size"),
        ("\"cache_group\": 1", "out_of_range", "cache_group"),
        ("\"dp_rank\": -1", "out_of_range", "dp_rank"),
        ("\"additionalsalt\": \"w8a8\"", "unsupported", "additionalsalt"),
        ("\"hash_profile\": 1", "invalid_type", "hash_profile"),
        ("\"instance_id\": \"\"", "invalid_value", "instance_id"),
        ("\"modelname\": null", "invalid_type", "modelname"),
    ])
    func refusesARegistration(member: String, reason: String, field: String) throws {
        // Of duplicate members the last one counts.
        let json = """
            {"endpoint": "tcp://a:1", "modelname": "m", "instance_id": "i", "block_size": 4,
             \(member)}
            """
        let thrown = #expect(throws: IndexerError.self) {
            try EngineRegistration(try document(json), blockSize: 4)
        }
        #expect(thrown?.reason.rawValue == reason)
        #expect(thrown?.field == field)
    }

    @Test func readsPodScoresRequests() throws {
        // Fields of other messages, of every wire type, are passed over.
        let message =
            field(1, "ünï") + [0x20, 0x01] + field(3, "a") + field(2, "m") + field(3, "b")
            + [0x29, 0, 0, 0, 0, 0, 0, 0, 0] + [0x35, 0, 0, 0, 0] + field(9, "more")
        let request = try message.withUnsafeBytes { try PodScoresRequest(decoding: $0) }
        #expect(request.prompt == "ünï")
        #expect(request.model == "m")
        #expect(request.pods == ["a", "b"])
    }

    @Test(
        arguments: [
            [0x0A, 0x05, 0x61], [0x08, 0x01], [0x0A, 0x01, 0xFF], [0x0B], [0x00],
            [0x1A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
        ] as [[UInt8]])
    func refusesMessages(message: [UInt8]) {
        #expect(throws: ProtobufError.self) {
            try message.withUnsafeBytes { try PodScoresRequest(decoding: $0) }
        }
    }

    @Test func readsTierWeights() throws {
        let weights = try #require(TierWeights(parsing: "cpu=0.5,disk=0"))
        #expect(weights == TierWeights(gpu: 1, cpu: 0.5, disk: 0, remote: 0.4))
        for wrong in ["", "gpu", "gpu=2", "gpu=-1", "gpu=x", "tpu=1", "gpu=1,gpu=1", "gpu=nan"] {
            #expect(TierWeights(parsing: wrong) == nil, "\(wrong)")
        }
    }
}
