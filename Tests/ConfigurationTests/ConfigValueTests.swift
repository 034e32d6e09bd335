import Configuration
import Testing

@Suite struct ConfigValueTests {
    private func read<Result>(
        _ text: String, _ body: (inout ConfigSection) throws(ConfigError) -> Result
    ) throws(ConfigError) -> Result {
        try ConfigValue(parsing: text, file: "x.yaml").section(body)
    }

    private func failure(
        _ text: String, _ body: (inout ConfigSection) throws(ConfigError) -> Void
    ) -> String? {
        do {
            try read(text, body)
            return nil
        } catch {
            return error.description
        }
    }

    @Test func readsTypedValues() throws {
        try read(
            """
            name: a
            count: 3
            ratio: 0.5
            on: true
            wait: 1m30s
            labels: {x: y, n: "1"}
            list: [1, 2]
            """
        ) { (section) throws(ConfigError) in
            #expect(try section.required("name").string() == "a")
            #expect(try section.required("count").integer(in: 1...3) == 3)
            #expect(try section.required("ratio").number() == 0.5)
            #expect(try section.required("on").boolean())
            #expect(try section.required("wait").duration() == .seconds(90))
            #expect(try section.required("labels").strings() == ["x": "y", "n": "1"])
            #expect(try section.required("list").list().count == 2)
            #expect(section.optional("absent") == nil)
        }
    }

    @Test func unknownKeyNamesLineAndNearest() {
        let message = failure("a: 1\nwieght: 2\n") { (section) throws(ConfigError) in
            _ = section.optional("a")
            _ = section.optional("weight")
        }
        #expect(message == "x.yaml:2: wieght is not known; did you mean 'weight'?")
    }

    @Test func unknownKeyFarFromAllListsThem() {
        let message = failure("zzzzzzzz: 1") { (section) throws(ConfigError) in
            _ = section.optional("b")
            _ = section.optional("a")
        }
        #expect(message == "x.yaml:1: zzzzzzzz is not known; valid are a, b")
    }

    @Test(arguments: [
        ("n: x", "x.yaml:1: n must be a whole number"),
        ("n: 9", "x.yaml:1: n must be from 0 to 5, not 9"),
        ("n:\n  - 1", "x.yaml:2: n must be a whole number"),
        ("m: 1", "x.yaml:1: the document needs a 'n'"),
        ("n: [", "x.yaml:2: is not YAML: did not find expected node content"),
        ("n: 1\nn: 2", "x.yaml:1: has a key twice: n"),
        ("", "x.yaml: is empty"),
    ])
    func wrongValuesSayWhere(text: String, expected: String) {
        let message = failure(text) { (section) throws(ConfigError) in
            _ = try section.required("n").integer(in: 0...5)
        }
        #expect(message == expected)
    }

    @Test(arguments: [
        ("", nil), ("5", nil), ("5x", nil), ("200ms", 200_000_000), ("1.5s", 1_500_000_000),
    ])
    func goDurations(text: String, nanoseconds: Int64?) {
        #expect(Duration(goText: text) == nanoseconds.map { .nanoseconds($0) })
    }
}
